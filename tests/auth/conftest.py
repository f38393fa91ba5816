"""The stores that every contract test of credentials runs on: in memory, and on the embedded PostgreSQL."""

from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from server.auth.auth_store import AuthStore
from server.auth.memory_auth_store import MemoryAuthStore
from server.auth.postgres_auth_store import PostgresAuthStore
from tests.harness.databases import Postgres, TestDatabase

EMPTY = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid();
TRUNCATE tokentape_auth.keys, tokentape_auth.sessions, tokentape_auth.tickets, tokentape_auth.usage,
         tokentape_auth.servers
"""

Ageing = Callable[[float], None]
"""Makes everything in a store older by so many seconds."""
AGE = """
UPDATE tokentape_auth.keys SET expires_at = expires_at - interval '{0} s';
UPDATE tokentape_auth.sessions SET expires_at = expires_at - interval '{0} s';
UPDATE tokentape_auth.tickets SET expires_at = expires_at - interval '{0} s', ends_at = ends_at - interval '{0} s';
UPDATE tokentape_auth.servers SET at = at - interval '{0} s'
"""


@pytest.fixture(scope="session")
def auth_database(postgres: Postgres) -> Iterator[TestDatabase]:
    """Migrated once."""
    with postgres.clone() as database:
        yield database


@pytest.fixture
def database(postgres: Postgres, auth_database: TestDatabase) -> TestDatabase:
    """The same, with no credential in it and nobody connected."""
    postgres.sql(EMPTY, auth_database.name)
    return auth_database


class Stores:
    """Two processes' views of one store: `app` as a server has it, `owner` as the command line has it."""

    def __init__(self, app: AuthStore, owner: AuthStore, age: Ageing) -> None:
        self.app, self.owner, self.age = app, owner, age


@pytest.fixture(params=["memory", "postgres"])
def closed_stores(request: pytest.FixtureRequest) -> Stores:
    """Both, not open yet."""
    if request.param == "memory":
        now = 0.0

        def older(seconds: float) -> None:
            nonlocal now
            now += seconds

        memory = MemoryAuthStore(clock=lambda: now)
        return Stores(memory, memory, older)
    database: TestDatabase = request.getfixturevalue("database")
    postgres: Postgres = request.getfixturevalue("postgres")

    def age(seconds: float) -> None:
        postgres.sql(AGE.format(seconds), database.name)

    return Stores(PostgresAuthStore(database.app_url), PostgresAuthStore(database.owner_url), age)


@pytest.fixture
async def stores(closed_stores: Stores) -> AsyncIterator[Stores]:
    """Both, open."""
    async with closed_stores.app.open(), closed_stores.owner.open():
        yield closed_stores
