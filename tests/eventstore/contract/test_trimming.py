"""Trimming: the oldest events are removed, never the newest; positions stay, and readers before the edge
are told.
"""

import pytest
import trio

from eventstore import NO_STREAM, EventStore, Head, StreamUnknown, Trimmed, WrongExpectedPosition
from tests.eventstore.sample_events import case, names, sample_append, take


async def test_trim_keeps_the_newest_events(store: EventStore, other: EventStore) -> None:
    await store.append(sample_append("t", "beside", "beside"))
    for before, earliest in [(-5, 1), (0, 1), (1, 1), (2, 2), (6, 6), (10, 10), (11, 10), (99, 10)]:
        stream = f"trimmed before {before}"
        with case(stream):
            await store.append(sample_append(stream, *range(1, 11)))
            assert await store.trim(stream, before) == Head(10, earliest)
            for process in (store, other):
                assert await process.head(stream) == Head(10, earliest)
                page = await process.read(stream, earliest - 1)
                assert names(page.events) == [str(n) for n in range(earliest, 11)]
                assert (page.head, page.earliest) == (10, earliest)
            assert await store.head("t") == Head(2, 1)


async def test_read_before_the_edge_is_refused(store: EventStore, other: EventStore) -> None:
    await store.append(sample_append("s", *range(1, 11)))
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


async def test_trim_never_brings_events_back(store: EventStore) -> None:
    await store.append(sample_append("s", *range(1, 11)))
    await store.trim("s", 6)
    assert await store.trim("s", 3) == Head(10, 6)
    assert await store.trim("s", 8) == Head(10, 8)


async def test_positions_continue_after_a_trim(store: EventStore, other: EventStore) -> None:
    await store.append(sample_append("s", 1, 2, 3))
    await store.trim("s", 99)
    with pytest.raises(WrongExpectedPosition):
        await other.append(sample_append("s", "new", expected=NO_STREAM))
    assert (await other.append(sample_append("s", 4, expected=3))).first == 4
    assert names((await store.read("s", 2)).events) == ["3", "4"]
    assert await store.trim("s", 99) == Head(4, 4)


async def test_unknown_stream(store: EventStore) -> None:
    with pytest.raises(StreamUnknown):
        await store.trim("nowhere", 5)


async def test_reader_at_the_head_is_not_disturbed(store: EventStore, other: EventStore) -> None:
    await store.append(sample_append("s", *range(1, 11)))
    with store.subscribe("s", 10) as here, other.subscribe("s", 10) as there:
        assert list(await here.poll()) == list(await there.poll()) == []
        await store.trim("s", 11)
        await other.append(sample_append("s", 11))
        assert names(await take(here, 1)) == names(await take(there, 1)) == ["11"]


async def test_trim_during_appends(store: EventStore, other: EventStore) -> None:
    await store.append(sample_append("s", 0))

    async def write() -> None:
        for n in range(1, 60):
            await store.append(sample_append("s", n))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        for before in range(5, 50, 5):
            head = await other.trim("s", before)
            assert head.earliest == min(before, head.position)
    head = await other.trim("s", 50)
    assert head == Head(60, 50)
    assert names((await store.read("s", 49)).events) == [str(n) for n in range(49, 60)]
