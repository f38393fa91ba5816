"""Notifications are hints: with every one dropped, or nonsense among them, all events still arrive, in order."""

import pytest
import trio

from eventstore import EventStore, StoreOptions
from eventstore.postgres import PostgresBackend, PostgresOptions
from tests.eventstore.sample_events import BOUND, names, note, take, whole
from tests.harness.databases import Postgres, TestDatabase


def opened(database: TestDatabase, *, notifications: bool, safety_poll: float) -> EventStore:
    log = PostgresBackend(PostgresOptions(database.app_url, notifications=notifications))
    return EventStore(log, StoreOptions(call_timeout=BOUND, safety_poll=safety_poll))


async def test_none_arrives(database: TestDatabase) -> None:
    got: dict[str, list[str]] = {}

    async def follow(store: EventStore, stream: str) -> None:
        with store.subscribe(stream) as reader:
            got[stream] = names(await take(reader, 91))

    async with (
        opened(database, notifications=False, safety_poll=0.02).open() as store,
        opened(database, notifications=False, safety_poll=0.02).open() as other,
    ):
        for n in range(5):
            await store.append(note(f"s{n}", "opened"))
        async with trio.open_nursery() as nursery:
            for n in range(5):
                nursery.start_soon(follow, store, f"s{n}")

            async def write(process: EventStore, stream: str, name: str, count: int) -> None:
                for n in range(count):
                    await process.append(note(stream, f"{name} {n}"))

            for n in range(5):
                nursery.start_soon(write, other, f"s{n}", "there", 60)
                nursery.start_soon(write, store, f"s{n}", "here", 30)
        for n in range(5):
            assert got[f"s{n}"] == names(await whole(store, f"s{n}"))


async def test_without_hints_nothing_is_told_nor_heard(database: TestDatabase) -> None:
    async with (
        opened(database, notifications=False, safety_poll=600.0).open() as dumb,
        opened(database, notifications=True, safety_poll=600.0).open() as other,
        opened(database, notifications=True, safety_poll=600.0).open() as third,
    ):
        await dumb.append(note("s", 1))
        bells = {store: store.wakeups.add("s", 1) for store in (dumb, other, third)}
        for bell in bells.values():
            bell.arm()
        await dumb.append(note("s", 2, closes="w"))
        assert bells[dumb].woken
        await other.append(note("s", 3))
        with trio.fail_after(BOUND):
            await bells[third].sleep()  # by the other's: what the dumb one said was said before it, if at all
        bells[dumb].arm()
        bells[other].arm()
        await third.append(note("s", 4, closes="v"))
        with trio.fail_after(BOUND):
            await bells[other].sleep()
        assert not bells[dumb].woken


@pytest.mark.parametrize("payload", ["", "garbage", "null", '{"a": 1}', "[1, 2]", '["unknown", "s\\u0000"]'])
async def test_nonsense_wakes_at_most(breakable: Postgres, database: TestDatabase, payload: str) -> None:
    async with (
        opened(database, notifications=True, safety_poll=600.0).open() as store,
        opened(database, notifications=True, safety_poll=600.0).open() as other,
    ):
        await store.append(note("s", 1))
        with store.subscribe("s") as reader:
            await take(reader, 1)
            assert list(await reader.poll()) == []
            for channel in ("eventstore_newer", "eventstore_closed"):
                tell = f"SELECT pg_notify('{channel}', '{payload}')"
                await trio.to_thread.run_sync(breakable.sql, tell, database.name)
            await other.append(note("s", 2))
            assert names(await take(reader, 1)) == ["2"]
