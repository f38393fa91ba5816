"""The two logs, and two processes on each: what every contract test stands on.

The safety poll is set far away, so that whatever arrives in time was told by a wake-up and not found by luck.
"""

from collections.abc import AsyncIterator, Callable

import pytest

from eventstore import EventStore, Log, StoreOptions
from eventstore.memory import MemoryLog
from eventstore.postgres import PostgresLog, PostgresOptions
from tests.harness.databases import TestDatabase

OPTIONS = StoreOptions(patience=20.0, safety_poll=600.0)

NewLog = Callable[[], Log]


@pytest.fixture(params=["memory", "postgres"])
def new_log(request: pytest.FixtureRequest) -> NewLog:
    """Makes one more process's view of the log of this test."""
    if request.param == "memory":
        return MemoryLog().process
    database: TestDatabase = request.getfixturevalue("database")
    return lambda: PostgresLog(PostgresOptions(database.app_url, database.owner_url))


@pytest.fixture
def log(new_log: NewLog) -> Log:
    """The log under `store`, for tests that step in between."""
    return new_log()


@pytest.fixture
async def store(log: Log) -> AsyncIterator[EventStore]:
    """One process."""
    async with EventStore(log, OPTIONS).open() as store:
        yield store


@pytest.fixture
async def other(new_log: NewLog) -> AsyncIterator[EventStore]:
    """Another process on the same log."""
    async with EventStore(new_log(), OPTIONS).open() as other:
        yield other
