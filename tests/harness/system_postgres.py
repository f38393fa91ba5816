"""A PostgreSQL that the system has installed, beside the embedded one: the store supports both versions.

Owns one cluster for the session, of the oldest version under `/usr/lib/postgresql`. It accepts everybody
without a password, as the embedded one does: a SCRAM login takes ten times as long as a query, and a store
makes ten.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

import migrations
from tests.harness.databases import TEMPLATE, TestDatabase
from tests.topology.postgres import PasswordPostgres

SUPPORTED = 15
"""The oldest version that the store is promised to work on."""
NO_SYSTEM_POSTGRES = "no PostgreSQL is installed beside the embedded one (tools/test-needs installs Debian's)"

_SETUP = (
    "CREATE ROLE tokentape_owner LOGIN",
    "CREATE ROLE tokentape_app LOGIN",
    f"CREATE DATABASE {TEMPLATE} OWNER tokentape_owner ENCODING 'UTF8' TEMPLATE template0",
)


def system_programs() -> Path | None:
    """The folder with the programs of the oldest supported version that is installed; None without one."""
    found = [folder for folder in Path("/usr/lib/postgresql").glob("*/bin") if (folder / "postgres").exists()]
    versions = sorted((int(folder.parent.name), folder) for folder in found if folder.parent.name.isdigit())
    return next((folder for version, folder in versions if version >= SUPPORTED), None)


class SystemPostgres:
    """The running cluster, with a migrated template that databases are cloned from."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self._cluster = PasswordPostgres(folder, programs, "superuser", auth="trust", log="none")
        try:
            for statement in _SETUP:
                self.sql(statement)
            owner = self._url("tokentape_owner", TEMPLATE)
            trio.run(lambda: migrations.upgrade(owner, app_role="tokentape_app"))
        except BaseException:
            self.close()
            raise

    def sql(self, statement: str, database: str = "postgres") -> None:
        """Runs one statement as the superuser."""
        done = self._cluster.psql(self._url("postgres", database), statement)
        assert done.returncode == 0, done.stderr

    @contextmanager
    def clone(self) -> Iterator[TestDatabase]:
        """A migrated, empty database, dropped at the end."""
        name = f"test_{secrets.token_hex(6)}"
        self.sql(f"CREATE DATABASE {name} OWNER tokentape_owner TEMPLATE {TEMPLATE}")
        try:
            yield TestDatabase(name, self._url("tokentape_app", name), self._url("tokentape_owner", name))
        finally:
            self.sql(f"DROP DATABASE {name} WITH (FORCE)")

    def close(self) -> None:
        """Stops it."""
        self._cluster.stop()

    def _url(self, role: str, database: str) -> str:
        return f"postgresql://{role}@127.0.0.1:{self._cluster.port}/{database}"
