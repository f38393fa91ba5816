"""Folds at hand: at the head and at every position, cold and warm, they say what the fold of the log says."""

import random
from collections.abc import Iterable, Sequence

import pytest
import trio
from trio.testing import MockClock

from eventstore import Append, Event, EventStore, StoreError
from eventstore.backend import Backend, ReadQuery
from eventstore.memory_backend import MemoryBackend
from eventstore.model import Head, Slice, Snapshot
from server import event_types
from server.conversations.conversation_state import Conversation
from server.conversations.fold import ConversationFold
from server.conversations.stored_state import FORM, to_stored
from server.problem import Problem
from server.runtime import state_cache as module
from server.runtime.state_cache import StateCache
from tests.conversations.event_builders import completed, requested, said, started
from tests.generations.wrapped_log import Slow, Wrapped, events_of

from .world import folded

C = "conv_1"


class Counting(Wrapped):
    """Notes how many events each read brought, and how much else was asked."""

    def __init__(self, inside: Backend) -> None:
        super().__init__(inside)
        self.brought: list[int] = []
        self.heads_read = 0
        self.loaded = 0

    async def heads(self, streams: Sequence[str]) -> Sequence[Head | StoreError | None]:
        self.heads_read += len(streams)
        return await super().heads(streams)

    async def load_snapshot(self, stream: str, name: str, at_most: int) -> Snapshot | None:
        self.loaded += 1
        return await super().load_snapshot(stream, name, at_most)

    async def read(self, queries: Sequence[ReadQuery]) -> Sequence[Slice | StoreError | None]:
        found = await super().read(queries)
        self.brought += [len(part.events) for part in found if isinstance(part, Slice)]
        return found


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of 7 and snapshots every 10, so that a short log has many of both."""
    monkeypatch.setattr(module, "PAGE", 7)
    monkeypatch.setattr(module, "STORE_EVERY", 10)


async def tell(store: EventStore, count: int, generation: str = "gen_1") -> None:
    """A conversation with one answer of `count` tokens, one append each."""
    opening = (
        event_types.conversation_started("T", None),
        said("m1", "hi"),
        requested(generation),
        started(generation),
    )
    await store.append(Append(C, opening))
    for number in range(count):
        await store.append(Append(C, (event_types.token(generation, f"{number} "),)))


async def more(store: EventStore, *texts: str) -> None:
    """More tokens of it, in one append."""
    await store.append(Append(C, tuple(event_types.token("gen_1", text) for text in texts)))


async def test_an_unknown_conversation(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    async with EventStore(MemoryBackend().process()).open() as store:
        with pytest.raises(Problem) as caught:
            await StateCache(store, nursery).latest(C)
    assert (caught.value.status, caught.value.code) == (404, "not_found")


async def test_cold_and_warm(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    log = MemoryBackend()
    async with EventStore(log.process()).open() as store:
        folds = StateCache(store, nursery)
        await tell(store, 20)
        assert await folds.latest(C) == folded(log, C)
        await more(store, "x", "y")
        assert await folds.latest(C) == folded(log, C)
        await store.append(Append(C, (completed("gen_1"),)))
        assert await folds.latest(C) == folded(log, C)


async def test_a_poll_costs_what_is_new_and_asks_the_primary_every_time(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    view = Counting(MemoryBackend().process())
    async with EventStore(view).open() as store:
        folds = StateCache(store, nursery)
        await tell(store, 20)
        for _ in range(3):
            await folds.latest(C)
        await more(store, "x", "y")
        await folds.latest(C)
    assert view.brought == [24, 0, 0]
    assert view.heads_read == 1, "what is new stands in the shared tail"
    assert view.loaded == 1


async def test_what_another_process_wrote_is_seen_at_the_next_look(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    log = MemoryBackend()
    async with EventStore(log.process()).open() as here, EventStore(log.process()).open() as there:
        await tell(here, 3)
        folds = StateCache(there, nursery)
        assert (await folds.latest(C)).position == 7
        await more(here, "x")
        assert (await folds.latest(C)).position == 8


@pytest.mark.usefixtures("small")
async def test_at_every_position(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """By a process that knows nothing, one that knows the head, and one that was asked for all in any order."""
    log = MemoryBackend()
    async with EventStore(log.process()).open() as store:
        writer = StateCache(store, nursery)
        await tell(store, 60)
        await writer.latest(C)
        await trio.sleep(1)
        assert log.streams[C].snapshots, "snapshots are to be part of this"
        positions = list(range(1, 65))
        random.Random(7).shuffle(positions)
        warm = StateCache(store, nursery)
        await warm.latest(C)
        for position in positions:
            expected = folded(log, C, position)
            assert await StateCache(store, nursery).at(C, position) == expected
            assert await warm.at(C, position) == expected
            assert await writer.at(C, position) == expected
        assert await warm.latest(C) == folded(log, C)


async def test_position_zero_is_before_everything(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    async with EventStore(MemoryBackend().process()).open() as store:
        await tell(store, 3)
        assert await StateCache(store, nursery).at(C, 0) == Conversation(C)


@pytest.mark.usefixtures("small")
async def test_many_pollers_at_once_while_the_log_grows(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Each sees a fold of some head at or behind the one of its asking, and never goes back."""
    log = MemoryBackend()
    async with EventStore(Slow(log.process(), 0.01, only=("read", "append", "load_snapshot"))).open() as store:
        folds = StateCache(store, nursery)
        await tell(store, 1)

        async def poll(pause: float) -> None:
            last = 0
            while last < 105:
                asked_at = log.streams[C].head
                state = await folds.latest(C)
                assert state.position >= max(asked_at, last)
                assert state == folded(log, C, state.position)
                last = state.position
                await trio.sleep(pause)

        async with trio.open_nursery() as pollers:
            for number in range(20):
                pollers.start_soon(poll, 0.003 * number)
            for number in range(50):
                await more(store, f"{number}a", f"{number}b")
                await trio.sleep(0.002)


async def test_what_is_forgotten_is_read_again(
    autojump_clock: MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More conversations than are kept at hand."""
    monkeypatch.setattr(module, "KEPT_BYTES", 10_000)
    log = MemoryBackend()
    view = Counting(log.process())
    async with EventStore(view).open() as store:
        folds = StateCache(store, nursery)
        names = [f"conv_{number}" for number in range(20)]
        for name in names:
            await store.append(Append(name, (event_types.conversation_started(name, None), said("m", "x"))))
        for name in [*names, *names, names[-1]]:
            assert await folds.latest(name) == folded(log, name)
    assert view.brought[:20] == [2] * 20
    assert view.brought[-21:] == [2] * 20 + [0]
    assert len(events_of(log, names[0])) == 2


async def test_many_readers_of_a_cold_conversation_load_and_fold_it_once(
    autojump_clock: MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 5,000 events behind a stored snapshot; each reader's own look at the head goes with all the others'."""
    log = MemoryBackend()
    async with EventStore(log.process()).open() as store:
        await tell(store, 1)
        await StateCache(store, nursery).latest(C)
        state = folded(log, C)
        await store.save_snapshot(C, FORM, Snapshot(state.position, to_stored(state)))
        for _ in range(50):
            await more(store, *("x" * 100))
    view = Counting(Slow(log.process(), 0.01, only=("read", "heads", "load_snapshot")))
    events_folded = 0
    add = ConversationFold.add

    def counted(folding: ConversationFold, some: Iterable[Event]) -> None:
        nonlocal events_folded
        listed = list(some)
        events_folded += len(listed)
        add(folding, listed)

    monkeypatch.setattr(ConversationFold, "add", counted)
    found: list[Conversation] = []
    async with EventStore(view).open() as store:
        states = StateCache(store, nursery)

        async def look() -> None:
            found.append(await states.latest(C))

        async with trio.open_nursery() as readers:
            for _ in range(500):
                readers.start_soon(look)
    assert view.loaded == 1
    assert sum(view.brought) == events_folded == 5_000
    assert len(view.brought) + view.heads_read <= 5, "three pages, and two looks at the head for all others"
    assert len(found) == 500
    assert all(one is found[0] for one in found)
    assert found[0] == folded(log, C)


async def test_readers_far_behind_catch_up_once(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Of a state that was kept when another process wrote much."""
    log = MemoryBackend()
    view = Counting(Slow(log.process(), 0.01, only=("read", "heads", "load_snapshot")))
    async with EventStore(log.process()).open() as there, EventStore(view).open() as here:
        await tell(there, 1)
        states = StateCache(here, nursery)
        await states.latest(C)
        for _ in range(50):
            await more(there, *("x" * 100))
        view.brought.clear()
        async with trio.open_nursery() as readers:
            for _ in range(500):
                readers.start_soon(states.latest, C)
        assert await states.latest(C) == folded(log, C)
    assert sum(view.brought) <= 5_000 + 256


@pytest.mark.parametrize("there", [True, False])
async def test_who_gives_up_leaves_the_others_their_answer(
    autojump_clock: MockClock, nursery: trio.Nursery, there: bool
) -> None:
    """The one that loads for all is cancelled in the middle: the next one does it."""
    log = MemoryBackend()
    async with EventStore(log.process()).open() as store:
        if there:
            await tell(store, 50)
    async with EventStore(Slow(log.process(), 1.0, only=("read", "load_snapshot"))).open() as store:
        states = StateCache(store, nursery)
        results: list[Conversation | Problem] = []

        async def look(patience: float) -> None:
            with trio.move_on_after(patience):
                try:
                    results.append(await states.latest(C))
                except Problem as problem:
                    results.append(problem)

        async with trio.open_nursery() as readers:
            for patience in (0.5, 1.5, 60, 60, 60):
                readers.start_soon(look, patience)
        assert len(results) == 3
        assert all(isinstance(one, Conversation) == there for one in results)
        assert len(states._locks) == 0


async def test_unknown_is_never_said_of_a_look_before_the_asking(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Who waits while another one looks in vain looks itself: the conversation may have begun meanwhile."""
    log = MemoryBackend()
    async with EventStore(Slow(log.process(), 1.0, only=("read", "load_snapshot"))).open() as store:
        states = StateCache(store, nursery)
        found: list[Conversation] = []

        async def early() -> None:
            with pytest.raises(Problem):
                await states.latest(C)

        async def late() -> None:
            found.append(await states.latest(C))

        async with trio.open_nursery() as readers:
            readers.start_soon(early)
            await trio.sleep(2.5)  # it has looked, and found nothing
            readers.start_soon(late)
            async with EventStore(log.process()).open() as other:
                await tell(other, 1)
        assert found == [folded(log, C)]


async def test_the_state_comes_back_as_it_is_while_nothing_is_new(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    log = MemoryBackend()
    async with EventStore(log.process()).open() as store:
        await tell(store, 3)
        states = StateCache(store, nursery)
        first = await states.latest(C)
        assert await states.latest(C) is first
        await store.append(Append(C, (said("m", "x"),)))
        second = await states.latest(C)
        assert second.generation("gen_1") is first.generation("gen_1")
