"""A failover rewinds the log: a standby that lacked the newest events is promoted. Whoever had seen more is
told.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import trio
from trio.testing import MockClock

from eventstore import Event, EventStore, Rewound, StoreError, StoreOptions, Trimmed
from eventstore.backend import ReadQuery
from eventstore.memory_backend import MemoryBackend
from eventstore.model import Slice
from eventstore.tail_cache import TailCache
from tests.eventstore.sample_events import names, read_all, sample_append, take
from tests.generations.unreliable_logs import Wrapped

HEAD, BACK = 5, 3


def rewind(log: MemoryBackend, to: int = BACK) -> None:
    """Removes the newest events as if never appended."""
    if to == 0:
        del log.streams["s"]
    else:
        del log.streams["s"].events[to:]


@pytest.fixture
async def log() -> MemoryBackend:
    return MemoryBackend()


@pytest.fixture
async def store(log: MemoryBackend, autojump_clock: MockClock) -> AsyncIterator[EventStore]:
    """A process that has seen five events, which it appended itself."""
    async with EventStore(log.process(), StoreOptions(call_timeout=5.0)).open() as store:
        await store.append(sample_append("s", *range(1, HEAD + 1)))
        yield store


ASKING: dict[str, Callable[[EventStore], Awaitable[object]]] = {
    "read": lambda store: store.read("s", 1),
    "read behind the end": lambda store: store.read("s", HEAD),
    "one event": lambda store: store.read_one("s", HEAD),
    "the head": lambda store: store.head("s"),
    "a look that finds newer ones in memory": lambda store: store.read_cached("s", 1, 100),
    "a look at the end": lambda store: store.read_cached("s", HEAD, 100),
}


@pytest.mark.parametrize("to", [BACK, 0], ids=["shorter", "gone"])
@pytest.mark.parametrize("how", ASKING)
async def test_call_raises_rewound_once_then_reads_the_log(
    log: MemoryBackend, store: EventStore, how: str, to: int
) -> None:
    rewind(log, to)
    with pytest.raises(Rewound) as caught:
        await ASKING[how](store)
    told = caught.value
    assert isinstance(told, Trimmed)
    assert (told.stream, told.after, told.earliest, told.head) == ("s", HEAD, 1, to)
    # What was held of the past is forgotten: from now on the log is what it is.
    await store.append(sample_append("s", "other 4"))
    assert names(await read_all(store, "s")) == [*map(str, range(1, to + 1)), "other 4"]
    assert names(store.recent("s", to, 10)) == ["other 4"]


@pytest.mark.parametrize("ask", ["read", "look", "head"])
async def test_seen_position_reveals_the_rewind(log: MemoryBackend, ask: str) -> None:
    async with EventStore(log.process()).open() as writes, EventStore(log.process()).open() as store:
        await writes.append(sample_append("s", *range(1, HEAD + 1)))
        rewind(log)
        calls: dict[str, Callable[[int], Awaitable[object]]] = {
            "read": lambda seen: store.read("s", HEAD, seen=seen),
            "look": lambda seen: store.read_cached("s", HEAD, 10, seen=seen),
            "head": lambda seen: store.head("s", seen=seen),
        }
        await calls[ask](0)  # a client's word is no knowledge
        await calls[ask](BACK)
        with pytest.raises(Rewound):
            await calls[ask](HEAD)


async def test_sleeping_reader_is_woken_with_rewound(log: MemoryBackend, store: EventStore) -> None:
    with store.subscribe("s") as reader:
        await take(reader, HEAD)
        rewind(log)
        with trio.fail_after(10 * store.options.safety_poll), pytest.raises(Rewound) as caught:
            await reader.next()
        assert caught.value.head == BACK
    with store.subscribe("s", BACK) as again:
        await store.append(sample_append("s", "other 4", "other 5"))
        assert names(await take(again, 2)) == ["other 4", "other 5"]


async def test_lagging_reader_gets_no_old_events_from_the_tail(log: MemoryBackend, store: EventStore) -> None:
    """The own append lands on a position that the tail holds.

    The tail belongs to the old history, and is dropped.
    """
    with store.subscribe("s") as reader:
        await take(reader, HEAD)
        rewind(log)
        await store.append(sample_append("s", "other 4"))
        with pytest.raises(Rewound):
            await reader.next()
    assert names(await read_all(store, "s")) == ["1", "2", "3", "other 4"]


async def test_cursor_ahead_of_the_head_is_no_rewind(store: EventStore) -> None:
    with store.subscribe("s", HEAD + 2) as reader:
        assert list(await reader.poll()) == []
        await store.append(sample_append("s", 6, 7, 8))
        assert names(await take(reader, 1)) == ["8"]


async def test_repeated_polls_cost_one_read_each(log: MemoryBackend, store: EventStore) -> None:
    """A reader that only looks again is told again."""
    with store.subscribe("s") as reader:
        await take(reader, HEAD)
        rewind(log)
        for _ in range(3):
            with pytest.raises(Rewound):
                await reader.next()


async def test_history_change_starts_a_new_incarnation(log: MemoryBackend, store: EventStore) -> None:
    hear = log.living[store.owner]
    before = store.incarnation
    with store.subscribe("s") as reader:
        await take(reader, HEAD)
        rewind(log)
        hear.history_changed("timeline 2 after 1")
        assert store.incarnation == before + 1
        assert list(store.recent("s", 0, 10)) == []
        with trio.fail_after(0.5), pytest.raises(Rewound):
            await reader.next()


class OneEventPages(Wrapped):
    """A log of events so large that each read returns one of them."""

    async def read(self, queries: Sequence[ReadQuery]) -> Sequence[Slice | StoreError | None]:
        found = await super().read(queries)
        return [replace(one, events=one.events[:1]) if isinstance(one, Slice) else one for one in found]


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("view", [Wrapped, OneEventPages])
async def test_waiting_reader_keeps_its_place_if_nothing_was_lost(
    view: type[Wrapped], in_memory: bool, autojump_clock: MockClock
) -> None:
    """It has been given nothing yet, and the event at its cursor is the same as before."""
    log = MemoryBackend()
    async with EventStore(log.process()).open() as writes, EventStore(view(log.process())).open() as store:
        await writes.append(sample_append("s", 1, 2))
        hear = log.living[store.owner]
        if in_memory:
            await store.read("s", 1)
        with store.subscribe("s", 2) as reader, store.subscribe("s", 1) as behind:
            assert list(await reader.poll()) == []
            hear.history_changed("timeline 2 after 1")
            assert list(await reader.poll()) == []
            await writes.append(sample_append("s", 3, 4))
            assert names(await take(reader, 2)) == ["3", "4"]
            with store.subscribe("s", 2) as another:
                assert names(await another.poll()) == (["3"] if view is OneEventPages else ["3", "4"])
            with pytest.raises(Rewound):  # it had not looked before: nobody can tell what it stood on
                await behind.poll()


@pytest.mark.parametrize("position", [2, 3])
async def test_cursor_at_the_edge_of_retention(position: int, autojump_clock: MockClock) -> None:
    """The event at the cursor may be gone; what follows it is there."""
    log = MemoryBackend()
    async with EventStore(log.process()).open() as writes, EventStore(log.process()).open() as store:
        await writes.append(sample_append("s", 1, 2, 3, 4))
        await writes.trim("s", 3)
        with store.subscribe("s", position) as reader:
            assert names(await reader.poll()) == [str(one) for one in range(position + 1, 5)]
        with store.subscribe("s", 1) as late, pytest.raises(Trimmed):
            await late.poll()


def events(*named: str, first: int = 1) -> list[Event]:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return [Event(position, "t", at, None, name) for position, name in enumerate(named, first)]


@pytest.mark.parametrize(
    ("offered", "fits"),
    [
        (events("a", "b", "c"), True),
        (events("b", first=2), True),
        (events("b", "c", "d", first=2), True),
        (events("d", first=4), True),
        (events("x", first=3), False),
        (events("b", "x", first=2), False),
        (events("x", "d", first=3), False),
        (events("x", first=9), True),
    ],
    ids=lambda value: "".join(event.data for event in value) if isinstance(value, list) else None,
)
def test_tail_never_mixes_two_histories(offered: list[Event], fits: bool) -> None:
    tails = TailCache(10_000, 10_000)
    tails.offer("s", events("a", "b", "c"))
    assert tails.offer("s", offered) is fits
    kept = "".join(event.data for event in tails.after("s", 0, 10))
    assert kept == ("" if not fits or offered[0].position > 4 else "abcd"[: max(3, offered[-1].position)])
    if not fits:
        assert len(tails) == 0
