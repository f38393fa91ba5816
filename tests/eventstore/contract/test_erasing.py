"""Erased streams: nothing is left of them but that they were; whoever comes to one is told, in every process."""

from collections.abc import Sequence
from datetime import timedelta

import pytest
import trio

from eventstore import ANY, NO_STREAM, Append, Erased, EventStore, Key, KeyReused, Snapshot, Writer
from tests.eventstore.sample_events import BOUND, names, note, take, whole

NOW = -1.0  # an age that every stream has


async def erase(store: EventStore, category: str = "talk", limit: int = 100) -> Sequence[str]:
    """All that is to be had in one call."""
    return await store.erase_streams(category, NOW, limit)


async def erased(store: EventStore, stream: str = "s") -> None:
    """Makes that stream, of three events, and erases it."""
    await store.append(note(stream, 1, 2, 3, category="talk"))
    assert await erase(store) == [stream]


async def gone(store: EventStore, stream: str) -> None:
    """Every question about what was in it is answered so."""
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


async def test_nothing_is_left(store: EventStore, other: EventStore) -> None:
    await store.append(note("s", 1, 2, writer=Writer("w", 1, 1), category="talk"))
    await store.append(note("s", 3, writer=Writer("w", 1, 2), closes="w"))
    await store.save_snapshot("s", "fold", Snapshot(2, "{}"))
    assert list(await erase(other)) == ["s"]
    for process in (store, other):
        await gone(process, "s")
        assert await process.load_snapshot("s", "fold", 99) is None
        assert await process.writer("s", "w") is None
        assert await process.closed_by_others() == []
        assert await process.open_writers() == []
        for category in ("talk", ""):
            assert await process.list_streams(category, None, 100) == []
            assert await erase(process, category) == []
    await gone(store, "s")  # a trim that was asked for in between changes nothing


async def test_only_that_category(store: EventStore) -> None:
    for stream, category in (("a", "talk"), ("b", "other"), ("c", ""), ("d", "talk")):
        await store.append(note(stream, stream, category=category))
    await store.save_snapshot("b", "fold", Snapshot(1, "{}"))
    assert await erase(store, "nobody's") == []
    assert list(await erase(store)) == ["a", "d"]
    assert names(await whole(store, "b")) == ["b"]
    assert await store.load_snapshot("b", "fold", 1) == Snapshot(1, "{}")
    assert [row.name for row in await store.list_streams("", None, 100)] == ["c"]
    assert list(await erase(store, "")) == ["c"]


async def test_not_before_its_time(store: EventStore, other: EventStore) -> None:
    await store.append(note("old", 1, category="talk"))
    await store.append(note("s", 1, category="talk"))
    began = await store.clock()
    while (await store.clock() - began).total_seconds() < 0.5:  # more than the erasing comes late
        await trio.sleep(0.02)
    await other.append(note("s", 2))
    assert await store.erase_streams("talk", 3600.0) == []
    age = (await store.clock() - began).total_seconds()
    assert list(await store.erase_streams("talk", age)) == ["old"]  # the other one is as old as its newest event
    assert names(await whole(other, "s")) == ["1", "2"]


async def test_not_while_somebody_writes(store: EventStore, other: EventStore) -> None:
    await store.append(note("s", 1, writer=Writer("v", 1, 1), closes="v", category="talk"))
    await store.append(note("s", 2, writer=Writer("w", 1, 1)))
    assert await erase(other) == []
    assert (await store.append(note("s", 3, writer=Writer("w", 1, 2)))).first == 3
    await other.append(note("s", "cancelled", closes="w"))
    assert list(await erase(other)) == ["s"]


async def test_some_at_a_time_the_oldest_streams_first(store: EventStore, other: EventStore) -> None:
    for n in range(7):
        await store.append(note(f"s{n}", n, category="talk"))
    await store.append(note("s0", "newer"))
    calls = [list(await erase((store, other)[n % 2], limit=3)) for n in range(4)]
    assert calls == [["s0", "s1", "s2"], ["s3", "s4", "s5"], ["s6"], []]


@pytest.mark.parametrize(
    "options",
    [
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
    ],
    ids=str,
)
async def test_nothing_is_appended(store: EventStore, other: EventStore, options: dict[str, object]) -> None:
    await store.append(note("beside", 1, keys=(Key("k", "claimed", b"1"),)))
    await erased(store)
    for process in (store, other):
        with pytest.raises(Erased) as refusal:
            await process.append(note("s", "x", category="talk", **options))
        assert refusal.value.stream == "s"
    await gone(other, "s")
    assert await store.writer("s", "w") is None
    assert await store.find_key("k", "k") is None
    with pytest.raises(KeyReused):
        await store.append(note("beside", 1, keys=(Key("k", "claimed", b"other"),)))


async def test_its_neighbours_are_appended(store: EventStore) -> None:
    await store.append(note("t", 1, writer=Writer("w", 1, 1)))
    await erased(store)
    came: dict[str, int] = {}

    async def ask(append: Append) -> None:
        try:
            came[append.stream] = (await store.append(append)).first
        except Erased:
            came[append.stream] = 0

    async with trio.open_nursery() as nursery:
        for append in (
            note("alone", "goes at once, the others together"),
            note("t", 2, writer=Writer("w", 1, 2)),
            note("s", "x"),
            note("new", 1, keys=(Key("k", "k", b"1"),)),
        ):
            nursery.start_soon(ask, append)
    assert came == {"alone": 1, "t": 2, "s": 0, "new": 1}
    assert names(await whole(store, "t")) == ["1", "2"]


async def test_what_was_appended_under_a_key_is_known_to_have_been(store: EventStore, other: EventStore) -> None:
    once = note("s", 1, category="talk", keys=(Key("k", "k", b"1"),))
    await store.append(once)
    await erase(store)
    again = await other.append(once)
    assert (again.stream, again.first, again.last, again.repeated) == ("s", 1, 1, True)
    place = await other.find_key("k", "k")
    assert place is not None
    assert (place.stream, place.first) == ("s", 1)
    await gone(other, "s")


async def test_a_fold_that_is_late_is_not_kept(store: EventStore, other: EventStore) -> None:
    await erased(store)
    for process in (store, other):
        await process.save_snapshot("s", "fold", Snapshot(3, '"all that was said"'))
        assert await process.load_snapshot("s", "fold", 3) is None


async def test_one_that_was_trimmed_before(store: EventStore, other: EventStore) -> None:
    await store.append(note("s", *range(5), category="talk"))
    await store.trim("s", 4)
    assert list(await erase(other)) == ["s"]
    await gone(store, "s")


async def test_who_sleeps_on_it_is_told(store: EventStore, other: EventStore) -> None:
    await store.append(note("s", 1, 2, category="talk"))
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
            assert list(await erase(store)) == ["s"]
    assert {process.owner for process in told} == {store.owner, other.owner}


async def test_what_another_process_holds_of_it_ends_with_its_next_look(
    store: EventStore, other: EventStore
) -> None:
    await store.append(note("s", 1, 2, category="talk"))
    assert names(await whole(other, "s")) == ["1", "2"]
    await erase(store)
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
    await gone(other, "s")


async def test_the_clock(store: EventStore, other: EventStore) -> None:
    for process, beside in ((store, other), (other, store)):
        before = await beside.clock()
        appended = await process.append(note("s", 1))
        after = await beside.clock()
        assert appended.at is not None
        assert before <= appended.at <= after
        assert after.utcoffset() == timedelta(0)
