"""The index of generations: where each one stands and whether it has ended, right at every position and mostly
without a fold.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
import trio
from trio.testing import MockClock

from eventstore import Append, EventStore, Key, Place, StoreUnavailable, Writer
from eventstore.backend import Backend
from eventstore.memory_backend import MemoryBackend
from server import event_types
from server.conversations import idempotency_keys
from server.event_types import TERMINAL
from server.ids import new_id
from server.problem import Problem
from server.runtime.generation_index import GenerationIndex
from tests.conversations.event_builders import cancelled, completed, requested, said, started
from tests.generations.unreliable_logs import Wrapped, events_of

from .runtime_process import ask, process

T = TypeVar("T")
CONVERSATION, FIRST, SECOND = new_id("conv"), new_id("gen"), new_id("gen")


class CountingBackend(Wrapped):
    """Counts the calls that were made for readers."""

    def __init__(self, inside: Backend) -> None:
        super().__init__(inside)
        self.calls: list[str] = []

    async def around(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        if name in ("find_key", "read", "heads", "writer", "load_snapshot"):
            self.calls.append(name)
        return await super().around(name, call)


async def append_three_generations(log: MemoryBackend, *, by_whom: str = "itself") -> None:
    """Appends two answers with a message after each, and a third that has not ended."""
    async with EventStore(log.process()).open() as store:
        await store.append(Append(CONVERSATION, (event_types.conversation_started(None, None), said("m1", "hi"))))
        for name, end in ((FIRST, completed(FIRST)), (SECOND, cancelled(SECOND))):
            claim = (Key(idempotency_keys.GENERATION, name),)
            await store.append(Append(CONVERSATION, (requested(name),), writer=Writer(name, 1, 1), keys=claim))
            told = (started(name), *(event_types.token(name, text) for text in "abc"))
            await store.append(Append(CONVERSATION, told, writer=Writer(name, 1, 2)))
            if by_whom == "itself":
                await store.append(Append(CONVERSATION, (end,), writer=Writer(name, 1, 3), closes=name))
            else:
                await store.append(Append(CONVERSATION, (end,), closes=name))
            await store.append(Append(CONVERSATION, (said("m2", "and?"), said("m3", "hm"))))


def has_ended(log: MemoryBackend, generation: str, position: int) -> bool:
    """Whether the log has the end of the generation at or before the position."""
    return any(
        event.tag == generation and event.type in TERMINAL and event.position <= position
        for event in events_of(log, CONVERSATION)
    )


@pytest.mark.parametrize("by_whom", ["itself", "somebody else"])
@pytest.mark.parametrize("warm", ["cold", "warm", "known end"])
async def test_ended_is_right_at_every_position(autojump_clock: MockClock, warm: str, by_whom: str) -> None:
    log = MemoryBackend()
    await append_three_generations(log, by_whom=by_whom)
    head = log.streams[CONVERSATION].head
    for position in range(1, head + 1):
        async with process(log.process()) as here:
            for name in (FIRST, SECOND):
                if warm != "cold":
                    await here.look(name)
                if warm == "known end":
                    assert here.ended_at(name) is not None
                assert await here.ended_by(name, position) == has_ended(log, name, position)
                end = here.ended_at(name)
                assert end is None or (has_ended(log, name, end) and not has_ended(log, name, end - 1))


async def test_resuming_reader_needs_no_fold(autojump_clock: MockClock) -> None:
    """At the generation's own events, the terminal one included, one look at that event tells.

    For an open one its writer tells.
    """
    log = MemoryBackend()
    await append_three_generations(log)
    view = CountingBackend(log.process())
    async with process(view) as here:
        for event in events_of(log, CONVERSATION):
            if event.tag == FIRST:
                assert await here.ended_by(FIRST, event.position) == (event.type in TERMINAL)
        assert set(view.calls) == {"find_key", "read"}
        assert view.calls.count("find_key") == 1
        view.calls.clear()
        assert here.ended_at(FIRST) == 8
        for position in range(1, log.streams[CONVERSATION].head + 1):
            assert await here.ended_by(FIRST, position) == (position >= 8)
        assert view.calls == []


async def test_running_generation_is_found_by_its_writer(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    await append_three_generations(log)
    third = new_id("gen")
    async with EventStore(log.process()).open() as store:
        claim = (Key(idempotency_keys.GENERATION, third),)
        await store.append(Append(CONVERSATION, (requested(third),), writer=Writer(third, 1, 1), keys=claim))
        await store.append(Append(CONVERSATION, (started(third),), writer=Writer(third, 1, 2)))
        await store.append(Append(CONVERSATION, (said("m4", "a person's"),)))
        view = CountingBackend(log.process())
        async with process(view) as here:
            assert not await here.ended_by(third, log.streams[CONVERSATION].head)
            assert view.calls == ["find_key", "read", "writer"]


async def test_concurrent_lookups_share_one_query(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    await append_three_generations(log)
    view = CountingBackend(log.process())
    found: list[Place] = []
    async with process(view) as here:

        async def look() -> None:
            found.append(await here.place(FIRST))

        async with trio.open_nursery() as nursery:
            for _ in range(500):
                nursery.start_soon(look)
        assert view.calls == ["find_key"]
    assert found == [Place(CONVERSATION, 3, 3, found[0].digest)] * 500


async def test_unknown_generation_is_looked_up_every_time(autojump_clock: MockClock) -> None:
    """It may have begun since: "unknown" is never the answer of a lookup made before the question."""
    view = CountingBackend(MemoryBackend().process())
    async with process(view) as here:
        for _ in range(3):
            with pytest.raises(Problem, match="generation"):
                await here.place(FIRST)
        assert view.calls == ["find_key"] * 3
        assert len(here.generations) == 0


async def test_index_keeps_the_most_recently_used(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with process(log.process()) as here:
        runs = [(await ask(here))[1] for _ in range(4)]
        places = GenerationIndex(here.store, 3)
        for run in runs[:3]:
            assert await places.find(run) is not None
        places.ended(runs[0], 9)
        places.ended(runs[1], 9)
        place = await places.find(runs[0])
        assert place is not None
        places.remember(runs[0], place)  # is there already: nobody has to go
        assert len(places) == 3
        assert await places.find(runs[3]) is not None
        log.available = False
        assert [places.known(run) is not None for run in runs] == [True, False, True, True]
        assert [places.end(run) for run in runs] == [9, None, None, None]
        places.ended(runs[1], 9)
        assert places.end(runs[1]) is None, "nothing is kept of one whose place is not"
        with pytest.raises(StoreUnavailable):
            await places.find(runs[1])


async def test_concurrent_lookups_wait_out_an_outage_together(autojump_clock: MockClock) -> None:
    """Not one after the other, each for its full time limit."""
    log = MemoryBackend()
    async with process(log.process(), patience=10) as here:
        conversation, generation = await ask(here)
        here.generations = GenerationIndex(here.store)
        here.states.forget(conversation)
        log.available = False
        waited: list[float] = []

        async def look(what: Callable[[str], Awaitable[object]], name: str) -> None:
            began = trio.current_time()
            with pytest.raises(StoreUnavailable):
                await what(name)
            waited.append(trio.current_time() - began)

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(look, here.place, generation)
                nursery.start_soon(look, here.conversation, conversation)
        assert len(waited) == 40
        assert max(waited) < 11
        log.available = True
        assert (await here.place(generation)).stream == conversation
        assert (await here.conversation(conversation)).id == conversation
