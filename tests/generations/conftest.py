"""Log lines of these tests are caught: nobody reads them, and a crash's is dear to format."""

from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs


@pytest.fixture(autouse=True)
def lines() -> Iterator[list[MutableMapping[str, Any]]]:
    """What was logged so far."""
    with capture_logs([merge_contextvars]) as lines:
        yield lines
