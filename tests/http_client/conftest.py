"""The clock of the HTTP client's tests: virtual time beside real sockets."""

from __future__ import annotations

import pytest
from trio.testing import MockClock


@pytest.fixture
def clock() -> MockClock:
    """Virtual time beside real sockets.

    It jumps only after 30 ms in which no task could run, so that bytes on the loopback are never mistaken for
    idleness.
    """
    return MockClock(autojump_threshold=0.03)
