"""Stored states (snapshots): how often they are stored, that no reader waits for it, and how they serve a trimmed
log.
"""

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
from tests.generations.unreliable_logs import Slow, events_of

from .runtime_process import folded

C = "conv_1"
OPENING = (event_types.conversation_started("T", None), requested("gen_1"), started("gen_1"))


def tokens(count: int) -> tuple[NewEvent, ...]:
    """This number of token events."""
    return tuple(event_types.token("gen_1", f"{number} ") for number in range(count))


def stored(log: MemoryBackend) -> list[int]:
    """The positions of the stored folds."""
    return sorted(log.streams[C].snapshots.get(FORM, {}))


async def grow(store: EventStore, states: StateCache, to: int, step: int) -> None:
    """Appends up to a length, with a look after each step."""
    await store.append(Append(C, (*OPENING, *tokens(step - len(OPENING)))))
    for _ in range(to // step - 1):
        await states.latest(C)
        await store.append(Append(C, tokens(step)))
    await states.latest(C)


async def test_snapshot_spacing(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Every 500 events, or an eighth of the log once that is more; all processes use the same positions."""
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


async def test_short_conversation_stores_no_snapshot(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    log = MemoryBackend()
    async with EventStore(log.process()).open() as store:
        await grow(store, StateCache(store, nursery), STORE_EVERY - 1, STORE_EVERY - 1)
        await trio.sleep(1)
    assert stored(log) == []


async def test_new_process_starts_from_the_snapshot(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """It does not store the same snapshot again."""
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


async def test_readers_do_not_wait_for_storing(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    log = MemoryBackend()
    view = Slow(log.process(), 20.0, only=("save_snapshot",))
    async with EventStore(view).open() as store:
        start = trio.current_time()
        await grow(store, StateCache(store, nursery), 500, 500)
        assert trio.current_time() - start < 1
        assert stored(log) == []
        await trio.sleep(21)
    assert stored(log) == [500]


async def test_failed_storing_does_not_fail_readers(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    log = MemoryBackend()
    view = Slow(log.process(), 1.0, only=("save_snapshot",))
    async with EventStore(view).open() as store:
        states = StateCache(store, nursery)
        await grow(store, states, 500, 500)
        log.available = False
        await trio.sleep(100)
        log.available = True
        assert stored(log) == []
        await store.append(Append(C, tokens(600)))
        assert await states.latest(C) == folded(log, C)
        await trio.sleep(2)
    assert stored(log) == [1_000], "the next one is"


async def test_snapshot_of_an_unknown_form_is_ignored(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """An older server stored it under another name."""
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
async def test_older_snapshot_is_used_only_when_its_events_are_trimmed(
    form: str, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """While the events are there they are folded, for the older version understood less of them."""
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
async def test_unreadable_snapshot_is_ignored(
    data: str, autojump_clock: MockClock, nursery: trio.Nursery, lines: list[MutableMapping[str, Any]]
) -> None:
    """The events give the same state, at the head and before it; a log line names the snapshot."""
    log = MemoryBackend()
    async with EventStore(log.process()).open() as store:
        await store.append(Append(C, (*OPENING, *tokens(7))))
        await store.save_snapshot(C, FORM, Snapshot(2, data))
        assert await StateCache(store, nursery).latest(C) == folded(log, C)
        assert await StateCache(store, nursery).at(C, 5) == folded(log, C, 5)
    assert {line["event"] for line in lines} == {"stored snapshot not readable"}


async def test_trimmed_log_is_served_from_the_snapshot(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """At the head and at every position from the snapshot on; earlier positions are gone."""
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


async def test_trimmed_log_without_a_snapshot_is_gone(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
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


async def test_process_whose_cached_state_is_before_the_trim(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Its cached state ends before the retained events, but another process has stored a snapshot since."""
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
