"""Fixtures for all rooms: the session's PostgreSQL and a database a test."""

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.databases import Postgres, TestDatabase


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """One real PostgreSQL for the whole session."""
    folder = tmp_path_factory.mktemp("postgres") / "data"
    if os.geteuid() == 0:
        # As root PostgreSQL runs as another user, who may not enter pytest's private folders.
        folder = Path("/var/tmp") / f"tokentape-test-{secrets.token_hex(6)}"
    postgres = Postgres(folder)
    yield postgres
    postgres.close()
    shutil.rmtree(folder)


@pytest.fixture
def database(postgres: Postgres) -> Iterator[TestDatabase]:
    """A migrated, empty database of this test's own."""
    with postgres.clone() as database:
        yield database
