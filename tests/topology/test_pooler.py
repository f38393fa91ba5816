"""Behind PgBouncer: in session mode everything works; in the other modes it is refused at start, with the reason.

And other databases that cannot hold the log, which are refused in the same way.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.lowlevel

import migrations
from eventstore import EventStore, StoreOptions, StoreUnavailable, Writer
from eventstore.postgres import PostgresBackend, PostgresOptions, schema_revision
from eventstore.postgres.asyncpg_trio import UnsuitableDatabase, open_driver
from tests.cli.command_runner import tokentape
from tests.eventstore.connections import sessions
from tests.eventstore.sample_events import BOUND, names, sample_append, take, wait_until
from tests.eventstore.test_db_connection import IN_FORCE, settings_in_force
from tests.faults.readers import ask, assert_whole, wait_closed
from tests.harness.databases import Postgres, TestDatabase
from tests.harness.http import http_client
from tests.harness.servers import running
from tests.topology.pgbouncer import needs_pgbouncer, pgbouncer

OPTIONS = StoreOptions(call_timeout=BOUND, safety_poll=600.0)


async def open_store(url: str) -> None:
    """A store on it."""
    async with EventStore(PostgresBackend(PostgresOptions(url)), OPTIONS).open():
        pass


async def migrate(url: str) -> None:
    """By its owner."""
    await migrations.upgrade(url.replace("tokentape_app", "tokentape_owner"))


async def read_revision(url: str) -> None:
    """As a server asks at start."""
    await schema_revision(url)


STARTS: list[Callable[[str], Awaitable[None]]] = [open_store, migrate, read_revision]


@needs_pgbouncer
async def test_session_pooling_works(tmp_path: Path, database: TestDatabase) -> None:
    with pgbouncer(tmp_path, database.app_url, "session") as url:
        owner_url = url.replace("tokentape_app", "tokentape_owner")
        await migrations.upgrade(owner_url, app_role="tokentape_app")
        assert await schema_revision(url) == migrations.HEAD
        async with sessions(url, "guarded") as (session,):
            assert await settings_in_force(session) == IN_FORCE
        async with (
            EventStore(PostgresBackend(PostgresOptions(url, owner_url)), OPTIONS).open() as store,
            EventStore(PostgresBackend(PostgresOptions(url)), OPTIONS).open() as other,
        ):
            await store.append(sample_append("s", 1, writer=Writer("w", 1, 1)))
            with other.subscribe("s") as reader:  # nothing but a notification wakes it in time
                await take(reader, 1)
                assert list(await reader.poll()) == []
                await store.append(sample_append("s", 2, writer=Writer("w", 1, 2)))
                assert names(await take(reader, 1)) == ["2"]

            async def seen_alive() -> bool:
                state = await other.writer("s", "w")
                return state is not None and state.owner_alive

            await wait_until(seen_alive)
            # What a process has told others it does not hear itself, though the pooler greets with another number.
            own, there, back = store.wakeups.add("s", 2), other.wakeups.add("s", 2), store.wakeups.add("t", 0)
            for bell in (own, there, back):
                bell.arm()
            with trio.fail_after(BOUND):
                store._backend.notify_newer(["s"])
                await there.sleep()
                other._backend.notify_newer(["t"])
                await back.sleep()
            assert not own.woken
            assert await other.open_writers() == []
            await store.trim("s", 2)
        async with running(url) as server, http_client(server.url) as client:
            assert (await client.get("/readyz")).status_code == 200
            run = await ask(server.url, {"model": "demo", "parameters": {"tokens": 20, "rate": 0}})
            log = await wait_closed(f"{server.url}/v1/generations/{run['id']}/events")
            assert_whole(log)


@needs_pgbouncer
@pytest.mark.parametrize("mode", ["transaction", "statement"])
@pytest.mark.parametrize("start", STARTS, ids=lambda start: start.__name__)
async def test_other_pooling_modes_are_refused(
    tmp_path: Path, database: TestDatabase, mode: str, start: Callable[[str], Awaitable[None]]
) -> None:
    with pgbouncer(tmp_path, database.app_url, mode) as url:
        with trio.fail_after(BOUND), pytest.raises(UnsuitableDatabase, match="session mode") as refusal:
            await start(url)
        assert "tokentape_app" not in str(refusal.value)


@asynccontextmanager
async def load_from_others(url: str) -> AsyncIterator[None]:
    """Four clients of the pooler, so that two of ours seldom get the same connection by chance."""
    async with open_driver() as driver, trio.open_nursery() as nursery:

        async def work() -> None:
            connection = await driver.connect(url, {}, timeout=BOUND, command_timeout=BOUND)
            try:
                while True:
                    await driver.run(connection.raw.execute, "SELECT 1")
            finally:
                connection.abort()

        for _ in range(4):
            nursery.start_soon(work)
        yield
        nursery.cancel_scope.cancel()


@needs_pgbouncer
async def test_transaction_pooling_is_detected_under_load(tmp_path: Path, database: TestDatabase) -> None:
    with pgbouncer(tmp_path, database.app_url, "transaction") as url:
        async with load_from_others(url):
            for _ in range(5):
                with trio.fail_after(BOUND), pytest.raises(UnsuitableDatabase, match="session mode"):
                    await open_store(url)


@needs_pgbouncer
async def test_server_refuses_transaction_pooling_and_ends(tmp_path: Path, database: TestDatabase) -> None:
    with pgbouncer(tmp_path, database.app_url, "transaction") as url:
        status, said = await serve_ends({"TOKENTAPE_DATABASE_URL": url})
    assert status != 0
    assert "session mode" in said
    assert "Traceback" not in said


async def serve_ends(env: dict[str, str]) -> tuple[int, str]:
    """The exit status of `tokentape serve`, and its last words."""
    with trio.fail_after(BOUND):
        ended = await tokentape("serve", "--bind", "127.0.0.1:0", env=env)
    return ended.status, ended.err + ended.out


@needs_pgbouncer
async def test_too_small_pool_is_reported(tmp_path: Path, database: TestDatabase) -> None:
    """In session mode each connection keeps its own: whoever comes when all are taken waits."""
    with pgbouncer(tmp_path, database.app_url, "session", size=2) as url:
        log = PostgresBackend(PostgresOptions(url, connect_timeout=0.5, call_timeout=1.0))
        with trio.fail_after(BOUND), pytest.raises(StoreUnavailable, match="pool"):
            async with EventStore(log, OPTIONS).open():
                raise AssertionError("it opened")


@pytest.fixture
def ascii_database(postgres: Postgres) -> Iterator[TestDatabase]:
    """As a server gives it that was set up without a locale."""
    name = "in_sql_ascii"
    postgres.sql(
        f"CREATE DATABASE {name} OWNER tokentape_owner ENCODING 'SQL_ASCII' LOCALE_PROVIDER libc "
        "LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    )
    yield TestDatabase(name, *(postgres.embedded.app_url.replace("/tokentape?", f"/{name}?") for _ in range(2)))
    postgres.sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("start", STARTS, ids=lambda start: start.__name__)
async def test_database_of_another_encoding_is_refused(
    ascii_database: TestDatabase, start: Callable[[str], Awaitable[None]]
) -> None:
    with pytest.raises(UnsuitableDatabase, match=r"SQL_ASCII.*ENCODING 'UTF8' TEMPLATE template0"):
        await start(ascii_database.app_url)
