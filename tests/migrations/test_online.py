"""Migrating beside working servers: no append fails, and none waits for long, whoever else holds a table."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

import migrations
from eventstore import Writer
from eventstore.errors import StoreUnavailable
from eventstore.postgres import schema_revision
from eventstore.postgres.db_connection import STATEMENTS, ReconnectingConnection
from eventstore.postgres.postgres_backend import append_columns
from migrations import runner
from tests.eventstore.connections import sessions
from tests.eventstore.sample_events import BOUND, sample_append
from tests.harness.databases import TestDatabase

APP = "tokentape_app"
STATE = "SELECT state FROM pg_stat_activity WHERE application_name = 'tokentape migrates'"
APPEND = STATEMENTS["append"].replace("append_1(", "append(")
"""As servers of the versions before say it."""


class AppendingServer:
    """A server of an older version that appends to one stream without end, and notes the longest append."""

    def __init__(self, session: ReconnectingConnection) -> None:
        self._session = session
        self.done = 0
        self.longest = 0.0

    async def run(self) -> None:
        """Runs for ever. Any error ends the test."""
        while True:
            began = trio.current_time()
            batch = [sample_append("s", self.done, writer=Writer("w", 1, self.done + 1))]
            ((_, verdict, *_rest),) = await self._session.fetch(APPEND, *append_columns(batch, owner=1))
            assert verdict == "appended"
            self.done += 1
            self.longest = max(self.longest, trio.current_time() - began)

    async def more(self) -> None:
        """Until three more are there."""
        goal = self.done + 3
        with trio.fail_after(BOUND):
            while self.done < goal:
                await trio.sleep(0.005)


@asynccontextmanager
async def start_appending(database: TestDatabase) -> AsyncIterator[AppendingServer]:
    async with sessions(database.app_url, "appends") as (session,), trio.open_nursery() as nursery:
        appends = AppendingServer(session)
        nursery.start_soon(appends.run)
        await appends.more()
        yield appends
        nursery.cancel_scope.cancel()


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shortens the pause between tries; the time that one try may wait stays the same."""
    monkeypatch.setattr(runner, "PAUSES", (0.1, 0.2))


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("begin", ["0001", "0002", "0003"])
async def test_upgrade_beside_pg_dump(empty: TestDatabase, begin: str) -> None:
    """As while pg_dump runs: one transaction holds ACCESS SHARE on every table, another one an old snapshot."""
    await migrations.upgrade(empty.owner_url, app_role=APP, revision=begin)
    said: list[str] = []
    done = trio.Event()

    async def migrate() -> None:
        await migrations.upgrade(empty.owner_url, app_role=APP, tell=said.append)
        done.set()

    async with start_appending(empty) as appends, sessions(empty.app_url, "dump", "snapshot") as (dump, snapshot):
        for session in (dump, snapshot):
            await session.fetch("SELECT set_config('idle_in_transaction_session_timeout', '0', false)")
        await dump.fetch("BEGIN")
        await dump.fetch("LOCK TABLE streams, events, writers, keys, snapshots IN ACCESS SHARE MODE")
        await snapshot.fetch("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await snapshot.fetch("SELECT count(*) FROM streams")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(migrate)
            if begin == "0001":  # this one needs the table for itself, for a moment
                with trio.fail_after(BOUND):
                    while not any(line.startswith("waiting") for line in said):
                        await trio.sleep(0.01)
                await appends.more()
                assert not done.is_set()
                assert "streams is held by test" in "".join(said)
                await dump.fetch("COMMIT")
                await snapshot.fetch("COMMIT")
            with trio.fail_after(BOUND):
                await done.wait()
        await appends.more()
    assert await schema_revision(empty.app_url) == migrations.HEAD
    assert appends.longest < runner.LOCK_SECONDS + 1.0
    assert [line for line in said if line.startswith("to revision")] == [
        f"to revision {name}" for name in reversed(migrations.revisions()) if name > begin
    ]


@pytest.mark.usefixtures("quick_retries")
async def test_upgrade_gives_up_on_a_table_that_stays_locked(
    empty: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "RETRY_SECONDS", 0.0)
    monkeypatch.setitem(runner._SETTINGS, "lock_timeout", "100ms")
    await migrations.upgrade(empty.owner_url, app_role=APP, revision="0001")
    async with sessions(empty.app_url, "holder") as (holder,):
        await holder.fetch("BEGIN")
        await holder.fetch("LOCK TABLE streams IN ACCESS SHARE MODE")
        with pytest.raises(StoreUnavailable, match="locked for too long"):
            await migrations.upgrade(empty.owner_url, app_role=APP)
        assert await schema_revision(empty.owner_url) == "0001"
        await holder.fetch("COMMIT")
    await migrations.upgrade(empty.owner_url, app_role=APP)
    assert await schema_revision(empty.owner_url) == migrations.HEAD


async def test_waiting_upgrade_reports_it_and_keeps_no_snapshot(empty: TestDatabase) -> None:
    """A waiting statement with a snapshot and CREATE INDEX CONCURRENTLY would wait for each other for ever."""
    said: list[str] = []
    await migrations.upgrade(empty.owner_url, app_role=APP)
    async with sessions(empty.owner_url, "other", "watch") as (other, watch), trio.open_nursery() as nursery:
        await other.fetch("SELECT pg_advisory_lock($1)", runner._LOCK)
        nursery.start_soon(lambda: migrations.upgrade(empty.owner_url, app_role=APP, tell=said.append))
        with trio.fail_after(BOUND):
            while not said:
                await trio.sleep(0.01)
        assert said == ["waiting for another process that migrates this database"]
        with trio.fail_after(BOUND):  # between two tries it is idle, and outside of any transaction
            while (await watch.fetch(STATE))[0][0] != "idle":
                await trio.sleep(0.001)
        await other.fetch("SELECT pg_advisory_unlock($1)", runner._LOCK)
