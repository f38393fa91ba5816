"""Fixtures of the upstream room's tests: a fake provider in the test's own process, and a clock that jumps."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from .fake_openai import Fake


@pytest.fixture
async def fake(nursery: trio.Nursery) -> Fake:
    fake = await Fake.listen()
    nursery.start_soon(fake.serve)
    return fake


@pytest.fixture
def clock() -> MockClock:
    """Virtual time beside real sockets: it jumps only after 30 ms in which no task could run, so that bytes on the
    loopback are never mistaken for idleness."""
    return MockClock(autojump_threshold=0.03)


@pytest.fixture(params=["openai", "anthropic"])
def provider(request: pytest.FixtureRequest) -> str:
    """Each provider in turn: what holds for one holds for all."""
    return str(request.param)
