"""Fixtures for all runtime tests: log lines are captured, and adaptive batching never sees a busy CPU."""

from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from server.generations import token_pump


@pytest.fixture(autouse=True)
def lines() -> Iterator[list[MutableMapping[str, Any]]]:
    """The lines logged so far. Captured because formatting a traceback to the terminal is slow."""
    with capture_logs([merge_contextvars]) as lines:
        yield lines


@pytest.fixture(autouse=True)
def _enough_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes adaptive batching look at the CPU clock every ten seconds.

    In virtual time its figures mean nothing.
    """
    monkeypatch.setattr(token_pump, "SAMPLE_SECONDS", 10.0)
