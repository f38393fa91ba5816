"""Conversation states in the past: what the cache holds, what a look near the last one costs, and its memory
bound.
"""

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from eventstore import Append, EventStore, StoreError
from eventstore.backend import Backend, ReadQuery
from eventstore.memory_backend import MemoryBackend
from eventstore.model import Slice, Snapshot
from server import event_types
from server.conversations.conversation_state import Conversation
from server.conversations.fold import fold
from server.conversations.stored_state import FORM
from server.runtime.past_states import MAX_STATES, PastStates
from server.runtime.state_cache import StateCache
from tests.conversations.event_builders import requested, rows, said, started
from tests.generations.unreliable_logs import Wrapped

from .runtime_process import folded

C = "conv_1"
LENGTH = 12_000
LONG = rows([event_types.conversation_started("T", None), *(said(f"m{n}", "x" * 100) for n in range(400))])


class CountingBackend(Wrapped):
    """Counts the events that were read and the snapshots that were loaded."""

    def __init__(self, inside: Backend) -> None:
        super().__init__(inside)
        self.events = self.loaded = 0

    async def read(self, queries: Sequence[ReadQuery]) -> Sequence[Slice | StoreError | None]:
        found = await super().read(queries)
        self.events += sum(len(part.events) for part in found if isinstance(part, Slice))
        return found

    async def load_snapshot(self, stream: str, name: str, at_most: int) -> Snapshot | None:
        self.loaded += 1
        return await super().load_snapshot(stream, name, at_most)


async def append_long_conversation(log: MemoryBackend, length: int = LENGTH) -> None:
    """Appends a long conversation with stored snapshots."""
    async with EventStore(log.process()).open() as store, trio.open_nursery() as nursery:
        states = StateCache(store, nursery)
        opening = (
            event_types.conversation_started("T", None),
            said("m1", "hi"),
            requested("gen_1"),
            started("gen_1"),
        )
        await store.append(Append(C, opening))
        for number in range((length - 4) // 249 + 1):
            tokens = [event_types.token("gen_1", f"{number}.{n} ") for n in range(248)]
            await store.append(Append(C, (said(f"m{number}", "x"), *tokens)))
            await states.latest(C)
        await trio.sleep(1)


async def test_looks_near_each_other_read_few_events(autojump_clock: MockClock) -> None:
    """The first look reads from the stored snapshot on; the next looks near it read 500 events at most."""
    log = MemoryBackend()
    await append_long_conversation(log)
    view = CountingBackend(log.process())
    async with EventStore(view).open() as store, trio.open_nursery() as nursery:
        states = StateCache(store, nursery)
        assert await states.at(C, 9_900) == folded(log, C, 9_900)
        assert view.loaded == 1
        first, view.events = view.events, 0
        assert first <= LENGTH // 8 + 500
        await states.at(C, 9_900)
        assert view.events == 0
        stored = max(at for at in log.streams[C].snapshots[FORM] if at <= 9_900)
        assert stored < 9_100
        for position in (9_901, 9_910, 9_890, 9_400, 9_100, 9_700, stored, stored + 1):
            view.events = 0
            assert await states.at(C, position) == folded(log, C, position)
            assert view.events <= 500
        assert view.loaded == 1


async def test_concurrent_looks_at_one_position_read_once(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    await append_long_conversation(log, 5_000)
    view = CountingBackend(log.process())
    found: list[Conversation] = []
    async with EventStore(view).open() as store, trio.open_nursery() as nursery:
        states = StateCache(store, nursery)

        async def look() -> None:
            found.append(await states.at(C, 4_900))

        async with trio.open_nursery() as lookers:
            for _ in range(200):
                lookers.start_soon(look)
    assert view.loaded == 1
    assert view.events <= 4_900 // 8 + 500
    assert all(one is found[0] for one in found)


async def test_cancelled_look_leaves_the_others_their_answer(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    await append_long_conversation(log, 5_000)
    async with EventStore(log.process()).open() as store, trio.open_nursery() as nursery:
        states = StateCache(store, nursery)
        found: list[Conversation] = []

        async def look() -> None:
            found.append(await states.at(C, 4_900))

        async with trio.open_nursery() as lookers:
            with trio.CancelScope() as scope:
                lookers.start_soon(look)
                scope.cancel()
                await states.at(C, 4_900)
        assert found == [folded(log, C, 4_900)]
        assert len(states._locks) == 0


async def test_command_answer_needs_no_second_read(autojump_clock: MockClock) -> None:
    """Also when a poller has meanwhile moved the cached state on."""
    log = MemoryBackend()
    await append_long_conversation(log, 5_000)
    view = CountingBackend(log.process())
    async with EventStore(view).open() as store, trio.open_nursery() as nursery:
        states = StateCache(store, nursery)
        decided = await states.latest(C)
        new = (said("m", "a command"),)
        appended = await store.append(Append(C, new))
        await store.append(Append(C, (event_types.token("gen_1", "more"),)))
        assert (await states.latest(C)).position == appended.last + 1
        view.events = view.loaded = 0
        states.follow(decided, new, appended)
        assert await states.at(C, appended.last) == folded(log, C, appended.last)
        assert (view.events, view.loaded) == (0, 0)


async def test_command_answer_folds_events_that_came_between(autojump_clock: MockClock) -> None:
    """The events between the decision and its own append are folded from the deciding state on."""
    log = MemoryBackend()
    await append_long_conversation(log, 5_000)
    view = CountingBackend(log.process())
    async with EventStore(view).open() as store, trio.open_nursery() as nursery:
        states = StateCache(store, nursery)
        decided = await states.latest(C)
        await store.append(Append(C, (event_types.token("gen_1", "between"),)))
        new = (said("m", "a command"),)
        appended = await store.append(Append(C, new))
        await store.append(Append(C, (event_types.token("gen_1", "behind"),)))
        await states.latest(C)
        view.events = view.loaded = 0
        states.follow(decided, new, appended)
        assert await states.at(C, appended.last) == folded(log, C, appended.last)
        assert (view.events, view.loaded) == (0, 0)


@pytest.fixture
def states() -> list[Conversation]:
    """The states of one conversation at positions 0, 1, 2 and so on, each made from the one before."""
    states = [Conversation(C)]
    for event in LONG:
        states.append(fold(states[-1], [event]))
    return states


def test_nearest_earlier_state_is_found(states: list[Conversation]) -> None:
    past = PastStates(10**9)
    assert past.nearest(C, 5) is None
    for position in (10, 3, 20):
        past.add(states[position])
    for position, nearest in ((2, None), (3, 3), (9, 3), (10, 10), (19, 10), (300, 20)):
        found = past.nearest(C, position)
        assert (found.position if found else None) == nearest
    assert past.nearest("conv_2", 5) is None
    past.forget(C)
    assert past.nearest(C, 300) is None
    assert past.size == 0


def test_states_of_one_history_share_their_size(states: list[Conversation]) -> None:
    past = PastStates(10**9)
    for state in states[200:300]:
        past.add(state)
    assert past.size < states[299].size + 100 * 2_000
    for state in states:
        past.add(state)
    assert len(next(iter(past._groups.values())).states) <= MAX_STATES


def test_least_recently_used_history_is_evicted(states: list[Conversation]) -> None:
    past = PastStates(3 * states[400].size + 10_000)
    for name in "abcd":
        past.add(fold(Conversation(name), LONG))
        past.nearest("a", 10**6)
    assert [past.nearest(name, 10**6) is not None for name in "abcd"] == [True, False, True, True]
    assert past.size <= 3 * states[400].size + 10_000
