"""Stored folds: how often, off whose way, and what they are good for once the events are gone."""

from collections.abc import MutableMapping
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from eventstore import Append, EventStore, NewEvent, Snapshot, Trimmed
from eventstore.memory_backend import MemoryBackend
from server import event_types
from server.conversations.fold import fold
from server.conversations.stored_state import FORM, OLDER_FORMS, from_stored
from server.runtime.state_cache import STORE_EVERY, StateCache
from tests.conversations.event_builders import requested, started
from tests.generations.wrapped_log import Slow, events_of

from .world import folded

C = "conv_1"
OPENING = (event_types.conversation_started("T", None), requested("gen_1"), started("gen_1"))


def tokens(count: int) -> tuple[NewEvent, ...]:
    """So many of them."""
    return tuple(event_types.token("gen_1", f"{number} ") for number in range(count))


def stored(log: MemoryBackend) -> list[int]:
    """The positions of the stored folds."""
    return sorted(log.streams[C].snapshots.get(FORM, {}))


async def grow(store: EventStore, folds: StateCache, to: int, step: int) -> None:
    """The log to a length, with a look after each step."""
    await store.append(Append(C, (*OPENING, *tokens(step - len(OPENING)))))
    for _ in range(to // step - 1):
        await folds.latest(C)
        await store.append(Append(C, tokens(step)))
    await folds.latest(C)


async def test_the_spacing_of_snapshots(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Every 500 events, or up to an eighth of the log once that is more; all processes at the same positions."""
    log = MemoryBackend()
    async with EventStore(log.process()).open() as store:
        await grow(store, StateCache(store, nursery), 17_990, 70)
        await trio.sleep(1)
        expected = [*range(500, 8_000, 500), *range(8_000, 16_000, 1_000), 16_000]
        assert stored(log) == expected
        other = StateCache(store, nursery)
        for position in (100, 450, 700, 7_600, 12_345):
            await other.at(C, position)
        await other.latest(C)
        await trio.sleep(1)
        assert stored(log) == expected
        for position, snapshot in log.streams[C].snapshots[FORM].items():
            assert snapshot.position == position
            assert from_stored(snapshot.data) == folded(log, C, position)


async def test_a_short_conversation_stores_none(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    log = MemoryBackend()
    async with EventStore(log.process()).open() as store:
        await grow(store, StateCache(store, nursery), STORE_EVERY - 1, STORE_EVERY - 1)
        await trio.sleep(1)
    assert stored(log) == []


async def test_a_new_process_goes_on_from_the_stored_one(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """And does not store at once again what is stored."""
    log = MemoryBackend()
    async with EventStore(log.process()).open() as store:
        await grow(store, StateCache(store, nursery), 600, 100)
        await trio.sleep(1)
        assert stored(log) == [500]
        fresh = StateCache(store, nursery)
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
    log = MemoryBackend()
    view = Slow(log.process(), 20.0, only=("save_snapshot",))
    async with EventStore(view).open() as store:
        start = trio.current_time()
        await grow(store, StateCache(store, nursery), 500, 500)
        assert trio.current_time() - start < 1
        assert stored(log) == []
        await trio.sleep(21)
    assert stored(log) == [500]


async def test_what_cannot_be_stored_is_no_readers_trouble(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    log = MemoryBackend()
    view = Slow(log.process(), 1.0, only=("save_snapshot",))
    async with EventStore(view).open() as store:
        folds = StateCache(store, nursery)
        await grow(store, folds, 500, 500)
        log.available = False
        await trio.sleep(100)
        log.available = True
        assert stored(log) == []
        await store.append(Append(C, tokens(600)))
        assert await folds.latest(C) == folded(log, C)
        await trio.sleep(2)
    assert stored(log) == [1_000], "the next one is"


async def test_another_form_is_not_read(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """What an older server stored under another name."""
    log = MemoryBackend()
    async with EventStore(log.process()).open() as store:
        await store.append(Append(C, OPENING))
        await store.save_snapshot(C, "conversation.0", Snapshot(2, '{"old":true}'))
        assert await StateCache(store, nursery).latest(C) == folded(log, C)


OLD = (
    '{"id":"conv_1","position":3,"title":"T","metadata":null,"created_at":"2026-11-22T10:00:00Z","messages":[],'
    '"generations":[{"id":"gen_1","conversation":"conv_1","status":"running","model":"demo","parameters":{},'
    '"requested_position":2,"position":3,"created_at":"2026-11-22T10:00:00Z","text":"said before","tokens":2,'
    '"attempt":1,"worker":"w","tool_calls":[]}]}'
)
"""As the version before stored it: `conversation.2`."""


@pytest.mark.parametrize("form", OLDER_FORMS)
async def test_an_older_form_is_read_where_its_events_are_gone(
    form: str, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """As long as they are there they are folded: that version knew less of them. Then its state is all."""
    log = MemoryBackend()
    async with EventStore(log.process()).open() as store:
        await store.append(Append(C, (*OPENING, *tokens(7))))
        await store.save_snapshot(C, form, Snapshot(3, OLD))
        assert await StateCache(store, nursery).latest(C) == folded(log, C)
        assert await StateCache(store, nursery).at(C, 5) == folded(log, C, 5)
        rest = events_of(log, C)[3:]
        await store.trim(C, 4)
        latest, earlier = await StateCache(store, nursery).latest(C), await StateCache(store, nursery).at(C, 5)
        assert latest == fold(from_stored(OLD), rest)
        assert earlier == fold(from_stored(OLD), rest[:2])
    (found,) = earlier.generations
    assert (found.text, found.reasoning, found.refusal) == ("said before0 1 ", "", None)


@pytest.mark.parametrize("data", ['{"id":7}', '{"id":"conv_1","position":2,"generations":[{}]}', "[]"])
async def test_one_that_cannot_be_read_is_left(
    data: str, autojump_clock: MockClock, nursery: trio.Nursery, lines: list[MutableMapping[str, Any]]
) -> None:
    """The events tell the same, at the head and before it; the log says so."""
    log = MemoryBackend()
    async with EventStore(log.process()).open() as store:
        await store.append(Append(C, (*OPENING, *tokens(7))))
        await store.save_snapshot(C, FORM, Snapshot(2, data))
        assert await StateCache(store, nursery).latest(C) == folded(log, C)
        assert await StateCache(store, nursery).at(C, 5) == folded(log, C, 5)
    assert {line["event"] for line in lines} == {"stored snapshot not readable"}


async def test_a_trimmed_log_is_served_from_the_stored_fold(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """At the head and at every position from the stored one on; before it there is nothing to tell."""
    log = MemoryBackend()
    async with EventStore(log.process()).open() as store:
        await grow(store, StateCache(store, nursery), 520, 130)
        await trio.sleep(1)
        (at,) = stored(log)
        expected = {position: folded(log, C, position) for position in range(at - 10, 521)}
        await store.trim(C, at + 1)
        assert await StateCache(store, nursery).latest(C) == expected[520]
        for position in range(at, 521):
            assert await StateCache(store, nursery).at(C, position) == expected[position]
        for position in (1, 2, at - 10, at - 1):
            with pytest.raises(Trimmed):
                await StateCache(store, nursery).at(C, position)


async def test_without_a_stored_fold_a_trimmed_log_is_gone(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    log = MemoryBackend()
    async with EventStore(log.process()).open() as store:
        await store.append(Append(C, (*OPENING, *tokens(20))))
        warm = StateCache(store, nursery)
        whole = await warm.latest(C)
        await store.trim(C, 10)
        with pytest.raises(Trimmed):
            await StateCache(store, nursery).latest(C)
        # Who was there when it was whole still knows.
        assert await warm.latest(C) == whole


async def test_a_process_that_slept_through_a_trim(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """What it kept ends before what is left of the log, but another process has stored a fold since."""
    log = MemoryBackend()
    async with EventStore(log.process()).open() as here, EventStore(log.process()).open() as there:
        awake, asleep = StateCache(here, nursery), StateCache(there, nursery)
        await here.append(Append(C, OPENING))
        assert (await asleep.latest(C)).position == 3
        await here.append(Append(C, tokens(997)))
        await awake.latest(C)
        await trio.sleep(1)
        assert stored(log) == [1000]
        expected = folded(log, C)
        await here.trim(C, 900)
        assert await asleep.latest(C) == expected
