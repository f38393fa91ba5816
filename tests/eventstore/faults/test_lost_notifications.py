"""Notifications are only hints: with every one lost, or nonsense among them, all events still arrive in
order.
"""

import pytest
import trio

from eventstore import EventStore, StoreOptions
from eventstore.postgres import PostgresBackend, PostgresOptions
from tests.eventstore.sample_events import BOUND, names, read_all, sample_append, take
from tests.harness.databases import Postgres, TestDatabase


def new_store(database: TestDatabase, *, notifications: bool, safety_poll: float) -> EventStore:
    log = PostgresBackend(PostgresOptions(database.app_url, notifications=notifications))
    return EventStore(log, StoreOptions(call_timeout=BOUND, safety_poll=safety_poll))


async def test_all_events_arrive_without_notifications(database: TestDatabase) -> None:
    got: dict[str, list[str]] = {}

    async def follow(store: EventStore, stream: str) -> None:
        with store.subscribe(stream) as reader:
            got[stream] = names(await take(reader, 91))

    async with (
        new_store(database, notifications=False, safety_poll=0.02).open() as store,
        new_store(database, notifications=False, safety_poll=0.02).open() as other,
    ):
        for n in range(5):
            await store.append(sample_append(f"s{n}", "opened"))
        async with trio.open_nursery() as nursery:
            for n in range(5):
                nursery.start_soon(follow, store, f"s{n}")

            async def write(process: EventStore, stream: str, name: str, count: int) -> None:
                for n in range(count):
                    await process.append(sample_append(stream, f"{name} {n}"))

            for n in range(5):
                nursery.start_soon(write, other, f"s{n}", "there", 60)
                nursery.start_soon(write, store, f"s{n}", "here", 30)
        for n in range(5):
            assert got[f"s{n}"] == names(await read_all(store, f"s{n}"))


async def test_disabled_notifications_are_neither_sent_nor_received(database: TestDatabase) -> None:
    async with (
        new_store(database, notifications=False, safety_poll=600.0).open() as dumb,
        new_store(database, notifications=True, safety_poll=600.0).open() as other,
        new_store(database, notifications=True, safety_poll=600.0).open() as third,
    ):
        await dumb.append(sample_append("s", 1))
        bells = {store: store.wakeups.add("s", 1) for store in (dumb, other, third)}
        for bell in bells.values():
            bell.arm()
        await dumb.append(sample_append("s", 2, closes="w"))
        assert bells[dumb].woken
        await other.append(sample_append("s", 3))
        with trio.fail_after(BOUND):
            await bells[third].sleep()  # by the other's: what the dumb one said was said before it, if at all
        bells[dumb].arm()
        bells[other].arm()
        await third.append(sample_append("s", 4, closes="v"))
        with trio.fail_after(BOUND):
            await bells[other].sleep()
        assert not bells[dumb].woken


@pytest.mark.parametrize("payload", ["", "garbage", "null", '{"a": 1}', "[1, 2]", '["unknown", "s\\u0000"]'])
async def test_malformed_notification_is_harmless(
    breakable: Postgres, database: TestDatabase, payload: str
) -> None:
    async with (
        new_store(database, notifications=True, safety_poll=600.0).open() as store,
        new_store(database, notifications=True, safety_poll=600.0).open() as other,
    ):
        await store.append(sample_append("s", 1))
        with store.subscribe("s") as reader:
            await take(reader, 1)
            assert list(await reader.poll()) == []
            for channel in ("eventstore_newer", "eventstore_closed"):
                tell = f"SELECT pg_notify('{channel}', '{payload}')"
                await trio.to_thread.run_sync(breakable.sql, tell, database.name)
            await other.append(sample_append("s", 2))
            assert names(await take(reader, 1)) == ["2"]
