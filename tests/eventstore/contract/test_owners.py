"""Whose writers are open, whose are to be released, and who still lives: what survives the end of a process."""

from collections.abc import Sequence

import pytest

from eventstore import EventStore, OpenWriter, Writer, WriterState
from tests.eventstore.contract.conftest import OPTIONS, NewLog
from tests.eventstore.sample_events import note, until


async def test_a_writer_and_how_it_stands(store: EventStore, other: EventStore) -> None:
    assert await store.writer("s", "w") is None
    await store.append(note("s", 1))
    assert await store.writer("s", "w") is None
    await store.append(note("s", 2, writer=Writer("w", 3, 1)))
    for process in (store, other):
        assert await process.writer("s", "w") == WriterState(3, store.owner, False, False, True)
    assert store.owner != other.owner


async def test_released_after_it_was_closed_from_outside(store: EventStore, other: EventStore) -> None:
    for name in ("w", "v"):
        await store.append(note("s", name, writer=Writer(name, 1, 1)))
        await other.append(note("s", name, closes=name))
    state = await other.writer("s", "w")
    assert state == WriterState(1, store.owner, closed=True, released=False, owner_alive=True)
    await store.release([("s", "w")])
    assert list(await store.closed_by_others()) == [("s", "v")]
    assert await other.writer("s", "w") == WriterState(1, store.owner, True, True, True)
    await store.release([("s", "v"), ("s", "w")])
    assert await store.closed_by_others() == []


@pytest.mark.parametrize("pairs", [[], [("nowhere", "w")], [("s", "nobody")]])
async def test_releasing_what_is_not_there_does_nothing(
    store: EventStore, pairs: Sequence[tuple[str, str]]
) -> None:
    await store.append(note("s", 1, writer=Writer("w", 1, 1)))
    await store.release(pairs)
    assert await store.open_writers() == [OpenWriter("s", "w", 1, store.owner)]


async def test_open_writers_are_ones_own(store: EventStore, other: EventStore) -> None:
    await store.append(note("s", 1, writer=Writer("mine", 1, 1)))
    await store.append(note("s", 2, writer=Writer("closed by me", 1, 1), closes="closed by me"))
    await store.append(note("s", 3, writer=Writer("closed by them", 1, 1)))
    await other.append(note("s", 4, closes="closed by them"))
    await other.append(note("t", 1, writer=Writer("theirs", 2, 1)))
    assert await store.open_writers() == [OpenWriter("s", "mine", 1, store.owner)]
    assert await other.open_writers() == [OpenWriter("t", "theirs", 2, other.owner)]


async def test_a_process_that_ends_leaves_its_writers_to_whoever_looks(store: EventStore, new_log: NewLog) -> None:
    async with EventStore(new_log(), OPTIONS).open() as gone:
        await gone.append(note("s", 1, writer=Writer("w", 4, 1)))
        state = await store.writer("s", "w")
        assert state is not None
        assert state.owner_alive
        assert await store.open_writers() == []
        owner = gone.owner

    async def dead() -> bool:
        found = await store.writer("s", "w")
        return found is not None and not found.owner_alive

    await until(dead)
    assert await store.open_writers() == [OpenWriter("s", "w", 4, owner)]
    await store.append(note("s", "interrupted", closes="w"))
    assert await store.open_writers() == []
    assert await store.closed_by_others() == []


async def test_whoever_takes_over_owns_it(store: EventStore, other: EventStore) -> None:
    await store.append(note("s", 1, writer=Writer("w", 1, 1)))
    await other.append(note("s", 2, writer=Writer("w", 2, 1)))
    assert await store.open_writers() == []
    assert await other.open_writers() == [OpenWriter("s", "w", 2, other.owner)]
