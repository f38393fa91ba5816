"""One database for all tests of the store, emptied for each: a clone for each test would take five times as
long.
"""

from collections.abc import Iterator

import pytest

from tests.harness.databases import Postgres, TestDatabase

# Whoever is left of the test before is ended first, and waited for: a statement under way could still write.
EMPTY = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid();
TRUNCATE eventstore.streams, eventstore.events, eventstore.writers, eventstore.keys, eventstore.snapshots
 RESTART IDENTITY
"""


@pytest.fixture(scope="session")
def store_database(postgres: Postgres) -> Iterator[TestDatabase]:
    """A database that is migrated once."""
    with postgres.clone() as database:
        yield database


@pytest.fixture
def database(postgres: Postgres, store_database: TestDatabase) -> TestDatabase:
    """The same database, empty and without connections."""
    postgres.sql(EMPTY, store_database.name)
    return store_database
