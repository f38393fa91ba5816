"""An environment without settings, whatever the machine's own has."""

import os

import pytest


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of ours, none of a provider's."""
    for name in os.environ:
        if name.upper().startswith(("TOKENTAPE_", "OPENAI_", "ANTHROPIC_")):
            monkeypatch.delenv(name)
