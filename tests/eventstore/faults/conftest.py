"""A PostgreSQL that these tests may stop and break; it runs again for the next test."""

from collections.abc import Iterator

import pytest

from server.embedded_postgres import EmbeddedError, restart
from tests.conftest import postgres_folder
from tests.harness.databases import Postgres, TestDatabase


@pytest.fixture(scope="session")
def own_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """One server, apart from the one that other tests use."""
    with postgres_folder(tmp_path_factory.mktemp("own"), "breakable") as folder:
        postgres = Postgres(folder)
        yield postgres
        postgres.close()


@pytest.fixture
def breakable(own_postgres: Postgres) -> Iterator[Postgres]:
    """The same server, running at the start and started again at the end."""
    yield own_postgres
    try:
        own_postgres.embedded.pid  # noqa: B018  # raises when there is none
    except EmbeddedError:
        restart(own_postgres.embedded)


@pytest.fixture
def database(breakable: Postgres) -> Iterator[TestDatabase]:
    """A migrated, empty database on the server that may be broken."""
    with breakable.clone() as database:
        yield database
