"""PostgreSQL is away for longer than the store retries, under runs in several states.

Runs that may be resumed go on afterwards; those that may not end with a clear error.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import trio

from eventstore import StoreUnavailable
from eventstore.postgres import PostgresBackend, PostgresOptions
from server.generations.run_context import Run
from server.workflows import Workflow
from tests.generations.fake_upstream import FakeUpstream
from tests.harness.databases import Postgres, TestDatabase
from tests.runtime.run_commands import decide, ended, play, started
from tests.runtime.runtime_process import app, process

PATIENCE = 1.0
AWAY = 3.0


async def _talk(run: Run) -> int:
    for _ in range(20):
        await run.token("x")
        await trio.sleep(0.1)
    return run.attempt


async def _once_it_answers(act: Callable[[], Awaitable[object]]) -> None:
    """Does it as soon as the database answers again, which may take longer than the patience of one call."""
    while True:
        try:
            await act()
            return
        except StoreUnavailable:
            await trio.sleep(0.05)


async def _ask_somebody(run: Run) -> str:
    return (await run.approve("go on?")).decision


@contextmanager
def _database_away(postgres: Postgres, database: TestDatabase) -> Iterator[None]:
    """Refuses new connections and ends existing ones: to a client the database is gone."""
    postgres.sql(f"ALTER DATABASE {database.name} ALLOW_CONNECTIONS false")
    try:
        postgres.sql(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database.name}'",
        )
        yield
    finally:
        postgres.sql(f"ALTER DATABASE {database.name} ALLOW_CONNECTIONS true")


async def test_runs_after_an_outage_longer_than_the_retries(postgres: Postgres, database: TestDatabase) -> None:
    """A writing workflow is interrupted and resumed, a waiting one does not notice, a plain answer fails, and
    the run queued behind it completes.
    """
    log = PostgresBackend(PostgresOptions(database.app_url, database.owner_url, call_timeout=PATIENCE))
    upstream = FakeUpstream(("a",), 1.5, ("b",))
    registry = app(Workflow("talks", _talk), Workflow("asks", _ask_somebody))
    async with process(log, upstream, patience=PATIENCE, registry=registry) as here:
        talking = await play(here, workflow="talks")
        asking = await play(here, workflow="asks")
        plain = await play(here, model="fake")
        behind = await play(here, plain[0], model="fake", if_running="queue")
        await started(here, asking, waiting=1)
        with _database_away(postgres, database):
            await trio.sleep(AWAY)
        with trio.fail_after(30):
            await _once_it_answers(lambda: decide(here, asking, "approved"))
            runs = [await ended(here, run) for run in (talking, asking, plain, behind)]
        assert here.supervisor.runs == {}
    assert [run.status for run in runs] == ["completed", "completed", "failed", "completed"]
    assert [run.attempt for run in runs] == [2, 1, 1, 1]
    assert runs[2].error is not None
    assert runs[2].error["code"] == "store_unavailable"
