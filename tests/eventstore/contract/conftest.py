"""The backends that every contract test runs on, and two processes on each.

They are the in-memory log, the embedded PostgreSQL, and the oldest PostgreSQL that the system has installed.
There each test runs once, with its first parameters, for they choose values and not statements; `make soak`
runs it with all. The safety poll is set far away, so that whatever arrives in time came by a wake-up and not
by luck.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from eventstore import Backend, EventStore, StoreOptions
from eventstore.memory_backend import MemoryBackend
from eventstore.postgres import PostgresBackend, PostgresOptions
from tests.conftest import postgres_folder
from tests.eventstore.conftest import EMPTY
from tests.harness.databases import TestDatabase
from tests.harness.system_postgres import NO_SYSTEM_POSTGRES, SystemPostgres, system_programs

OPTIONS = StoreOptions(call_timeout=20.0, safety_poll=600.0)

NewLog = Callable[[], Backend]
OLDEST = "system postgres"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves to `make soak` what repeats a test on the oldest PostgreSQL with other values."""
    seen: set[tuple[Path, str]] = set()
    for item in items:
        if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
            continue
        if item.callspec.params.get("new_log") == OLDEST:
            test = item.path, item.originalname
            if test in seen:
                item.add_marker(pytest.mark.soak)
            seen.add(test)


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


@pytest.fixture(scope="session")
def system_store_database(system_postgres: SystemPostgres) -> Iterator[TestDatabase]:
    """A database of the system's PostgreSQL, migrated once."""
    with system_postgres.clone() as database:
        yield database


@pytest.fixture
def system_database(system_postgres: SystemPostgres, system_store_database: TestDatabase) -> TestDatabase:
    """A database of the system's PostgreSQL, empty and without connections."""
    system_postgres.sql(EMPTY, system_store_database.name)
    return system_store_database


@pytest.fixture(params=["memory", "postgres", OLDEST])
def new_log(request: pytest.FixtureRequest) -> NewLog:
    """Makes a further process's view of the test's log."""
    if request.param == "memory":
        return MemoryBackend().process
    name = "database" if request.param == "postgres" else "system_database"
    database: TestDatabase = request.getfixturevalue(name)
    return lambda: PostgresBackend(PostgresOptions(database.app_url, database.owner_url))


@pytest.fixture
def log(new_log: NewLog) -> Backend:
    """The log under `store`, for tests that intercept its calls."""
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
