"""Single connections of the store are killed or hang: the others go on, and a new one replaces it."""

import os
import random
import signal

import pytest
import trio

from eventstore import EventStore, StoreOptions, StoreUnavailable, Writer
from eventstore.postgres import PostgresBackend, PostgresOptions, notify
from tests.eventstore.faults.load import Load
from tests.eventstore.sample_events import BOUND, names, sample_append, take, wait_until
from tests.harness.databases import Postgres, TestDatabase

PURPOSES = ("appends", "reads", "queries", "heads", "notify", "listen", "liveness")
SLOW_POLL = StoreOptions(call_timeout=BOUND, safety_poll=600.0)


def new_store(database: TestDatabase, program: str, options: StoreOptions = SLOW_POLL) -> EventStore:
    postgres = PostgresOptions(database.app_url, program=program, call_timeout=options.call_timeout)
    return EventStore(PostgresBackend(postgres), options)


async def backends(postgres: Postgres, name: str) -> list[int]:
    """The pids of the connections of that name."""
    found = await trio.to_thread.run_sync(
        postgres.sql, f"SELECT pid FROM pg_stat_activity WHERE application_name = '{name}'"
    )
    return [int(pid) for pid in found.split()]


async def kill(postgres: Postgres, name: str) -> None:
    """Ends the connections of that name with pg_terminate_backend."""
    await trio.to_thread.run_sync(
        postgres.sql, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{name}'"
    )


async def test_random_kills_while_appending(breakable: Postgres, database: TestDatabase) -> None:
    choice = random.Random(4)
    victims = [f"{program} {purpose}" for program in ("one", "two") for purpose in PURPOSES] * 2
    choice.shuffle(victims)
    async with (
        new_store(database, "one", StoreOptions(call_timeout=60.0)).open() as writes,
        new_store(database, "two", StoreOptions(call_timeout=60.0)).open() as reads,
        trio.open_nursery() as nursery,
    ):
        load = Load(writes, reads)
        await load.run(nursery)
        for victim in victims:
            await kill(breakable, victim)
            await load.grown(1)
        await load.reckon()
        nursery.cancel_scope.cancel()


async def test_killed_listen_connection(breakable: Postgres, database: TestDatabase) -> None:
    async with new_store(database, "one").open() as store, new_store(database, "two").open() as other:
        await other.append(sample_append("s", 0))
        await other.append(sample_append("t", 0))
        with store.subscribe("s") as reader, store.subscribe("t") as quiet:
            for sleeper in (reader, quiet):
                await take(sleeper, 1)
                assert list(await sleeper.poll()) == []
            for n in range(1, 4):
                looked = trio.Event()
                store.on_close(looked.set)
                await kill(breakable, "one listen")
                await other.append(sample_append("s", f"{n} in the gap"))
                assert names(await take(reader, 1)) == [f"{n} in the gap"]
                with trio.fail_after(BOUND):
                    await looked.wait()  # it listens again, and has reported that anything may have changed

                async def heard(position: int = 2 * n + 1) -> bool:
                    return (await store.head("s")).position == position

                await other.append(sample_append("s", f"{n} after it"))
                await wait_until(heard)
                assert names(await take(reader, 1)) == [f"{n} after it"]
            await other.append(sample_append("t", "quiet"))
            assert names(await take(quiet, 1)) == ["quiet"]


async def test_killed_liveness_connection(breakable: Postgres, database: TestDatabase) -> None:
    async with new_store(database, "one").open() as store, new_store(database, "two").open() as other:
        await store.append(sample_append("s", 1, writer=Writer("w", 1, 1)))

        async def alive() -> bool:
            state = await other.writer("s", "w")
            return state is not None and state.owner_alive

        for _ in range(3):
            before = await backends(breakable, "one liveness")
            await kill(breakable, "one liveness")

            async def another(before: list[int] = before) -> bool:
                now = await backends(breakable, "one liveness")
                return len(now) == 1 and now != before

            await wait_until(another)
            await wait_until(alive)


async def test_hanging_listen_connection(
    breakable: Postgres, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is open but nothing arrives on it: the ping times out, and a new connection listens."""
    monkeypatch.setattr(notify, "PING_SECONDS", 0.2)
    impatient = StoreOptions(call_timeout=1.0, safety_poll=600.0)
    async with new_store(database, "one", impatient).open() as store, new_store(database, "two").open() as other:
        await other.append(sample_append("s", 1))
        with store.subscribe("s") as reader:
            await take(reader, 1)
            assert list(await reader.poll()) == []
            (pid,) = await backends(breakable, "one listen")
            os.kill(pid, signal.SIGSTOP)
            try:
                await other.append(sample_append("s", 2))
                assert names(await take(reader, 1)) == ["2"]
            finally:
                os.kill(pid, signal.SIGCONT)


async def test_hanging_query_connection(breakable: Postgres, database: TestDatabase) -> None:
    """Its server process hangs, as when the machine swaps: the call times out, and a new connection is made."""
    impatient = StoreOptions(call_timeout=1.0, safety_poll=600.0)
    async with new_store(database, "one", impatient).open() as store:
        await store.append(sample_append("s", 1, writer=Writer("w", 1, 1)))
        await store.read("s")
        await store.head("s")
        await store.writer("s", "w")
        stopped = [pid for purpose in PURPOSES[:4] for pid in await backends(breakable, f"one {purpose}")]
        assert len(stopped) == 4
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            async with trio.open_nursery() as nursery:
                for call in (
                    lambda: store.append(sample_append("s", 2, writer=Writer("w", 1, 2))),
                    lambda: store.read("s"),
                    lambda: store.head("s"),
                    lambda: store.writer("s", "w"),
                ):
                    nursery.start_soon(unavailable, call)
            with trio.fail_after(BOUND):
                assert (await store.append(sample_append("s", 2, writer=Writer("w", 1, 2)))).first == 2
                assert names((await store.read("s")).events) == ["1", "2"]
                assert (await store.head("s")).position == 2
                assert await store.writer("s", "w") is not None
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)


async def unavailable(call: object) -> None:
    assert callable(call)
    with trio.fail_after(3.0), pytest.raises(StoreUnavailable):
        await call()
