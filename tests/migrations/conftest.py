"""An empty database that no revision has touched, owned by a role that is no superuser."""

import secrets
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.harness.databases import Postgres, TestDatabase


@pytest.fixture
def empty(postgres: Postgres) -> Iterator[TestDatabase]:
    """The database; it does not even have the schema."""
    name = f"empty_{secrets.token_hex(6)}"
    postgres.sql(f"CREATE DATABASE {name} OWNER tokentape_owner")
    app, owner = (
        urlsplit(url)._replace(path=f"/{name}").geturl()
        for url in (postgres.embedded.app_url, postgres.embedded.owner_url)
    )
    try:
        yield TestDatabase(name, app, owner)
    finally:
        postgres.sql(f"DROP DATABASE {name} WITH (FORCE)")
