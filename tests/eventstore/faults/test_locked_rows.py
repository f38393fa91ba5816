"""A row that another transaction holds, and a role that may not connect for a while: unaffected calls go on."""

from collections.abc import Iterator

import pytest
import trio

from eventstore import Appended, EventStore, StoreOptions, StoreUnavailable, Writer
from eventstore.postgres import PostgresBackend, PostgresOptions, db_connection
from tests.eventstore.connections import sessions
from tests.eventstore.sample_events import BOUND, names, read_all, sample_append, take
from tests.harness.databases import Postgres, TestDatabase

OPTIONS = StoreOptions(call_timeout=BOUND, safety_poll=600.0)


@pytest.fixture
def short_lock_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lock waits end soon."""
    monkeypatch.setattr(
        db_connection, "SESSION_SETTINGS", {**db_connection.SESSION_SETTINGS, "lock_timeout": "200ms"}
    )


@pytest.mark.usefixtures("short_lock_timeout")
async def test_held_row_delays_only_its_stream(database: TestDatabase) -> None:
    answers: dict[str, Appended | StoreUnavailable] = {}

    async def append(stream: str) -> None:
        try:
            answers[stream] = await store.append(sample_append(stream, "meanwhile"))
        except StoreUnavailable as error:
            answers[stream] = error

    async with (
        EventStore(PostgresBackend(PostgresOptions(database.app_url)), OPTIONS).open() as store,
        sessions(database.app_url, "holder") as (holder,),
    ):
        for stream in ("held", "free"):
            await store.append(sample_append(stream, "opened"))
        await holder.fetch("BEGIN")
        await holder.fetch("SELECT FROM streams WHERE name = 'held' FOR UPDATE")
        async with trio.open_nursery() as nursery:
            for stream in ("first", "held", "free", "new"):
                nursery.start_soon(append, stream)
            with trio.fail_after(BOUND / 2):
                while not {"first", "free", "new"} <= set(answers):
                    await trio.sleep(0.01)
            await holder.fetch("COMMIT")
        assert all(isinstance(answers[stream], Appended) for stream in ("first", "free", "new"))
        assert (await store.append(sample_append("held", "after"))).stream == "held"
        held = names(await read_all(store, "held"))
        assert held in (["opened", "after"], ["opened", "meanwhile", "after"])
        assert isinstance(answers["held"], StoreUnavailable) or len(held) == 3


@pytest.fixture
def login_restored(breakable: Postgres) -> Iterator[Postgres]:
    """The server; at the end its role may connect again."""
    yield breakable
    breakable.sql("ALTER ROLE tokentape_app LOGIN")


async def test_role_that_loses_its_login_for_a_while(login_restored: Postgres, database: TestDatabase) -> None:
    """Refused when the store opens it is a mistake; later it is an outage."""

    async def tell(sql: str) -> None:
        await trio.to_thread.run_sync(login_restored.sql, sql)

    async with EventStore(PostgresBackend(PostgresOptions(database.app_url)), OPTIONS).open() as store:
        await store.append(sample_append("s", 1, writer=Writer("w", 1, 1)))
        with store.subscribe("s") as reader:
            await take(reader, 1)
            await tell("ALTER ROLE tokentape_app NOLOGIN")
            await tell("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'tokentape_app'")
            done = trio.Event()

            async def go_on() -> None:
                await store.append(sample_append("s", 2, writer=Writer("w", 1, 2)))
                await store.head("s")
                await store.writer("s", "w")
                done.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(go_on)
                with trio.move_on_after(0.5):
                    await done.wait()
                assert not done.is_set()
                await tell("ALTER ROLE tokentape_app LOGIN")
            assert names(await take(reader, 1)) == ["2"]
