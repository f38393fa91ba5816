"""Reading: pages after a position, single events, the head, and unknown streams."""

import pytest
import trio

from eventstore import EventStore, Head, StreamUnknown
from tests.eventstore.sample_events import case, names, sample_append


@pytest.fixture
async def ten_events(store: EventStore) -> EventStore:
    """A store with ten events in `s`, appended one by one, and one event in another stream."""
    for n in range(1, 11):
        await store.append(sample_append("s", n))
    await store.append(sample_append("t", "beside"))
    return store


PAGES: list[tuple[int, int | None, range]] = [
    (0, None, range(1, 11)),
    (0, 3, range(1, 4)),
    (4, 3, range(5, 8)),
    (4, 100, range(5, 11)),
    (9, 1, range(10, 11)),
    (0, 0, range(0)),
    (4, 0, range(0)),
    (10, 5, range(0)),
    (11, 5, range(0)),
    (10**12, 5, range(0)),
]
"""After which position, at most how many, and what is found."""


async def test_page(ten_events: EventStore, other: EventStore) -> None:
    for after, limit, found in PAGES:
        for process in (ten_events, other):
            with case((after, limit, process)):
                page = await process.read("s", after, limit)
                assert [event.position for event in page.events] == list(found)
                assert names(page.events) == [str(n) for n in found]
                assert (page.head, page.earliest) == (10, 1)


async def test_negative_limit_is_refused(ten_events: EventStore) -> None:
    with pytest.raises(ValueError, match="limit"):
        await ten_events.read("s", 0, -1)


async def test_concurrent_reads_get_their_own_pages(ten_events: EventStore, other: EventStore) -> None:
    pages: dict[tuple[str, int, int], list[str]] = {}
    wanted = [("s", after, limit) for after in range(0, 12, 2) for limit in (1, 4)] * 3 + [("t", 0, 5)]

    async def read(stream: str, after: int, limit: int) -> None:
        pages[stream, after, limit] = names((await other.read(stream, after, limit)).events)

    unknown: list[str] = []

    async def miss(stream: str) -> None:
        try:
            await other.read(stream)
        except StreamUnknown as refusal:
            unknown.append(refusal.stream)

    async with trio.open_nursery() as nursery:
        for question in wanted:
            nursery.start_soon(read, *question)
            nursery.start_soon(miss, f"no {question}")
    assert len(unknown) == len(wanted)
    assert pages.pop(("t", 0, 5)) == ["beside"]
    for (_, after, limit), said in pages.items():
        assert said == [str(n) for n in range(after + 1, min(after + limit, 10) + 1)]


async def test_read_one(ten_events: EventStore) -> None:
    event = await ten_events.read_one("s", 7)
    assert event is not None
    assert (event.position, names([event])) == (7, ["7"])
    assert await ten_events.read_one("s", 11) is None
    with pytest.raises(StreamUnknown):
        await ten_events.read_one("nowhere", 1)


async def test_head(ten_events: EventStore, other: EventStore) -> None:
    assert await other.head("s") == Head(10, 1)
    await ten_events.append(sample_append("s", 11))
    assert await other.head("s") == Head(11, 1)


async def test_unknown_stream_is_named(store: EventStore) -> None:
    for ask in (store.head, store.read):
        with pytest.raises(StreamUnknown) as refusal:
            await ask("nowhere")
        assert refusal.value.stream == "nowhere"


async def test_alive(store: EventStore) -> None:
    await store.alive()
