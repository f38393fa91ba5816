"""The database restarts, or stays away, while the store works."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Literal

import pytest
import trio

from eventstore import EventStore, Snapshot, StoreOptions, StoreUnavailable, Writer
from eventstore.postgres import PostgresBackend, PostgresOptions
from server.embedded_postgres import restart, stop
from tests.eventstore.faults.load import Load
from tests.eventstore.sample_events import BOUND, names, read_all, sample_append, take
from tests.harness.databases import Postgres, TestDatabase


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_restart_under_load(
    breakable: Postgres, database: TestDatabase, mode: Literal["fast", "immediate"]
) -> None:
    def new() -> EventStore:
        return EventStore(PostgresBackend(PostgresOptions(database.app_url)), StoreOptions(call_timeout=60.0))

    async with new().open() as writes, new().open() as reads, trio.open_nursery() as nursery:
        load = Load(writes, reads)
        await load.run(nursery)
        await load.grown(10)
        for _ in range(2):
            await trio.to_thread.run_sync(restart, breakable.embedded, mode)
            await load.grown(10)
        await load.reckon()
        nursery.cancel_scope.cancel()


PATIENCE = 1.0


async def test_outage_longer_than_the_time_limit(breakable: Postgres, database: TestDatabase) -> None:
    log = PostgresBackend(PostgresOptions(database.app_url, database.owner_url))
    async with EventStore(log, StoreOptions(call_timeout=PATIENCE)).open() as store:
        await store.append(sample_append("s", 1, writer=Writer("w", 1, 1)))
        await store.append(sample_append("s", "x", writer=Writer("v", 1, 1)))
        with store.subscribe("s") as reader:
            await take(reader, 2)
            await trio.to_thread.run_sync(stop, breakable.embedded)
            await assert_all_unavailable(
                [
                    partial(store.append, sample_append("s", 2, writer=Writer("w", 1, 2))),
                    partial(store.append, sample_append("t", 1)),
                    partial(store.append, sample_append("s", "closed", closes="v")),
                    partial(store.read, "s"),
                    partial(store.read_one, "s", 1),
                    partial(store.head, "s"),
                    partial(store.find_key, "k", "k"),
                    partial(store.writer, "s", "w"),
                    partial(store.list_streams, "", None, 1),
                    partial(store.load_snapshot, "s", "fold", 1),
                    partial(store.save_snapshot, "s", "fold", Snapshot(1, "{}")),
                    partial(store.trim, "s", 1),
                    store.open_writers,
                    store.closed_by_others,
                    store.expire_keys,
                    store.alive,
                    reader.poll,
                ]
            )
            await trio.to_thread.run_sync(restart, breakable.embedded)
            # The very same append again: whether or not it happened before, it stands once.
            await store.append(sample_append("s", 2, writer=Writer("w", 1, 2)))
            await store.append(sample_append("s", 3, writer=Writer("w", 1, 3)))
            events = await read_all(store, "s")
            # What was answered "not known" may stand too, once, if the database came back in time.
            assert [name for name in names(events) if name != "closed"] == ["1", "x", "2", "3"]
            assert len(events) <= 5
            assert names(await take(reader, len(events) - 2)) == names(events)[2:]


async def assert_all_unavailable(calls: list[Callable[[], Awaitable[object]]]) -> None:
    """Each call ends as `StoreUnavailable` within the time limit and two seconds, all at once."""

    async def one(call: Callable[[], Awaitable[object]]) -> None:
        with trio.fail_after(PATIENCE + 2.0), pytest.raises(StoreUnavailable):
            await call()

    async with trio.open_nursery() as nursery:
        for call in calls:
            nursery.start_soon(one, call)


async def test_readers_asleep_during_the_restart(breakable: Postgres, database: TestDatabase) -> None:
    """Nobody makes a call during the outage; the first process after it appends, and all readers get the event."""
    slow_poll = StoreOptions(call_timeout=BOUND, safety_poll=600.0)
    async with EventStore(PostgresBackend(PostgresOptions(database.app_url)), slow_poll).open() as sleeping:
        await sleeping.append(sample_append("s", 1))
        with sleeping.subscribe("s") as reader:
            await take(reader, 1)
            assert list(await reader.poll()) == []
            await trio.to_thread.run_sync(restart, breakable.embedded, "immediate")
            async with EventStore(PostgresBackend(PostgresOptions(database.app_url)), slow_poll).open() as other:
                await other.append(sample_append("s", 2))
                assert names(await take(reader, 1)) == ["2"]
                await other.append(sample_append("s", 3))
                assert names(await take(reader, 1)) == ["3"]
