"""Captures the log lines of these tests: formatting a traceback to the terminal is slow."""

from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs


@pytest.fixture(autouse=True)
def lines() -> Iterator[list[MutableMapping[str, Any]]]:
    """The lines logged so far."""
    with capture_logs([merge_contextvars]) as lines:
        yield lines
