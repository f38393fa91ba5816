"""Single sessions of the store are killed or hang: the rest goes on, and a new one takes over."""

import os
import random
import signal

import pytest
import trio

from eventstore import EventStore, StoreOptions, StoreUnavailable, Writer
from eventstore.postgres import PostgresBackend, PostgresOptions, notify
from tests.eventstore.faults.load import Load
from tests.eventstore.sample_events import BOUND, names, note, take, until
from tests.harness.databases import Postgres, TestDatabase

PURPOSES = ("appends", "reads", "queries", "heads", "notify", "listen", "liveness")
SLOW_POLL = StoreOptions(call_timeout=BOUND, safety_poll=600.0)


def opened(database: TestDatabase, program: str, options: StoreOptions = SLOW_POLL) -> EventStore:
    postgres = PostgresOptions(database.app_url, program=program, call_timeout=options.call_timeout)
    return EventStore(PostgresBackend(postgres), options)


async def backends(postgres: Postgres, name: str) -> list[int]:
    """The pids of the sessions that call themselves so."""
    found = await trio.to_thread.run_sync(
        postgres.sql, f"SELECT pid FROM pg_stat_activity WHERE application_name = '{name}'"
    )
    return [int(pid) for pid in found.split()]


async def kill(postgres: Postgres, name: str) -> None:
    """Ends the sessions of that name, in the database's own way."""
    await trio.to_thread.run_sync(
        postgres.sql, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{name}'"
    )


async def test_at_random_while_appending(breakable: Postgres, database: TestDatabase) -> None:
    choice = random.Random(4)
    victims = [f"{program} {purpose}" for program in ("one", "two") for purpose in PURPOSES] * 2
    choice.shuffle(victims)
    async with (
        opened(database, "one", StoreOptions(call_timeout=60.0)).open() as writes,
        opened(database, "two", StoreOptions(call_timeout=60.0)).open() as reads,
        trio.open_nursery() as nursery,
    ):
        load = Load(writes, reads)
        await load.run(nursery)
        for victim in victims:
            await kill(breakable, victim)
            await load.grown(1)
        await load.reckon()
        nursery.cancel_scope.cancel()


async def test_the_one_that_hears(breakable: Postgres, database: TestDatabase) -> None:
    async with opened(database, "one").open() as store, opened(database, "two").open() as other:
        await other.append(note("s", 0))
        await other.append(note("t", 0))
        with store.subscribe("s") as reader, store.subscribe("t") as quiet:
            for sleeper in (reader, quiet):
                await take(sleeper, 1)
                assert list(await sleeper.poll()) == []
            for n in range(1, 4):
                looked = trio.Event()
                store.on_close(looked.set)
                await kill(breakable, "one listen")
                await other.append(note("s", f"{n} in the gap"))
                assert names(await take(reader, 1)) == [f"{n} in the gap"]
                with trio.fail_after(BOUND):
                    await looked.wait()  # it listens again, and has reported that anything may have changed

                async def heard(position: int = 2 * n + 1) -> bool:
                    return (await store.head("s")).position == position

                await other.append(note("s", f"{n} after it"))
                await until(heard)
                assert names(await take(reader, 1)) == [f"{n} after it"]
            await other.append(note("t", "quiet"))
            assert names(await take(quiet, 1)) == ["quiet"]


async def test_the_one_that_shows_life(breakable: Postgres, database: TestDatabase) -> None:
    async with opened(database, "one").open() as store, opened(database, "two").open() as other:
        await store.append(note("s", 1, writer=Writer("w", 1, 1)))

        async def alive() -> bool:
            state = await other.writer("s", "w")
            return state is not None and state.owner_alive

        for _ in range(3):
            before = await backends(breakable, "one liveness")
            await kill(breakable, "one liveness")

            async def another(before: list[int] = before) -> bool:
                now = await backends(breakable, "one liveness")
                return len(now) == 1 and now != before

            await until(another)
            await until(alive)


async def test_one_that_hears_and_hangs(
    breakable: Postgres, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is open but nothing arrives on it: the ping times out, and a new connection listens."""
    monkeypatch.setattr(notify, "PING_SECONDS", 0.2)
    impatient = StoreOptions(call_timeout=1.0, safety_poll=600.0)
    async with opened(database, "one", impatient).open() as store, opened(database, "two").open() as other:
        await other.append(note("s", 1))
        with store.subscribe("s") as reader:
            await take(reader, 1)
            assert list(await reader.poll()) == []
            (pid,) = await backends(breakable, "one listen")
            os.kill(pid, signal.SIGSTOP)
            try:
                await other.append(note("s", 2))
                assert names(await take(reader, 1)) == ["2"]
            finally:
                os.kill(pid, signal.SIGCONT)


async def test_one_that_hangs(breakable: Postgres, database: TestDatabase) -> None:
    """A server process hangs (its machine swaps): the call times out, and a new connection is made."""
    impatient = StoreOptions(call_timeout=1.0, safety_poll=600.0)
    async with opened(database, "one", impatient).open() as store:
        await store.append(note("s", 1, writer=Writer("w", 1, 1)))
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
                    lambda: store.append(note("s", 2, writer=Writer("w", 1, 2))),
                    lambda: store.read("s"),
                    lambda: store.head("s"),
                    lambda: store.writer("s", "w"),
                ):
                    nursery.start_soon(unavailable, call)
            with trio.fail_after(BOUND):
                assert (await store.append(note("s", 2, writer=Writer("w", 1, 2)))).first == 2
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
