"""The backends that every contract test runs on, and two processes on each.

In memory, on the embedded PostgreSQL, and on the oldest PostgreSQL that the system has installed.

The safety poll is set far away, so that whatever arrives in time was told by a wake-up and not found by luck.
"""

from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from eventstore import Backend, EventStore, StoreOptions
from eventstore.memory_backend import MemoryBackend
from eventstore.postgres import PostgresBackend, PostgresOptions
from tests.conftest import postgres_folder
from tests.harness.databases import TestDatabase
from tests.harness.system_postgres import NO_SYSTEM_POSTGRES, SystemPostgres, system_programs

OPTIONS = StoreOptions(call_timeout=20.0, safety_poll=600.0)

NewLog = Callable[[], Backend]


@pytest.fixture(scope="session")
def system_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemPostgres]:
    """The system's PostgreSQL, one cluster for the session."""
    programs = system_programs()
    if programs is None:
        pytest.skip(NO_SYSTEM_POSTGRES)
    with postgres_folder(tmp_path_factory.mktemp("system"), "system") as folder:
        postgres = SystemPostgres(folder, programs)
        yield postgres
        postgres.close()


@pytest.fixture
def system_database(system_postgres: SystemPostgres) -> Iterator[TestDatabase]:
    """A migrated, empty database of the system's PostgreSQL."""
    with system_postgres.clone() as database:
        yield database


@pytest.fixture(params=["memory", "postgres", "system postgres"])
def new_log(request: pytest.FixtureRequest) -> NewLog:
    """Makes one more process's view of the log of this test."""
    if request.param == "memory":
        return MemoryBackend().process
    name = "database" if request.param == "postgres" else "system_database"
    database: TestDatabase = request.getfixturevalue(name)
    return lambda: PostgresBackend(PostgresOptions(database.app_url, database.owner_url))


@pytest.fixture
def log(new_log: NewLog) -> Backend:
    """The log under `store`, for tests that step in between."""
    return new_log()


@pytest.fixture
async def store(log: Backend) -> AsyncIterator[EventStore]:
    """One process."""
    async with EventStore(log, OPTIONS).open() as store:
        yield store


@pytest.fixture
async def other(new_log: NewLog) -> AsyncIterator[EventStore]:
    """Another process on the same log."""
    async with EventStore(new_log(), OPTIONS).open() as other:
        yield other
