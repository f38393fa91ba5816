"""Retention: the oldest events go, the newest never, positions stay, and who reads what is gone is told."""

import pytest
import trio

from eventstore import NO_STREAM, EventStore, Head, StreamUnknown, Trimmed, WrongExpectedPosition
from tests.eventstore.sample_events import names, note, take


@pytest.mark.parametrize(
    ("before", "earliest"), [(-5, 1), (0, 1), (1, 1), (2, 2), (6, 6), (10, 10), (11, 10), (99, 10)]
)
async def test_what_is_left(store: EventStore, other: EventStore, before: int, earliest: int) -> None:
    await store.append(note("s", *range(1, 11)))
    await store.append(note("t", "beside", "beside"))
    assert await store.trim("s", before) == Head(10, earliest)
    for process in (store, other):
        assert await process.head("s") == Head(10, earliest)
        page = await process.read("s", earliest - 1)
        assert names(page.events) == [str(n) for n in range(earliest, 11)]
        assert (page.head, page.earliest) == (10, earliest)
    assert await store.head("t") == Head(2, 1)


async def test_reading_before_the_edge(store: EventStore, other: EventStore) -> None:
    await store.append(note("s", *range(1, 11)))
    await store.trim("s", 6)
    for process in (store, other):
        for after in (0, 3, 4):
            with pytest.raises(Trimmed) as refusal:
                await process.read("s", after)
            told = refusal.value
            assert (told.stream, told.after, told.earliest, told.head) == ("s", after, 6, 10)
            with pytest.raises(Trimmed):
                await process.read_one("s", after + 1)
            with process.subscribe("s", after) as reader, pytest.raises(Trimmed):
                await reader.next()
        assert names((await process.read("s", 5, 1)).events) == ["6"]
        edge = await process.read_one("s", 6)
        assert edge is not None
        with process.subscribe("s", 5) as reader:
            assert names(await take(reader, 5)) == [str(n) for n in range(6, 11)]


async def test_trimming_goes_one_way(store: EventStore) -> None:
    await store.append(note("s", *range(1, 11)))
    await store.trim("s", 6)
    assert await store.trim("s", 3) == Head(10, 6)
    assert await store.trim("s", 8) == Head(10, 8)


async def test_positions_go_on_after_it(store: EventStore, other: EventStore) -> None:
    await store.append(note("s", 1, 2, 3))
    await store.trim("s", 99)
    with pytest.raises(WrongExpectedPosition):
        await other.append(note("s", "new", expected=NO_STREAM))
    assert (await other.append(note("s", 4, expected=3))).first == 4
    assert names((await store.read("s", 2)).events) == ["3", "4"]
    assert await store.trim("s", 99) == Head(4, 4)


async def test_an_unknown_stream(store: EventStore) -> None:
    with pytest.raises(StreamUnknown):
        await store.trim("nowhere", 5)


async def test_a_reader_who_is_at_the_head_notices_nothing(store: EventStore, other: EventStore) -> None:
    await store.append(note("s", *range(1, 11)))
    with store.subscribe("s", 10) as here, other.subscribe("s", 10) as there:
        assert list(await here.poll()) == list(await there.poll()) == []
        await store.trim("s", 11)
        await other.append(note("s", 11))
        assert names(await take(here, 1)) == names(await take(there, 1)) == ["11"]


async def test_trimming_under_a_writer(store: EventStore, other: EventStore) -> None:
    await store.append(note("s", 0))

    async def write() -> None:
        for n in range(1, 60):
            await store.append(note("s", n))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        for before in range(5, 50, 5):
            head = await other.trim("s", before)
            assert head.earliest == min(before, head.position)
    head = await other.trim("s", 50)
    assert head == Head(60, 50)
    assert names((await store.read("s", 49)).events) == [str(n) for n in range(49, 60)]
