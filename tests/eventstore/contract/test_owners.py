"""The owners of writers: whose writers are open, which are to be released, and which processes live."""

from collections.abc import Sequence

import pytest

from eventstore import EventStore, OpenWriter, Writer, WriterState
from tests.eventstore.contract.conftest import OPTIONS, NewLog
from tests.eventstore.sample_events import sample_append, wait_until


async def test_writer_state(store: EventStore, other: EventStore) -> None:
    assert await store.writer("s", "w") is None
    await store.append(sample_append("s", 1))
    assert await store.writer("s", "w") is None
    await store.append(sample_append("s", 2, writer=Writer("w", 3, 1)))
    for process in (store, other):
        assert await process.writer("s", "w") == WriterState(3, store.owner, False, False, True)
    assert store.owner != other.owner


async def test_release_after_a_close_by_another_process(store: EventStore, other: EventStore) -> None:
    for name in ("w", "v"):
        await store.append(sample_append("s", name, writer=Writer(name, 1, 1)))
        await other.append(sample_append("s", name, closes=name))
    state = await other.writer("s", "w")
    assert state == WriterState(1, store.owner, closed=True, released=False, owner_alive=True)
    await store.release([("s", "w")])
    assert list(await store.closed_by_others()) == [("s", "v")]
    assert await other.writer("s", "w") == WriterState(1, store.owner, True, True, True)
    await store.release([("s", "v"), ("s", "w")])
    assert await store.closed_by_others() == []


@pytest.mark.parametrize("pairs", [[], [("nowhere", "w")], [("s", "nobody")]])
async def test_release_of_unknown_writers_does_nothing(
    store: EventStore, pairs: Sequence[tuple[str, str]]
) -> None:
    await store.append(sample_append("s", 1, writer=Writer("w", 1, 1)))
    await store.release(pairs)
    assert await store.open_writers() == [OpenWriter("s", "w", 1, store.owner)]


async def test_open_writers_of_living_owners_are_their_own(store: EventStore, other: EventStore) -> None:
    await store.append(sample_append("s", 1, writer=Writer("mine", 1, 1)))
    await store.append(sample_append("s", 2, writer=Writer("closed by me", 1, 1), closes="closed by me"))
    await store.append(sample_append("s", 3, writer=Writer("closed by them", 1, 1)))
    await other.append(sample_append("s", 4, closes="closed by them"))
    await other.append(sample_append("t", 1, writer=Writer("theirs", 2, 1)))
    assert await store.open_writers() == [OpenWriter("s", "mine", 1, store.owner)]
    assert await other.open_writers() == [OpenWriter("t", "theirs", 2, other.owner)]


async def test_open_writers_of_an_ended_process_are_listed(store: EventStore, new_log: NewLog) -> None:
    async with EventStore(new_log(), OPTIONS).open() as gone:
        await gone.append(sample_append("s", 1, writer=Writer("w", 4, 1)))
        state = await store.writer("s", "w")
        assert state is not None
        assert state.owner_alive
        assert await store.open_writers() == []
        owner = gone.owner

    async def dead() -> bool:
        found = await store.writer("s", "w")
        return found is not None and not found.owner_alive

    await wait_until(dead)
    assert await store.open_writers() == [OpenWriter("s", "w", 4, owner)]
    await store.append(sample_append("s", "interrupted", closes="w"))
    assert await store.open_writers() == []
    assert await store.closed_by_others() == []


async def test_takeover_changes_the_owner(store: EventStore, other: EventStore) -> None:
    await store.append(sample_append("s", 1, writer=Writer("w", 1, 1)))
    await other.append(sample_append("s", 2, writer=Writer("w", 2, 1)))
    assert await store.open_writers() == []
    assert await other.open_writers() == [OpenWriter("s", "w", 2, other.owner)]
