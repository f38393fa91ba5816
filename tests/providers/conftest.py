"""Fixtures of the providers' tests: a fake provider in the test's process, and each provider in turn."""

from __future__ import annotations

import pytest
import trio

from tests.http_client.conftest import clock

from .fake_provider import FakeProvider

__all__ = ["clock", "fake", "provider"]


@pytest.fixture
async def fake(nursery: trio.Nursery) -> FakeProvider:
    fake = await FakeProvider.listen()
    nursery.start_soon(fake.serve)
    return fake


@pytest.fixture(params=["openai", "anthropic"])
def provider(request: pytest.FixtureRequest) -> str:
    """Each provider in turn: every test with it runs for both."""
    return str(request.param)
