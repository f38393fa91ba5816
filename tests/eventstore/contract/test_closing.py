"""Closing a writer from another process: once, in the transaction of the append."""

import pytest
import trio

from eventstore import EventStore, Fenced, Key, StreamUnknown, Writer, WrongExpectedPosition
from tests.eventstore.sample_events import BOUND, names, read_all, sample_append


async def test_closed_writer_is_fenced(store: EventStore, other: EventStore) -> None:
    await store.append(sample_append("s", 1, writer=Writer("w", 1, 1)))
    closed = await other.append(sample_append("s", "cancelled", closes="w"))
    assert (closed.first, closed.repeated) == (2, False)
    for writer in (Writer("w", 1, 2), Writer("w", 2, 1)):
        with pytest.raises(Fenced) as refusal:
            await store.append(sample_append("s", "too late", writer=writer))
        assert refusal.value.reason == "closed"
    assert names(await read_all(store, "s")) == ["1", "cancelled"]


async def test_last_append_of_a_closed_writer_can_be_repeated(store: EventStore, other: EventStore) -> None:
    first = await store.append(sample_append("s", 1, writer=Writer("w", 1, 1)))
    await other.append(sample_append("s", "cancelled", closes="w"))
    again = await store.append(sample_append("s", 1, writer=Writer("w", 1, 1)))
    assert (again.first, again.last, again.repeated) == (first.first, first.last, True)


@pytest.mark.parametrize("who", ["itself", "outside"])
async def test_closing_twice_is_fenced(store: EventStore, other: EventStore, who: str) -> None:
    if who == "itself":
        await store.append(sample_append("s", 1, writer=Writer("w", 1, 1), closes="w"))
    else:
        await store.append(sample_append("s", 1, writer=Writer("w", 1, 1)))
        await store.append(sample_append("s", 2, closes="w"))
    before = names(await read_all(store, "s"))
    for process in (store, other):
        with pytest.raises(Fenced) as refusal:
            await process.append(sample_append("s", "again", closes="w"))
        assert (refusal.value.reason, refusal.value.writer) == ("closed", "w")
    assert names(await read_all(store, "s")) == before


async def test_one_of_many_closes_wins(store: EventStore, other: EventStore) -> None:
    await store.append(sample_append("s", 1, writer=Writer("w", 1, 1)))
    closed: list[int] = []
    reasons: list[str] = []

    async def close(process: EventStore, n: int) -> None:
        try:
            await process.append(sample_append("s", f"by {n}", closes="w"))
            closed.append(n)
        except Fenced as refusal:
            reasons.append(refusal.reason)

    async with trio.open_nursery() as nursery:
        for n in range(10):
            nursery.start_soon(close, (store, other)[n % 2], n)
    assert names(await read_all(store, "s")) == ["1", f"by {closed[0]}"]
    assert len(closed) == 1
    assert reasons == ["closed"] * 9


async def test_writer_without_appends_can_be_closed(store: EventStore, other: EventStore) -> None:
    await store.append(sample_append("s", "cancelled before it began", closes="w"))
    with pytest.raises(Fenced, match="closed"):
        await other.append(sample_append("s", 1, writer=Writer("w", 1, 1)))
    state = await store.writer("s", "w")
    assert state is not None
    assert (state.closed, state.released) == (True, True)
    assert await store.closed_by_others() == []


async def test_refused_append_closes_nothing(store: EventStore, other: EventStore) -> None:
    await store.append(sample_append("s", 1, writer=Writer("w", 1, 1)))
    with pytest.raises(WrongExpectedPosition):
        await other.append(sample_append("s", 2, closes="w", expected=7))
    await other.append(sample_append("s", "key", keys=(Key("k", "taken", b"1"),)))
    assert (await other.append(sample_append("s", 2, closes="w", keys=(Key("k", "taken", b"1"),)))).repeated
    state = await store.writer("s", "w")
    assert state is not None
    assert not state.closed
    assert (await store.append(sample_append("s", 2, writer=Writer("w", 1, 2)))).first == 3


async def test_closing_on_a_new_stream_respects_the_expected_position(store: EventStore) -> None:
    with pytest.raises(WrongExpectedPosition):
        await store.append(sample_append("s", 1, closes="w", expected=1))
    with pytest.raises(StreamUnknown):
        await store.head("s")
    assert (await store.append(sample_append("s", 1, closes="w"))).first == 1


async def test_owner_is_notified(store: EventStore, other: EventStore) -> None:
    """All registered callbacks are called."""
    await store.append(sample_append("s", 1, writer=Writer("w", 1, 1)))
    await store.append(sample_append("s", 2, writer=Writer("v", 1, 1)))
    await store.append(sample_append("s", 3, writer=Writer("v", 1, 2), closes="v"))
    one, two = trio.Event(), trio.Event()
    store.on_close(one.set)
    store.on_close(two.set)
    assert await store.closed_by_others() == []
    await other.append(sample_append("s", "cancelled", closes="w"))
    with trio.fail_after(BOUND):
        await one.wait()
        await two.wait()
    assert list(await store.closed_by_others()) == [("s", "w")]
    assert await other.closed_by_others() == []


async def test_closing_process_is_notified_too(store: EventStore) -> None:
    await store.append(sample_append("s", 1, writer=Writer("w", 1, 1)))
    closed = trio.Event()
    store.on_close(closed.set)
    await store.append(sample_append("s", "cancelled", closes="w"))
    assert closed.is_set()
    assert list(await store.closed_by_others()) == [("s", "w")]
