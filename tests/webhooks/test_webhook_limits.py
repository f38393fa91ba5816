"""Webhooks of one tenant, or to one receiver, leave places for those of all others."""

import math
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.problem import Problem
from server.webhooks.retry_schedule import TryPlaces
from server.webhooks.webhook_events import stream_of

from .webhook_process import GENERATION, OPTIONS, PLAIN_URL, process


@pytest.mark.parametrize(
    ("tries", "most"),
    [
        ([("acme", "one.example")] * 40, 10),  # to one host
        ([("acme", f"{number}.example") for number in range(60)], 25),  # of one tenant
        ([(f"t{number}", f"{number}.example") for number in range(90)], 50),  # all together
        ([("acme", "one.example")] * 40 + [("rival", "two.example")] * 40, 20),
    ],
)
async def test_tries_at_once(tries: list[tuple[str, str]], most: int, autojump_clock: MockClock) -> None:
    places, under_way, seen = TryPlaces(OPTIONS), 0, []

    async def attempt(tenant: str, host: str) -> None:
        nonlocal under_way
        async with places.place(tenant, host):
            under_way += 1
            seen.append(under_way)
            await trio.sleep(1)
            under_way -= 1

    async with trio.open_nursery() as nursery:
        for one in tries:
            nursery.start_soon(attempt, *one)
    assert max(seen) == most
    assert len(seen) == len(tries)
    assert trio.current_time() <= math.ceil(len(tries) / most) + 1
    assert not places._some


async def test_open_webhooks_of_a_tenant(autojump_clock: MockClock) -> None:
    options = replace(OPTIONS, most_open=2)
    async with process(MemoryBackend().process(), options=options) as here:
        for number in range(2):
            await here.webhooks.register(f"gen_{number}", f"conv_{number}", PLAIN_URL, "acme")
        with pytest.raises(Problem, match="2 webhooks that wait") as refusal:
            await here.webhooks.register("gen_2", "conv_2", PLAIN_URL, "acme")
        assert (refusal.value.status, refusal.value.code) == (429, "rate_limited")
        await here.webhooks.register("gen_3", "conv_3", PLAIN_URL, "rival")
        await here.webhooks.abandon("gen_0")
        await here.webhooks.register("gen_4", "conv_4", PLAIN_URL, "acme")


async def test_the_tenant_is_in_the_log_unless_it_is_the_default(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with process(log.process()) as here:
        await here.webhooks.register(GENERATION, "conv_1", PLAIN_URL)
        await here.webhooks.register("gen_2", "conv_2", PLAIN_URL, "acme")
        events = [(await here.store.read(stream_of(one))).events[0].data for one in (GENERATION, "gen_2")]
    assert ['"tenant":"acme"' in data.replace(" ", "") for data in events] == [False, True]
