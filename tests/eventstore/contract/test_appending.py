"""Appending: where the events land, expected positions, all or nothing, and invalid appends."""

import pytest
import trio

from eventstore import ANY, NO_STREAM, Append, EventStore, NewEvent, StreamUnknown, Writer, WrongExpectedPosition
from tests.eventstore.sample_events import case, is_gapless, names, read_all, sample_append


async def test_events_are_stored_unchanged(store: EventStore, other: EventStore) -> None:
    new = (
        NewEvent("spoken", ' {"b" : 1,\n "a": "\\u0000 ä 漢 😀"} ', "tag ä"),
        NewEvent("written", "{}"),
        NewEvent("", '"not even an object"', ""),
    )
    appended = await store.append(Append("s", new))
    assert (appended.stream, appended.first, appended.last, appended.repeated) == ("s", 1, 3, False)
    for reader in (store, other):
        events = await read_all(reader, "s")
        assert [NewEvent(event.type, event.data, event.tag) for event in events] == list(new)
        assert [event.position for event in events] == [1, 2, 3]
        assert {event.at for event in events} == {appended.at}
        assert events[0].at.utcoffset() is not None


EXPECTED = [
    (0, ANY, True),
    (2, ANY, True),
    (0, NO_STREAM, True),
    (2, NO_STREAM, False),
    (2, 2, True),
    (2, 1, False),
    (2, 3, False),
    (0, 1, False),
]
"""How many events there are, which position is expected, and whether the append stands."""


async def test_expected_position(store: EventStore, other: EventStore) -> None:
    for there, expected, stands in EXPECTED:
        stream = f"{expected} expected of {there}"
        with case(stream):
            for n in range(there):
                await other.append(sample_append(stream, n))
            attempt = sample_append(stream, "a", "b", expected=expected)
            if stands:
                appended = await store.append(attempt)
                assert (appended.first, appended.last) == (there + 1, there + 2)
                continue
            with pytest.raises(WrongExpectedPosition) as refusal:
                await store.append(attempt)
            assert (refusal.value.stream, refusal.value.expected, refusal.value.head) == (stream, expected, there)
            if there:
                assert len(await read_all(store, stream)) == there
            else:
                with pytest.raises(StreamUnknown):
                    await store.head(stream)


async def test_one_of_many_appends_with_one_expected_position_wins(store: EventStore, other: EventStore) -> None:
    await store.append(sample_append("s", "first"))
    won: list[int] = []
    heads: list[int] = []

    async def race(process: EventStore, n: int) -> None:
        try:
            await process.append(sample_append("s", n, expected=1))
            won.append(n)
        except WrongExpectedPosition as refusal:
            heads.append(refusal.head)

    async with trio.open_nursery() as nursery:
        for n in range(20):
            nursery.start_soon(race, (store, other)[n % 2], n)
    assert len(won) == 1
    assert heads == [2] * 19
    assert names(await read_all(store, "s")) == ["first", str(won[0])]


async def test_two_processes_leave_no_gap(store: EventStore, other: EventStore) -> None:
    took: dict[str, list[int]] = {"store": [], "other": []}

    async def write(process: EventStore, name: str) -> None:
        for n in range(25):
            appended = await process.append(sample_append("s", f"{name} {n}", f"{name} {n} too"))
            assert appended.last == appended.first + 1
            took[name] += [appended.first, appended.last]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, store, "store")
        nursery.start_soon(write, other, "other")
    events = await read_all(store, "s")
    assert len(events) == 100
    assert is_gapless(events)
    for name, positions in took.items():
        assert positions == [event.position for event in events if name in event.data]
        said = [f"{name} {n}{too}" for n in range(25) for too in ("", " too")]
        assert [one for one in names(events) if name in one] == said


async def test_append_returns_after_the_commit(store: EventStore, other: EventStore) -> None:
    for n in range(1, 20):
        await store.append(sample_append("s", n))
        assert (await other.head("s")).position == n


async def test_append_without_events_is_refused(store: EventStore) -> None:
    with pytest.raises(ValueError, match="at least one event"):
        await store.append(Append("s", ()))


async def test_writer_may_close_only_itself(store: EventStore) -> None:
    with pytest.raises(ValueError, match="closes itself only"):
        await store.append(sample_append("s", 1, writer=Writer("me", 1, 1), closes="you"))


@pytest.mark.parametrize("writer", [Writer("w", 1, 0), Writer("w", 1, -1), Writer("w", -1, 1), Writer("w", 0, 0)])
async def test_writer_sequence_starts_at_one(store: EventStore, writer: Writer) -> None:
    await store.append(sample_append("s", 1))
    await store.append(sample_append("s", 2, closes="w"))
    for stream in ("s", "t"):
        with pytest.raises(ValueError, match="seq"):
            await store.append(sample_append(stream, 1, writer=writer))


async def test_many_events_keep_their_order(store: EventStore) -> None:
    appended = await store.append(sample_append("s", *range(3_000)))
    assert (appended.first, appended.last) == (1, 3_000)
    assert names(await read_all(store, "s")) == [str(n) for n in range(3_000)]
