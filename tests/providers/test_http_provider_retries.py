"""Retries before the first token and never after it; against the fake, in virtual time."""

from __future__ import annotations

import json
import random

import pytest
import trio
from trio.testing import MockClock

from server.providers import OpenAISettings, RetryPolicy, Timeouts
from server.providers.openai import OpenAI

from .answer_reader import finish, prompt, provider_on, read_answer
from .fake_provider import FakeProvider
from .fake_wire_formats import words


@pytest.mark.parametrize(
    ("model", "requests"),
    [
        ("status-429-then-ok", 2),
        ("status-500-then-ok", 2),
        ("status-500-twice-then-ok", 3),
        ("status-503-twice-then-ok", 3),
        ("status-408-then-ok", 2),
        ("drop-then-ok", 2),
        ("stall-then-ok", 2),
    ],
)
async def test_temporary_failure_is_retried_with_the_same_request(
    fake: FakeProvider, clock: MockClock, model: str, requests: int
) -> None:
    seen = await read_answer(provider_on(fake, retry=RetryPolicy()), prompt(model))
    assert (seen.texts, seen.finish) == (words(3), finish(3))
    assert len(fake.log) == requests
    assert len({json.dumps(record.body) for record in fake.log}) == 1


@pytest.mark.parametrize(
    ("model", "requests"),
    [
        ("status-500", 4),
        ("status-429", 4),
        ("cut-after-0", 4),
        ("status-400", 1),
        ("status-401", 1),
        ("quota", 1),
        ("redirect", 1),
        ("malformed-after-0", 1),
        ("refused-object", 1),
        ("cut-after-1", 1),
        ("reset-after-1", 1),
        ("stall-after-1", 1),
        ("error-object", 1),
        ("silent", 2),  # one attempt more after a stall: it may have worked, for money
        ("stall-after-0", 2),
        # Ended after a minute of silence, by what sits between: it may have worked all the same.
        ("end-after-60", 2),
        ("status-504-after-60", 2),
        ("end-after-10", 4),
        ("status-504-after-10", 4),
        ("status-429-after-60", 4),  # it did not
    ],
)
async def test_number_of_requests_of_each_failure(
    fake: FakeProvider, clock: MockClock, model: str, requests: int
) -> None:
    start = trio.current_time()
    seen = await read_answer(provider_on(fake, retry=RetryPolicy()), prompt(model))
    assert seen.error is not None
    assert len(fake.log) == requests
    assert trio.current_time() - start < RetryPolicy().budget + 2 * Timeouts().idle


async def test_retry_after_is_respected(fake: FakeProvider, clock: MockClock) -> None:
    start = trio.current_time()
    await read_answer(provider_on(fake, retry=RetryPolicy(attempts=3)), prompt("status-429"))
    assert 2 <= trio.current_time() - start <= 3.1


async def test_refused_connection_is_retried(clock: MockClock) -> None:
    closed = await FakeProvider.listen()
    settings = OpenAISettings(base_url=closed.base_url)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(closed.serve)
        nursery.cancel_scope.cancel()
    start = trio.current_time()
    seen = await read_answer(OpenAI(settings, rng=random.Random(1)), prompt("ok-1"))
    assert seen.error is not None
    assert seen.error.code == "upstream_unavailable"
    assert 0.5 * 3.5 <= trio.current_time() - start <= 3.5


async def test_server_that_starts_late_is_found(
    fake: FakeProvider, nursery: trio.Nursery, clock: MockClock
) -> None:
    first = await FakeProvider.listen()
    async with trio.open_nursery() as inner:
        inner.start_soon(first.serve)
        inner.cancel_scope.cancel()

    async def come_up() -> None:
        await trio.sleep(0.4)
        late = await FakeProvider.listen(first.port)
        await late.serve()

    nursery.start_soon(come_up)
    seen = await read_answer(OpenAI(OpenAISettings(base_url=first.base_url)), prompt("ok-3"))
    assert seen.texts == words(3)
