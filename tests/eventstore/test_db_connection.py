"""Database connections: one statement at a time, reconnected when lost, and one connection for each purpose."""

import gc
from typing import Any

import pytest
import trio

from eventstore import EventStore, StoreOptions
from eventstore.postgres import PostgresBackend, PostgresOptions, db_connection
from eventstore.postgres.asyncpg_trio import Connection, ConnectionLost, Driver, UnsuitableDatabase, open_driver
from eventstore.postgres.db_connection import ReconnectingConnection
from eventstore.postgres.notify import Peers
from tests.eventstore.sample_events import BOUND, sample_append, take
from tests.harness.databases import Postgres, TestDatabase

PID = "SELECT pg_backend_pid()"


def pids_by_name(postgres: Postgres, database: TestDatabase) -> dict[str, set[str]]:
    """The pids of the connections to a database, by their application name."""
    rows = postgres.sql(
        "SELECT pid, application_name FROM pg_stat_activity "
        f"WHERE datname = '{database.name}' AND application_name LIKE 'eventstore %'"
    )
    found: dict[str, set[str]] = {}
    for row in rows.splitlines():
        pid, _, name = row.partition("|")
        found.setdefault(name.removeprefix("eventstore "), set()).add(pid)
    return found


@pytest.fixture
def with_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the process believe that others are connected: alone, it sends no notifications."""
    monkeypatch.setattr(Peers, "counted", lambda company, others: None)


@pytest.mark.usefixtures("with_peers")
async def test_one_connection_for_each_purpose(postgres: Postgres, database: TestDatabase) -> None:
    log = PostgresBackend(PostgresOptions(database.app_url, database.owner_url))
    async with EventStore(log, StoreOptions(call_timeout=BOUND)).open() as store:
        assert set(pids_by_name(postgres, database)) == {"appends", "liveness", "listen"}
        with store.subscribe("s") as reader:
            async with trio.open_nursery() as nursery:
                for n in range(20):
                    nursery.start_soon(store.append, sample_append("s", n))
                    nursery.start_soon(store.append, sample_append(f"t{n}", n, closes="w"))
            await take(reader, 20)
            async with trio.open_nursery() as nursery:
                for n in range(20):
                    nursery.start_soon(store.head, f"t{n}")
                    nursery.start_soon(store.read, f"t{n}")
                    nursery.start_soon(store.writer, f"t{n}", "w")
                    nursery.start_soon(store.trim, f"t{n}", 1)
        found = pids_by_name(postgres, database)
        purposes = {"appends", "reads", "queries", "heads", "notify", "listen", "liveness", "retention"}
        assert {name: len(pids) for name, pids in found.items()} == {**dict.fromkeys(purposes, 1), "appends": 2}

    def gone() -> bool:
        return not pids_by_name(postgres, database)

    with trio.fail_after(BOUND):
        while not await trio.to_thread.run_sync(gone):
            await trio.sleep(0.01)


@pytest.mark.usefixtures("with_peers")
@pytest.mark.parametrize("purpose", ["notify", "listen", "liveness", "queries"])
async def test_closing_during_connect_leaves_no_connection(
    postgres: Postgres, database: TestDatabase, monkeypatch: pytest.MonkeyPatch, purpose: str
) -> None:
    """The cancellation comes too late for a connection that is just being made: it is made, then ended."""
    begun = trio.Event()
    connect = Driver.connect

    async def to_its_end(driver: Driver, dsn: str, settings: dict[str, str], **options: Any) -> Connection:
        if not settings["application_name"].endswith(f" {purpose}"):
            return await connect(driver, dsn, settings, **options)
        begun.set()
        made: list[Connection] = []
        with trio.CancelScope(shield=True):
            made.append(await connect(driver, dsn, settings, **options))
        return made[0]

    async with EventStore(PostgresBackend(PostgresOptions(database.app_url))).open() as store:
        monkeypatch.setattr(Driver, "connect", to_its_end)
        if purpose in ("listen", "liveness"):  # these are connected from the start: killed, they connect again
            (pid,) = (await trio.to_thread.run_sync(pids_by_name, postgres, database))[purpose]
            await trio.to_thread.run_sync(postgres.sql, f"SELECT pg_terminate_backend({pid})")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.append, sample_append("s", 1))
            nursery.start_soon(store.alive)
            await begun.wait()
            nursery.cancel_scope.cancel()
    gc.disable()  # it would close what was left behind
    try:
        with trio.fail_after(5.0):
            while await trio.to_thread.run_sync(pids_by_name, postgres, database):
                await trio.sleep(0.01)
    finally:
        gc.enable()


async def test_safety_poll_and_query_take_turns(postgres: Postgres, database: TestDatabase) -> None:
    """Both ask for heads: at once on one connection, each would break the other's answer."""
    log = PostgresBackend(PostgresOptions(database.app_url, notifications=False))
    async with EventStore(log, StoreOptions(call_timeout=BOUND, safety_poll=0.0)).open() as store:
        await store.append(sample_append("s", 1))
        with store.subscribe("s", 1):
            assert (await store.head("s")).position == 1
            before = pids_by_name(postgres, database)["heads"]
            for _ in range(200):
                assert (await store.head("s")).position == 1
            assert pids_by_name(postgres, database)["heads"] == before


async def test_concurrent_statements_connect_once(database: TestDatabase) -> None:
    pids: list[int] = []

    async def ask() -> None:
        pids.append((await session.fetch(PID))[0][0])

    async with open_driver() as driver:
        session = ReconnectingConnection(driver, database.app_url, "test")
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(ask)
        session.disconnect()
    assert len(pids) == 10
    assert len(set(pids)) == 1


async def test_lost_connection_is_reconnected(postgres: Postgres, database: TestDatabase) -> None:
    async with open_driver() as driver:
        session = ReconnectingConnection(driver, database.app_url, "test")
        (before,) = await session.fetch(PID)
        connection = await session.connected()
        postgres.sql(f"SELECT pg_terminate_backend({before[0]})")
        with trio.fail_after(BOUND):
            await connection.ended.wait()
        (after,) = await session.fetch(PID)
        assert after[0] != before[0]
        session.disconnect()
        session.disconnect()
        assert session.connection is None


async def test_cancelled_statement_replaces_the_connection(database: TestDatabase) -> None:
    async with open_driver() as driver:
        session = ReconnectingConnection(driver, database.app_url, "test")
        (before,) = await session.fetch(PID)
        with trio.move_on_after(0.05) as cut:
            await session.fetch("SELECT 2 FROM pg_sleep(60)")
        assert cut.cancelled_caught
        (after,) = await session.fetch(PID)
        assert after[0] != before[0]
        session.disconnect()


async def test_statement_timeout_is_a_lost_connection(database: TestDatabase) -> None:
    async with open_driver() as driver:
        session = ReconnectingConnection(driver, database.app_url, "test", command_timeout=0.05)
        with pytest.raises(ConnectionLost):
            await session.fetch("SELECT 1 FROM pg_sleep(60)")
        assert (await session.fetch("SELECT 3"))[0][0] == 3
        session.disconnect()


IN_FORCE = {
    "synchronous_commit": "on",
    "default_transaction_isolation": "read committed",
    "transaction_isolation": "read committed",
    "search_path": "eventstore",
    "lock_timeout": "5000",
    "statement_timeout": "20000",
    "idle_in_transaction_session_timeout": "5000",
}


async def settings_in_force(session: ReconnectingConnection) -> dict[str, str]:
    """The settings that matter, as the server reports them."""
    rows = await session.fetch("SELECT name, setting FROM pg_settings WHERE name = ANY ($1)", list(IN_FORCE))
    return dict(map(tuple, rows))


async def test_safety_settings_are_in_force(database: TestDatabase) -> None:
    """A stalled client holds no lock for long; no commit is acknowledged before it is durable."""
    async with open_driver() as driver:
        session = ReconnectingConnection(driver, database.app_url, "test", settings={"lock_timeout": "7s"})
        assert await settings_in_force(session) == {**IN_FORCE, "lock_timeout": "7000"}
        session.disconnect()


async def test_settings_of_the_role_are_overruled(postgres: Postgres, database: TestDatabase) -> None:
    for setting in (
        "synchronous_commit = off",
        "default_transaction_isolation = 'serializable'",
        "lock_timeout = 0",
    ):
        postgres.sql(f"ALTER ROLE tokentape_app IN DATABASE {database.name} SET {setting}")
    try:
        async with open_driver() as driver:
            session = ReconnectingConnection(driver, database.app_url, "test")
            assert await settings_in_force(session) == IN_FORCE
            session.disconnect()
    finally:
        postgres.sql(f"ALTER ROLE tokentape_app IN DATABASE {database.name} RESET ALL")


async def test_connection_that_forgets_settings_is_refused(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something in between forgets them: a commit would be acknowledged that is not durable."""
    monkeypatch.setattr(
        db_connection, "_SETTINGS", db_connection._SETTINGS.replace("value, false)", "value, true)")
    )
    async with open_driver() as driver:
        with pytest.raises(UnsuitableDatabase, match="does not keep the setting"):
            await ReconnectingConnection(driver, database.app_url, "test").connected()


async def test_cancellation_sends_no_cancel_request(postgres: Postgres, database: TestDatabase) -> None:
    """A cancel request during a commit's wait for its standby would make the commit succeed without the
    standby.
    """
    running = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'test' AND state = 'active'"
    async with open_driver() as driver:
        session = ReconnectingConnection(driver, database.app_url, "test")
        await session.fetch(PID)
        with trio.move_on_after(0.05):
            await session.fetch("SELECT 2 FROM pg_sleep(0.5)")
        assert session.connection is None
        assert await trio.to_thread.run_sync(postgres.sql, running) == "1"
        with trio.fail_after(BOUND):
            while await trio.to_thread.run_sync(postgres.sql, running) != "0":
                await trio.sleep(0.01)
        log = (postgres.embedded.data_dir / "postgres.log").read_text(encoding="utf-8")
        assert "due to user request" not in log
