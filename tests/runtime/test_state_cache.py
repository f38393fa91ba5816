"""The cache of conversation states gives the same state as a fold of the log, at the head and
at every position."""

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
from tests.generations.unreliable_logs import Slow, Wrapped, events_of

from .runtime_process import folded

C = "conv_1"


class CountingBackend(Wrapped):
    """Notes how many events each read returned, and counts the other calls."""

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
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of 7 events and a snapshot every 10, so that a short log has many of both."""
    monkeypatch.setattr(module, "PAGE", 7)
    monkeypatch.setattr(module, "STORE_EVERY", 10)


async def append_answer(store: EventStore, count: int, generation: str = "gen_1") -> None:
    """Appends a conversation with one answer of `count` tokens, one append each."""
    opening = (
        event_types.conversation_started("T", None),
        said("m1", "hi"),
        requested(generation),
        started(generation),
    )
    await store.append(Append(C, opening))
    for number in range(count):
        await store.append(Append(C, (event_types.token(generation, f"{number} "),)))


async def append_tokens(store: EventStore, *texts: str) -> None:
    """Appends more tokens of it at once."""
    await store.append(Append(C, tuple(event_types.token("gen_1", text) for text in texts)))


async def test_unknown_conversation_is_not_found(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    async with EventStore(MemoryBackend().process()).open() as store:
        with pytest.raises(Problem) as caught:
            await StateCache(store, nursery).latest(C)
    assert (caught.value.status, caught.value.code) == (404, "not_found")


async def test_cold_and_warm_cache_equal_the_fold(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    log = MemoryBackend()
    async with EventStore(log.process()).open() as store:
        states = StateCache(store, nursery)
        await append_answer(store, 20)
        assert await states.latest(C) == folded(log, C)
        await append_tokens(store, "x", "y")
        assert await states.latest(C) == folded(log, C)
        await store.append(Append(C, (completed("gen_1"),)))
        assert await states.latest(C) == folded(log, C)


async def test_poll_reads_only_new_events_and_always_checks_the_head(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    view = CountingBackend(MemoryBackend().process())
    async with EventStore(view).open() as store:
        states = StateCache(store, nursery)
        await append_answer(store, 20)
        for _ in range(3):
            await states.latest(C)
        await append_tokens(store, "x", "y")
        await states.latest(C)
    assert view.brought == [24, 0, 0]
    assert view.heads_read == 1, "what is new stands in the shared tail"
    assert view.loaded == 1


async def test_events_of_another_process_are_seen(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    log = MemoryBackend()
    async with EventStore(log.process()).open() as here, EventStore(log.process()).open() as there:
        await append_answer(here, 3)
        states = StateCache(there, nursery)
        assert (await states.latest(C)).position == 7
        await append_tokens(here, "x")
        assert (await states.latest(C)).position == 8


@pytest.mark.usefixtures("small_pages")
async def test_every_position_equals_the_fold(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """In a process that knows nothing, one that knows the head, and one asked for all positions in any order."""
    log = MemoryBackend()
    async with EventStore(log.process()).open() as store:
        writer = StateCache(store, nursery)
        await append_answer(store, 60)
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


async def test_position_zero_is_the_empty_state(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    async with EventStore(MemoryBackend().process()).open() as store:
        await append_answer(store, 3)
        assert await StateCache(store, nursery).at(C, 0) == Conversation(C)


@pytest.mark.usefixtures("small_pages")
async def test_concurrent_pollers_never_go_back(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Each poller sees a state no older than the head at its request."""
    log = MemoryBackend()
    async with EventStore(Slow(log.process(), 0.01, only=("read", "append", "load_snapshot"))).open() as store:
        states = StateCache(store, nursery)
        await append_answer(store, 1)

        async def poll(pause: float) -> None:
            last = 0
            while last < 105:
                asked_at = log.streams[C].head
                state = await states.latest(C)
                assert state.position >= max(asked_at, last)
                assert state == folded(log, C, state.position)
                last = state.position
                await trio.sleep(pause)

        async with trio.open_nursery() as pollers:
            for number in range(20):
                pollers.start_soon(poll, 0.003 * number)
            for number in range(50):
                await append_tokens(store, f"{number}a", f"{number}b")
                await trio.sleep(0.002)


async def test_evicted_conversation_is_read_again(
    autojump_clock: MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With more conversations than the cache holds."""
    monkeypatch.setattr(module, "KEPT_BYTES", 10_000)
    log = MemoryBackend()
    view = CountingBackend(log.process())
    async with EventStore(view).open() as store:
        states = StateCache(store, nursery)
        names = [f"conv_{number}" for number in range(20)]
        for name in names:
            await store.append(Append(name, (event_types.conversation_started(name, None), said("m", "x"))))
        for name in [*names, *names, names[-1]]:
            assert await states.latest(name) == folded(log, name)
    assert view.brought[:20] == [2] * 20
    assert view.brought[-21:] == [2] * 20 + [0]
    assert len(events_of(log, names[0])) == 2


async def test_concurrent_readers_fold_a_cold_conversation_once(
    autojump_clock: MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5,000 events after a stored snapshot; the head is also asked for once for all readers."""
    log = MemoryBackend()
    async with EventStore(log.process()).open() as store:
        await append_answer(store, 1)
        await StateCache(store, nursery).latest(C)
        state = folded(log, C)
        await store.save_snapshot(C, FORM, Snapshot(state.position, to_stored(state)))
        for _ in range(50):
            await append_tokens(store, *("x" * 100))
    view = CountingBackend(Slow(log.process(), 0.01, only=("read", "heads", "load_snapshot")))
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


async def test_concurrent_readers_catch_up_once(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """The cached state is old, and another process has written much since."""
    log = MemoryBackend()
    view = CountingBackend(Slow(log.process(), 0.01, only=("read", "heads", "load_snapshot")))
    async with EventStore(log.process()).open() as there, EventStore(view).open() as here:
        await append_answer(there, 1)
        states = StateCache(here, nursery)
        await states.latest(C)
        for _ in range(50):
            await append_tokens(there, *("x" * 100))
        view.brought.clear()
        async with trio.open_nursery() as readers:
            for _ in range(500):
                readers.start_soon(states.latest, C)
        assert await states.latest(C) == folded(log, C)
    assert sum(view.brought) <= 5_000 + 256


@pytest.mark.parametrize("there", [True, False])
async def test_cancelled_reader_leaves_the_others_their_answer(
    autojump_clock: MockClock, nursery: trio.Nursery, there: bool
) -> None:
    """The reader that loads for all is cancelled half way: the next one loads."""
    log = MemoryBackend()
    async with EventStore(log.process()).open() as store:
        if there:
            await append_answer(store, 50)
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


async def test_not_found_never_comes_from_an_earlier_lookup(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """A reader that joined a lookup which found nothing looks again: the conversation may have begun since."""
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
                await append_answer(other, 1)
        assert found == [folded(log, C)]


async def test_unchanged_state_is_the_same_object(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    log = MemoryBackend()
    async with EventStore(log.process()).open() as store:
        await append_answer(store, 3)
        states = StateCache(store, nursery)
        first = await states.latest(C)
        assert await states.latest(C) is first
        await store.append(Append(C, (said("m", "x"),)))
        second = await states.latest(C)
        assert second.generation("gen_1") is first.generation("gen_1")
