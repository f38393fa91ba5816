"""Stored folds: how often, off whose way, and what they are good for once the events are gone."""

from itertools import pairwise

import msgspec
import pytest
import trio
from trio.testing import MockClock

from eventstore import Append, EventStore, NewEvent, Snapshot, Trimmed
from eventstore.memory import MemoryLog
from server import events
from server.generation.state import FORM, Conversation
from server.runtime.state_cache import STORE_EVERY, Folds
from tests.generation.rows import requested, started
from tests.generation.wrapped_log import Slow

from .world import folded

C = "conv_1"
OPENING = (events.conversation_started("T", None), requested("gen_1"), started("gen_1"))


def tokens(count: int) -> tuple[NewEvent, ...]:
    """So many of them."""
    return tuple(events.token("gen_1", f"{number} ") for number in range(count))


def stored(log: MemoryLog) -> list[int]:
    """The positions of the stored folds."""
    return sorted(log.streams[C].snapshots.get(FORM, {}))


async def grow(store: EventStore, folds: Folds, to: int, step: int) -> None:
    """The log to a length, with a look after each step."""
    await store.append(Append(C, (*OPENING, *tokens(step - len(OPENING)))))
    for _ in range(to // step - 1):
        await folds.latest(C)
        await store.append(Append(C, tokens(step)))
    await folds.latest(C)


async def test_the_spacing_of_snapshots(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Every 500 events, or an eighth of the log once that is more."""
    log = MemoryLog()
    async with EventStore(log.process()).open() as store:
        await grow(store, Folds(store, nursery), 12_000, 100)
        await trio.sleep(1)
        assert stored(log)[:8] == [500, 1000, 1500, 2000, 2500, 3000, 3500, 4000]
        later = stored(log)[7:]
        for before, after in pairwise(later):
            assert after // 8 <= after - before < after // 8 + 100
        assert 12_000 - later[-1] <= 1_500
        for position, snapshot in log.streams[C].snapshots[FORM].items():
            assert snapshot.position == position
            assert msgspec.json.decode(snapshot.data, type=Conversation) == folded(log, C, position)


async def test_a_short_conversation_stores_none(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    log = MemoryLog()
    async with EventStore(log.process()).open() as store:
        await grow(store, Folds(store, nursery), STORE_EVERY - 1, STORE_EVERY - 1)
        await trio.sleep(1)
    assert stored(log) == []


async def test_a_new_process_goes_on_from_the_stored_one(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """And does not store at once again what is stored."""
    log = MemoryLog()
    async with EventStore(log.process()).open() as store:
        await grow(store, Folds(store, nursery), 600, 100)
        await trio.sleep(1)
        assert stored(log) == [500]
        fresh = Folds(store, nursery)
        assert await fresh.latest(C) == folded(log, C)
        for _ in range(3):
            await store.append(Append(C, tokens(100)))
            await fresh.latest(C)
        await trio.sleep(1)
        assert stored(log) == [500]
        await store.append(Append(C, tokens(100)))
        await fresh.latest(C)
        await trio.sleep(1)
    assert stored(log) == [500, 1000]


async def test_no_reader_waits_for_the_storing(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    log = MemoryLog()
    view = Slow(log.process(), 20.0, only=("save_snapshot",))
    async with EventStore(view).open() as store:
        start = trio.current_time()
        await grow(store, Folds(store, nursery), 500, 500)
        assert trio.current_time() - start < 1
        assert stored(log) == []
        await trio.sleep(21)
    assert stored(log) == [500]


async def test_what_cannot_be_stored_is_no_readers_trouble(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    log = MemoryLog()
    view = Slow(log.process(), 1.0, only=("save_snapshot",))
    async with EventStore(view).open() as store:
        folds = Folds(store, nursery)
        await grow(store, folds, 500, 500)
        log.available = False
        await trio.sleep(100)
        log.available = True
        assert stored(log) == []
        await store.append(Append(C, tokens(1)))
        assert await folds.latest(C) == folded(log, C)
        await trio.sleep(2)
    assert stored(log) == [501], "tried again with the next event"


async def test_another_form_is_not_read(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """What an older server stored under another name."""
    log = MemoryLog()
    async with EventStore(log.process()).open() as store:
        await store.append(Append(C, OPENING))
        await store.save_snapshot(C, "conversation.0", Snapshot(2, '{"old":true}'))
        assert await Folds(store, nursery).latest(C) == folded(log, C)


async def test_a_trimmed_log_is_served_from_the_stored_fold(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """At the head and at every position from the stored one on; before it there is nothing to tell."""
    log = MemoryLog()
    async with EventStore(log.process()).open() as store:
        await grow(store, Folds(store, nursery), 520, 130)
        await trio.sleep(1)
        (at,) = stored(log)
        expected = {position: folded(log, C, position) for position in range(at - 10, 521)}
        await store.trim(C, at + 1)
        assert await Folds(store, nursery).latest(C) == expected[520]
        for position in range(at, 521):
            assert await Folds(store, nursery).at(C, position) == expected[position]
        for position in (1, 2, at - 10, at - 1):
            with pytest.raises(Trimmed):
                await Folds(store, nursery).at(C, position)


async def test_without_a_stored_fold_a_trimmed_log_is_gone(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    log = MemoryLog()
    async with EventStore(log.process()).open() as store:
        await store.append(Append(C, (*OPENING, *tokens(20))))
        warm = Folds(store, nursery)
        whole = await warm.latest(C)
        await store.trim(C, 10)
        with pytest.raises(Trimmed):
            await Folds(store, nursery).latest(C)
        # Who was there when it was whole still knows.
        assert await warm.latest(C) == whole


async def test_a_process_that_slept_through_a_trim(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """What it kept ends before what is left of the log, but another process has stored a fold since."""
    log = MemoryLog()
    async with EventStore(log.process()).open() as here, EventStore(log.process()).open() as there:
        awake, asleep = Folds(here, nursery), Folds(there, nursery)
        await here.append(Append(C, OPENING))
        assert (await asleep.latest(C)).position == 3
        await here.append(Append(C, tokens(997)))
        await awake.latest(C)
        await trio.sleep(1)
        assert stored(log) == [1000]
        expected = folded(log, C)
        await here.trim(C, 900)
        assert await asleep.latest(C) == expected
