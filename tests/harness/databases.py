"""A real PostgreSQL for tests: one embedded server for the session, one template, and a cheap clone for
each test.
"""

import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import trio

import migrations
from server.embedded_postgres import Embedded, acquire

TEMPLATE = "tokentape_template"


@dataclass(frozen=True, slots=True)
class TestDatabase:
    """A migrated, empty database of its own. `app_url` serves, `owner_url` owns the tables."""

    __test__ = False

    name: str
    app_url: str
    owner_url: str


class Postgres:
    """A running PostgreSQL that databases are cloned in."""

    def __init__(self, data_dir: Path) -> None:
        settings = {"fsync": "off", "full_page_writes": "off", "max_connections": "400"}
        self.embedded: Embedded = acquire(data_dir, settings=settings)
        self.sql(f"CREATE DATABASE {TEMPLATE} OWNER tokentape_owner")
        owner = _in(self.embedded.owner_url, TEMPLATE)
        trio.run(lambda: migrations.upgrade(owner, app_role="tokentape_app"))

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Runs one statement as the superuser and returns its unadorned output."""
        return psql(self.embedded.bin_dir, _in(self.embedded.superuser_url, database), statement)

    def said(self, statement: str, database: str = "postgres") -> str:
        """Runs one as `sql` does, and returns the server's messages about it."""
        done = _psql(self.embedded.bin_dir, _in(self.embedded.superuser_url, database), statement)
        return done.stderr

    @contextmanager
    def clone(self, template: str = TEMPLATE) -> Iterator[TestDatabase]:
        """A database that is dropped again, whoever is still connected to it.

        It has what `template` has, the name of a database that nobody is connected to: by default only tables.
        """
        name = f"test_{secrets.token_hex(6)}"
        # Copied as files: the default writes every page of the template to the WAL, which takes twice the CPU.
        self.sql(f"CREATE DATABASE {name} OWNER tokentape_owner TEMPLATE {template} STRATEGY file_copy")
        try:
            yield TestDatabase(name, _in(self.embedded.app_url, name), _in(self.embedded.owner_url, name))
        finally:
            self.sql(f"DROP DATABASE {name} WITH (FORCE)")

    def close(self) -> None:
        """Stops it."""
        self.embedded.release()


def psql(bin_dir: Path, url: str, statement: str) -> str:
    """What `psql` prints for a statement."""
    return _psql(bin_dir, url, statement).stdout.strip()


def _psql(bin_dir: Path, url: str, statement: str) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [bin_dir / "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement, url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"psql: {done.stderr.strip()}")
    return done


def _in(url: str, database: str) -> str:
    return urlsplit(url)._replace(path=f"/{database}").geturl()
