"""The time `at` of an event is the database's, and never falls along a stream, even if the database's clock
is set back.
"""

from datetime import UTC, datetime, timedelta

import trio
from trio.testing import MockClock

from eventstore import EventStore, Key
from eventstore.memory_backend import MemoryBackend
from eventstore.postgres import PostgresBackend, PostgresOptions
from tests.eventstore.connections import sessions
from tests.eventstore.sample_events import is_gapless, read_all, sample_append
from tests.harness.databases import TestDatabase


async def test_times_never_fall_when_the_database_clock_is_set_back(database: TestDatabase) -> None:
    async with (
        EventStore(PostgresBackend(PostgresOptions(database.app_url))).open() as store,
        sessions(database.owner_url, "owner") as (owner,),
    ):
        before = await store.append(sample_append("s", 1))
        # As it looks after the clock was set back an hour: the stream's newest event is from the future.
        await owner.fetch("UPDATE streams SET last_at = last_at + interval '1 hour'")
        ahead = await store.append(sample_append("s", 2, 3))
        again = await store.append(sample_append("s", 4))
        assert before.at is not None
        assert ahead.at == before.at + timedelta(hours=1)
        assert again.at == ahead.at
        events = await read_all(store, "s")
        assert [event.at for event in events] == [before.at, ahead.at, ahead.at, ahead.at]
        assert is_gapless(events)
        beside = await store.append(sample_append("t", 1))
        assert beside.at is not None
        assert beside.at < ahead.at
        assert abs(beside.at - datetime.now(UTC)) < timedelta(minutes=1)


async def test_memory_backend_uses_trios_clock(autojump_clock: MockClock) -> None:
    async with EventStore(MemoryBackend().process()).open() as store:
        first = await store.append(sample_append("s", 1))
        await trio.sleep(90)
        second = await store.append(sample_append("s", 2))
        assert first.at is not None
        assert second.at is not None
        assert timedelta(seconds=90) <= second.at - first.at < timedelta(seconds=91)


async def test_memory_backend_times_never_fall(autojump_clock: MockClock) -> None:
    shared = MemoryBackend()
    async with EventStore(shared.process()).open() as store:
        await store.append(sample_append("s", 1))
        newest = shared.streams["s"].events[-1]
        newest.at += timedelta(hours=1)
        assert (await store.append(sample_append("s", 2))).at == newest.at


async def test_memory_backend_expires_keys(autojump_clock: MockClock) -> None:
    key = Key("k", "k", b"1", seconds=100.0)
    async with EventStore(MemoryBackend().process()).open() as store:
        await store.append(sample_append("s", 1, keys=(key,)))
        await trio.sleep(99)
        assert (await store.append(sample_append("s", 1, keys=(key,)))).repeated
        await trio.sleep(2)
        assert await store.find_key("k", "k") is None
        assert not (await store.append(sample_append("s", 1, keys=(key,)))).repeated
        await trio.sleep(101)
        assert await store.expire_keys() == 1
