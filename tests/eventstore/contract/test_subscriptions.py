"""Subscriptions: from any position exactly the later events, whoever appends, and whenever a read is cancelled.

The safety poll is ten minutes away here: whatever arrives came by a wake-up.
"""

import pytest
import trio

from eventstore import EventStore, StreamUnknown, Subscription
from tests.eventstore.sample_events import BOUND, names, read_all, sample_append, take


@pytest.mark.parametrize("after", [0, 3, 9, 10])
async def test_subscription_from_a_position(store: EventStore, other: EventStore, after: int) -> None:
    await store.append(sample_append("s", *range(1, 8)))
    await other.append(sample_append("s", *range(8, 11)))
    for process in (store, other):
        with process.subscribe("s", after) as reader:
            if after < 10:
                assert names(await take(reader, 10 - after)) == [str(n) for n in range(after + 1, 11)]
            assert list(await reader.poll()) == []
            assert (reader.position, reader.head) == (10, 10)


@pytest.mark.parametrize("writer", ["the same process", "the other process"])
async def test_sleeping_reader_is_woken(store: EventStore, other: EventStore, writer: str) -> None:
    writes = store if writer == "the same process" else other
    await other.append(sample_append("s", 1))
    with store.subscribe("s") as reader:
        await take(reader, 1)
        for n in range(2, 12):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(writes.append, sample_append("s", n))
                assert names(await take(reader, 1)) == [str(n)]


async def test_events_of_two_processes_come_once_and_in_order(store: EventStore, other: EventStore) -> None:
    await store.append(sample_append("s", "opened"))
    got: dict[str, list[str]] = {}

    async def follow(process: EventStore, name: str, after: int) -> None:
        with process.subscribe("s", after) as reader:
            got[name] = names(await take(reader, 81 - after))

    async def write(process: EventStore, name: str) -> None:
        for n in range(40):
            await process.append(sample_append("s", f"{name} {n}"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, store, "here", 0)
        nursery.start_soon(follow, store, "here too", 0)
        nursery.start_soon(follow, other, "there", 0)
        nursery.start_soon(follow, other, "later", 1)
        nursery.start_soon(write, store, "a")
        nursery.start_soon(write, other, "b")
    log = names(await read_all(store, "s"))
    assert got == {"here": log, "here too": log, "there": log, "later": log[1:]}


async def test_foreign_append_right_after_an_own_one_is_read_at_once(store: EventStore, other: EventStore) -> None:
    # Both bells ring before the reader looks, and its own process's event hides the other's in the tail.
    await store.append(sample_append("s", 1))
    with store.subscribe("s") as reader:
        await take(reader, 1)
        assert list(await reader.poll()) == []
        await store.append(sample_append("s", 2))
        bell = store.wakeups.add("s", 2)
        bell.arm()
        await other.append(sample_append("s", 3))
        with trio.fail_after(BOUND):
            await bell.sleep()
        assert names(await take(reader, 2)) == ["2", "3"]


async def test_slow_reader_gets_everything(store: EventStore) -> None:
    await store.append(sample_append("s", 0))
    with store.subscribe("s") as slow, store.subscribe("s") as quick:
        for n in range(1, 40):
            await store.append(sample_append("s", *(f"{n} {k}" for k in range(40))))
            await quick.next()
        assert names(await take(slow, 1 + 39 * 40)) == names(await read_all(store, "s"))


async def test_cancelled_reads_lose_nothing(store: EventStore, other: EventStore) -> None:
    got: list[str] = []
    cuts = passes = 0
    await store.append(sample_append("s", "opened"))
    with store.subscribe("s") as reader:
        async with trio.open_nursery() as nursery:

            async def write() -> None:
                for n in range(60):
                    await (store, other)[n % 2].append(sample_append("s", n))

            nursery.start_soon(write)
            with trio.fail_after(BOUND):
                while len(got) < 61:
                    with trio.CancelScope() as cut:
                        nursery.start_soon(cancel_soon, cut, passes)
                        got += names(await reader.next())
                    cuts += cut.cancelled_caught
                    passes = 2 * passes + 1 if cut.cancelled_caught else 0
    assert cuts > 10
    assert got == names(await read_all(store, "s"))


async def cancel_soon(scope: trio.CancelScope, passes: int) -> None:
    """Cancels after some passes of the scheduler, in another stage of the look each time."""
    for _ in range(passes):
        await trio.lowlevel.checkpoint()
    scope.cancel()


async def test_each_stream_wakes_its_own_readers(store: EventStore, other: EventStore) -> None:
    got: dict[str, list[str]] = {}
    readers: list[Subscription] = []
    for n in range(60):
        await store.append(sample_append(f"s{n}", "opened"))
        readers.append(store.subscribe(f"s{n}", 1))

    async def follow(reader: Subscription) -> None:
        with reader:
            got[reader.stream] = names(await take(reader, 2))

    async with trio.open_nursery() as nursery:
        for reader in readers:
            nursery.start_soon(follow, reader)
        for n in range(60):
            nursery.start_soon((store, other)[n % 2].append, sample_append(f"s{n}", f"one {n}"))
        for n in range(60):
            nursery.start_soon((store, other)[(n + 1) % 2].append, sample_append(f"s{n}", f"two {n}"))
    for n in range(60):
        assert got[f"s{n}"] == names(await read_all(store, f"s{n}", 1))
        assert sorted(got[f"s{n}"]) == [f"one {n}", f"two {n}"]
    assert len(store.wakeups) == 0


async def test_stream_name_too_long_for_a_notification(store: EventStore, other: EventStore) -> None:
    long = "x" * 9_000
    for stream in (long, "beside"):
        await store.append(sample_append(stream, 1))
    with store.subscribe(long, 1) as reader, store.subscribe("beside", 1) as beside:
        assert list(await reader.poll()) == list(await beside.poll()) == []
        async with trio.open_nursery() as nursery:
            for stream in (long, "beside"):
                nursery.start_soon(other.append, sample_append(stream, 2))
        assert names(await take(reader, 1)) == names(await take(beside, 1)) == ["2"]


async def test_unknown_stream_raises_until_it_exists(store: EventStore) -> None:
    with store.subscribe("nowhere") as reader:
        with pytest.raises(StreamUnknown):
            await reader.next()
        await store.append(sample_append("nowhere", 1))
        assert names(await take(reader, 1)) == ["1"]


async def test_subscription_past_the_head_waits(store: EventStore) -> None:
    await store.append(sample_append("s", 1))
    with store.subscribe("s", 2) as reader:
        assert list(await reader.poll()) == []
        assert reader.head == 1
        await store.append(sample_append("s", 2, 3))
        assert names(await take(reader, 1)) == ["3"]
