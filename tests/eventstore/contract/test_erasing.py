"""Erased streams: nothing is left but the fact that they existed, and every process is told so."""

from collections.abc import Sequence
from datetime import timedelta

import pytest
import trio

from eventstore import ANY, NO_STREAM, Append, Erased, EventStore, Key, KeyReused, Snapshot, Writer
from tests.eventstore.sample_events import BOUND, case, names, read_all, sample_append, take

NOW = -1.0  # an age that every stream has


async def erase_streams(store: EventStore, category: str = "talk", limit: int = 100) -> Sequence[str]:
    """Everything that can be erased in one call."""
    return await store.erase_streams(category, NOW, limit)


async def make_erased(store: EventStore, stream: str = "s") -> None:
    """Makes a stream of three events, and erases it."""
    await store.append(sample_append(stream, 1, 2, 3, category="talk"))
    assert await erase_streams(store) == [stream]


async def assert_erased(store: EventStore, stream: str) -> None:
    """Every question about the stream's contents is answered with `Erased`."""
    for after in (0, 1, 2, 3, 4):
        with pytest.raises(Erased, match="was erased; its time was over"):
            await store.read(stream, after)
        with pytest.raises(Erased):
            await store.read_one(stream, after + 1)
        with store.subscribe(stream, after) as reader, pytest.raises(Erased) as told:
            await reader.next()
        assert told.value.stream == stream
    with pytest.raises(Erased):
        await store.head(stream)
    with pytest.raises(Erased):
        await store.trim(stream, 2)


async def test_erasing_removes_events_snapshots_and_writers(store: EventStore, other: EventStore) -> None:
    await store.append(sample_append("s", 1, 2, writer=Writer("w", 1, 1), category="talk"))
    await store.append(sample_append("s", 3, writer=Writer("w", 1, 2), closes="w"))
    await store.save_snapshot("s", "fold", Snapshot(2, "{}"))
    assert list(await erase_streams(other)) == ["s"]
    for process in (store, other):
        await assert_erased(process, "s")
        assert await process.load_snapshot("s", "fold", 99) is None
        assert await process.writer("s", "w") is None
        assert await process.closed_by_others() == []
        assert await process.open_writers() == []
        for category in ("talk", ""):
            assert await process.list_streams(category, None, 100) == []
            assert await erase_streams(process, category) == []
    await assert_erased(store, "s")  # a trim that was asked for in between changes nothing


async def test_only_the_category_is_erased(store: EventStore) -> None:
    for stream, category in (("a", "talk"), ("b", "other"), ("c", ""), ("d", "talk")):
        await store.append(sample_append(stream, stream, category=category))
    await store.save_snapshot("b", "fold", Snapshot(1, "{}"))
    assert await erase_streams(store, "nobody's") == []
    assert list(await erase_streams(store)) == ["a", "d"]
    assert names(await read_all(store, "b")) == ["b"]
    assert await store.load_snapshot("b", "fold", 1) == Snapshot(1, "{}")
    assert [row.name for row in await store.list_streams("", None, 100)] == ["c"]
    assert list(await erase_streams(store, "")) == ["c"]


async def test_stream_is_erased_only_after_its_age(store: EventStore, other: EventStore) -> None:
    await store.append(sample_append("old", 1, category="talk"))
    await store.append(sample_append("s", 1, category="talk"))
    began = await store.clock()
    while (await store.clock() - began).total_seconds() < 0.5:  # more than the erasing comes late
        await trio.sleep(0.02)
    await other.append(sample_append("s", 2))
    assert await store.erase_streams("talk", 3600.0) == []
    age = (await store.clock() - began).total_seconds()
    assert list(await store.erase_streams("talk", age)) == ["old"]  # the other one is as old as its newest event
    assert names(await read_all(other, "s")) == ["1", "2"]


async def test_stream_with_an_open_writer_is_kept(store: EventStore, other: EventStore) -> None:
    await store.append(sample_append("s", 1, writer=Writer("v", 1, 1), closes="v", category="talk"))
    await store.append(sample_append("s", 2, writer=Writer("w", 1, 1)))
    assert await erase_streams(other) == []
    assert (await store.append(sample_append("s", 3, writer=Writer("w", 1, 2)))).first == 3
    await other.append(sample_append("s", "cancelled", closes="w"))
    assert list(await erase_streams(other)) == ["s"]


async def test_limit_erases_the_oldest_streams_first(store: EventStore, other: EventStore) -> None:
    for n in range(7):
        await store.append(sample_append(f"s{n}", n, category="talk"))
    await store.append(sample_append("s0", "newer"))
    calls = [list(await erase_streams((store, other)[n % 2], limit=3)) for n in range(4)]
    assert calls == [["s0", "s1", "s2"], ["s3", "s4", "s5"], ["s6"], []]


APPENDS: list[dict[str, object]] = [
    {"expected": ANY},
    {"expected": NO_STREAM},
    {"expected": 3},
    {"expected": 4},
    {"writer": Writer("w", 1, 1)},
    {"writer": Writer("w", 1, 2)},
    {"writer": Writer("w", 1, 1), "closes": "w"},
    {"closes": "w"},
    {"during": "w"},
    {"keys": (Key("k", "k", b"1"),)},
    {"keys": (Key("k", "claimed", b"other"),)},
]


async def test_append_to_an_erased_stream_is_refused(store: EventStore, other: EventStore) -> None:
    await store.append(sample_append("beside", 1, keys=(Key("k", "claimed", b"1"),)))
    for n, options in enumerate(APPENDS):
        stream = f"s{n}"
        with case(options):
            await make_erased(store, stream)
            for process in (store, other):
                with pytest.raises(Erased) as refusal:
                    await process.append(sample_append(stream, "x", category="talk", **options))
                assert refusal.value.stream == stream
            await assert_erased(other, stream)
            assert await store.writer(stream, "w") is None
            assert await store.find_key("k", "k") is None
    with pytest.raises(KeyReused):
        await store.append(sample_append("beside", 1, keys=(Key("k", "claimed", b"other"),)))


async def test_refused_append_leaves_its_batch_alone(store: EventStore) -> None:
    await store.append(sample_append("t", 1, writer=Writer("w", 1, 1)))
    await make_erased(store)
    came: dict[str, int] = {}

    async def ask(append: Append) -> None:
        try:
            came[append.stream] = (await store.append(append)).first
        except Erased:
            came[append.stream] = 0

    async with trio.open_nursery() as nursery:
        for append in (
            sample_append("alone", "goes at once, the others together"),
            sample_append("t", 2, writer=Writer("w", 1, 2)),
            sample_append("s", "x"),
            sample_append("new", 1, keys=(Key("k", "k", b"1"),)),
        ):
            nursery.start_soon(ask, append)
    assert came == {"alone": 1, "t": 2, "s": 0, "new": 1}
    assert names(await read_all(store, "t")) == ["1", "2"]


async def test_keys_outlive_the_stream(store: EventStore, other: EventStore) -> None:
    once = sample_append("s", 1, category="talk", keys=(Key("k", "k", b"1"),))
    await store.append(once)
    await erase_streams(store)
    again = await other.append(once)
    assert (again.stream, again.first, again.last, again.repeated) == ("s", 1, 1, True)
    place = await other.find_key("k", "k")
    assert place is not None
    assert (place.stream, place.first) == ("s", 1)
    await assert_erased(other, "s")


async def test_late_snapshot_is_not_stored(store: EventStore, other: EventStore) -> None:
    await make_erased(store)
    for process in (store, other):
        await process.save_snapshot("s", "fold", Snapshot(3, '"all that was said"'))
        assert await process.load_snapshot("s", "fold", 3) is None


async def test_trimmed_stream_can_be_erased(store: EventStore, other: EventStore) -> None:
    await store.append(sample_append("s", *range(5), category="talk"))
    await store.trim("s", 4)
    assert list(await erase_streams(other)) == ["s"]
    await assert_erased(store, "s")


async def test_sleeping_readers_get_erased(store: EventStore, other: EventStore) -> None:
    await store.append(sample_append("s", 1, 2, category="talk"))
    told: list[EventStore] = []

    async def follow(process: EventStore, *, task_status: trio.TaskStatus[None]) -> None:
        with process.subscribe("s") as reader:
            await take(reader, 2)
            while await reader.poll():
                pass
            task_status.started()
            with pytest.raises(Erased):
                await reader.next()
        told.append(process)

    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery:
            for process in (store, other):
                await nursery.start(follow, process)
            assert list(await erase_streams(store)) == ["s"]
    assert {process.owner for process in told} == {store.owner, other.owner}


async def test_tail_of_another_process_ends_with_its_next_read(store: EventStore, other: EventStore) -> None:
    await store.append(sample_append("s", 1, 2, category="talk"))
    assert names(await read_all(other, "s")) == ["1", "2"]
    await erase_streams(store)
    with store.subscribe("s") as here, pytest.raises(Erased):
        await here.next()
    seen: list[str] = []

    async def follow() -> None:
        with other.subscribe("s") as there:
            while True:
                seen.extend(names(await there.next()))

    with trio.fail_after(BOUND), pytest.raises(Erased):
        await follow()
    assert seen in ([], ["1", "2"])
    await assert_erased(other, "s")


async def test_clock(store: EventStore, other: EventStore) -> None:
    for process, beside in ((store, other), (other, store)):
        before = await beside.clock()
        appended = await process.append(sample_append("s", 1))
        after = await beside.clock()
        assert appended.at is not None
        assert before <= appended.at <= after
        assert after.utcoffset() == timedelta(0)
