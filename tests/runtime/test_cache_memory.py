"""The memory that the caches of a process take: no more than they report, and no growth with every answer."""

import gc
import os
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from trio.testing import MockClock

from bench.harness.resource_usage import pss
from eventstore import EventStore, StoreOptions
from eventstore.memory_backend import MemoryBackend
from server.providers import Prompt
from server.runtime import state_cache
from server.runtime.conversation_service import ConversationService, open_conversation_service
from server.runtime.generation_index import GenerationIndex
from server.runtime.stream_drain import StreamDrain
from server.wire_formats import encode_event
from tests.generations.fake_upstream import FakeUpstream, FakeUpstreams

from .runtime_process import ask

KEPT, PAST, TAILS, PLACES = 300_000, 100_000, 500_000, 100
TOKENS = 40


@pytest.fixture
def traced() -> Iterator[None]:
    """Traces memory allocation. It is slow, so only the tests that need it use it."""
    tracemalloc.start()
    yield
    tracemalloc.stop()


class PromptlessUpstream(FakeUpstream):
    """A fake upstream that keeps no prompts, so that it does not grow itself."""

    def open(self, prompt: Prompt) -> Any:
        """Answers, and forgets what it was asked."""
        self.asked.clear()
        return super().open(prompt)


def traced_bytes() -> int:
    """The bytes that Python objects take."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


@asynccontextmanager
async def serving(log: MemoryBackend, tails: int) -> AsyncIterator[ConversationService]:
    """A process with small tails."""
    upstreams = FakeUpstreams(fake=PromptlessUpstream(tuple(f"word{n} " for n in range(TOKENS))))
    options = StoreOptions(tail_total_bytes=tails)
    async with EventStore(log.process(), options).open() as store:
        async with open_conversation_service(store, upstreams, StreamDrain(10, None), max_runs=100) as runtime:
            yield runtime


async def run_one_answer(runtime: ConversationService, log: MemoryBackend, told: list[Any]) -> None:
    """Runs an answer, reads it with one cut and reconnect, and polls it. Then it leaves the log and `told`."""
    conversation, generation = await ask(runtime)
    await runtime.place(generation)
    for after in (0, 20):
        with runtime.store.subscribe(conversation, after) as subscription:
            ended = False
            while not ended:
                for event in await subscription.next():
                    encode_event(event)
                    ended = ended or event.type == "generation.completed"
    _, found, _ = await runtime.look(generation)
    assert await runtime.ended_by(generation, found.position)
    await runtime.states.at(conversation, 10)
    log.streams.clear()
    log.keys.clear()
    told.clear()


@pytest.mark.usefixtures("traced")
async def test_full_caches_do_not_grow(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, lines: list[Any]
) -> None:
    """After the caches are full, four hundred more answers take no more memory."""
    monkeypatch.setattr(state_cache, "KEPT_BYTES", KEPT)
    monkeypatch.setattr(state_cache, "PAST_BYTES", PAST)
    log = MemoryBackend()
    async with serving(log, TAILS) as runtime:
        runtime.generations = GenerationIndex(runtime.store, PLACES)
        for _ in range(200):
            await run_one_answer(runtime, log, lines)
        before = traced_bytes()
        for _ in range(400):
            await run_one_answer(runtime, log, lines)
        assert traced_bytes() - before < 60_000
        assert runtime.states.size <= KEPT + PAST
        assert runtime.store.stats().tail_bytes <= TAILS
        assert len(runtime.generations) == PLACES
        assert len(runtime.store.wakeups) == 0
        assert runtime.supervisor.runs == {}


@pytest.mark.usefixtures("traced")
async def test_reported_cache_size_is_within_a_quarter_of_the_real_one(
    autojump_clock: MockClock, lines: list[Any]
) -> None:
    """For states and tails, as a serving process fills them."""
    log = MemoryBackend()
    async with serving(log, 10**9) as runtime:
        for _ in range(20):
            await run_one_answer(runtime, log, lines)
        before = traced_bytes(), runtime.states.size, runtime.store.stats().tail_bytes
        for _ in range(60):
            await run_one_answer(runtime, log, lines)
        after = traced_bytes(), runtime.states.size, runtime.store.stats().tail_bytes
        states, tails = after[1] - before[1], after[2] - before[2]
        places = 60 * 400
        assert states > 60 * 2_000
        assert tails > 60 * TOKENS * 300
        assert (after[0] - before[0]) == pytest.approx(states + tails + places, rel=0.25)


@pytest.mark.soak
async def test_resident_memory_levels_off(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, lines: list[Any]
) -> None:
    """As the system counts it, with the allocator's fragmentation.

    Three thousand answers after the first thousand.
    """
    monkeypatch.setattr(state_cache, "KEPT_BYTES", KEPT)
    monkeypatch.setattr(state_cache, "PAST_BYTES", PAST)
    log = MemoryBackend()
    async with serving(log, TAILS) as runtime:
        runtime.generations = GenerationIndex(runtime.store, PLACES)
        for _ in range(1_000):
            await run_one_answer(runtime, log, lines)
        gc.collect()
        before = pss(os.getpid())
        for _ in range(3_000):
            await run_one_answer(runtime, log, lines)
        gc.collect()
        assert pss(os.getpid()) - before < 2 * 1024 * 1024
