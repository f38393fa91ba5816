"""Removes all settings of Tokentape and the providers from the environment of each test."""

import os

import pytest


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variables of Tokentape, and none of a provider."""
    for name in os.environ:
        if name.upper().startswith(("TOKENTAPE_", "OPENAI_", "ANTHROPIC_")):
            monkeypatch.delenv(name)
