"""Closing somebody else's writer: from any process, once, in the append's own transaction."""

import pytest
import trio

from eventstore import EventStore, Fenced, Key, StreamUnknown, Writer, WrongExpectedPosition
from tests.eventstore.sample_events import BOUND, names, note, whole


async def test_closed_from_outside_no_token_is_added(store: EventStore, other: EventStore) -> None:
    await store.append(note("s", 1, writer=Writer("w", 1, 1)))
    closed = await other.append(note("s", "cancelled", closes="w"))
    assert (closed.first, closed.repeated) == (2, False)
    for writer in (Writer("w", 1, 2), Writer("w", 2, 1)):
        with pytest.raises(Fenced) as refusal:
            await store.append(note("s", "too late", writer=writer))
        assert refusal.value.reason == "closed"
    assert names(await whole(store, "s")) == ["1", "cancelled"]


async def test_the_closed_ones_last_append_can_still_be_asked_for(store: EventStore, other: EventStore) -> None:
    first = await store.append(note("s", 1, writer=Writer("w", 1, 1)))
    await other.append(note("s", "cancelled", closes="w"))
    again = await store.append(note("s", 1, writer=Writer("w", 1, 1)))
    assert (again.first, again.last, again.repeated) == (first.first, first.last, True)


@pytest.mark.parametrize("who", ["itself", "outside"])
async def test_closing_a_closed_one_is_fenced(store: EventStore, other: EventStore, who: str) -> None:
    if who == "itself":
        await store.append(note("s", 1, writer=Writer("w", 1, 1), closes="w"))
    else:
        await store.append(note("s", 1, writer=Writer("w", 1, 1)))
        await store.append(note("s", 2, closes="w"))
    before = names(await whole(store, "s"))
    for process in (store, other):
        with pytest.raises(Fenced) as refusal:
            await process.append(note("s", "again", closes="w"))
        assert (refusal.value.reason, refusal.value.writer) == ("closed", "w")
    assert names(await whole(store, "s")) == before


async def test_of_many_who_close_one_does(store: EventStore, other: EventStore) -> None:
    await store.append(note("s", 1, writer=Writer("w", 1, 1)))
    closed: list[int] = []
    reasons: list[str] = []

    async def close(process: EventStore, n: int) -> None:
        try:
            await process.append(note("s", f"by {n}", closes="w"))
            closed.append(n)
        except Fenced as refusal:
            reasons.append(refusal.reason)

    async with trio.open_nursery() as nursery:
        for n in range(10):
            nursery.start_soon(close, (store, other)[n % 2], n)
    assert names(await whole(store, "s")) == ["1", f"by {closed[0]}"]
    assert len(closed) == 1
    assert reasons == ["closed"] * 9


async def test_a_writer_that_never_wrote_can_be_closed(store: EventStore, other: EventStore) -> None:
    await store.append(note("s", "cancelled before it began", closes="w"))
    with pytest.raises(Fenced, match="closed"):
        await other.append(note("s", 1, writer=Writer("w", 1, 1)))
    state = await store.writer("s", "w")
    assert state is not None
    assert (state.closed, state.released) == (True, True)
    assert await store.closed_by_others() == []


async def test_a_refused_close_closes_nothing(store: EventStore, other: EventStore) -> None:
    await store.append(note("s", 1, writer=Writer("w", 1, 1)))
    with pytest.raises(WrongExpectedPosition):
        await other.append(note("s", 2, closes="w", expected=7))
    await other.append(note("s", "key", keys=(Key("k", "taken", b"1"),)))
    assert (await other.append(note("s", 2, closes="w", keys=(Key("k", "taken", b"1"),)))).repeated
    state = await store.writer("s", "w")
    assert state is not None
    assert not state.closed
    assert (await store.append(note("s", 2, writer=Writer("w", 1, 2)))).first == 3


async def test_closing_on_a_stream_that_is_not_there_makes_it_only_where_it_may(store: EventStore) -> None:
    with pytest.raises(WrongExpectedPosition):
        await store.append(note("s", 1, closes="w", expected=1))
    with pytest.raises(StreamUnknown):
        await store.head("s")
    assert (await store.append(note("s", 1, closes="w"))).first == 1


async def test_the_owner_is_notified(store: EventStore, other: EventStore) -> None:
    """All registered callbacks are called."""
    await store.append(note("s", 1, writer=Writer("w", 1, 1)))
    await store.append(note("s", 2, writer=Writer("v", 1, 1)))
    await store.append(note("s", 3, writer=Writer("v", 1, 2), closes="v"))
    one, two = trio.Event(), trio.Event()
    store.on_close(one.set)
    store.on_close(two.set)
    assert await store.closed_by_others() == []
    await other.append(note("s", "cancelled", closes="w"))
    with trio.fail_after(BOUND):
        await one.wait()
        await two.wait()
    assert list(await store.closed_by_others()) == [("s", "w")]
    assert await other.closed_by_others() == []


async def test_the_closing_process_is_notified_too(store: EventStore) -> None:
    await store.append(note("s", 1, writer=Writer("w", 1, 1)))
    closed = trio.Event()
    store.on_close(closed.set)
    await store.append(note("s", "cancelled", closes="w"))
    assert closed.is_set()
    assert list(await store.closed_by_others()) == [("s", "w")]
