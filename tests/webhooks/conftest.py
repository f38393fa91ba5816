"""Captures the log lines of these tests, and fails a test whose lines hold a webhook's URL or secret."""

from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from .webhook_process import PATH_SECRET, SECRET


@pytest.fixture(autouse=True)
def lines() -> Iterator[list[MutableMapping[str, Any]]]:
    """The lines logged so far."""
    with capture_logs([merge_contextvars]) as lines:
        yield lines
    for line in lines:
        assert PATH_SECRET not in repr(line)
        assert SECRET not in repr(line)
