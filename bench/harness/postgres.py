"""A PostgreSQL for the benchmarks alone, fsync on, and an empty, migrated database for each benchmark.

Owns how databases are made, migrated by a revision's own code, and dropped; it must not know what they are used
for.
"""

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import trio

import migrations
from bench.harness.child_process import ChildProcess, child_process
from bench.harness.git_revision import PRESENT, Revision

START_SECONDS, STOP_SECONDS = 300.0, 60.0
MIGRATE_SECONDS = 60.0


@dataclass(slots=True)
class Postgres:
    """A running PostgreSQL. `pid`: its main process; `folder`: its files, deleted when it ends."""

    app_url: str
    owner_url: str
    superuser_url: str
    bin_dir: Path
    folder: Path
    pid: int
    _process: ChildProcess

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Runs a statement as the superuser. Returns what psql prints."""
        done = subprocess.run(
            [
                self.bin_dir / "psql",
                "-XAtq",
                "-v",
                "ON_ERROR_STOP=1",
                "-c",
                statement,
                _in(self.superuser_url, database),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"psql: {done.stderr.strip()}")
        return done.stdout.strip()

    def restart(self) -> None:
        """Restarts it, which empties its buffers."""
        self._process.send(do="restart")
        self.pid = self._process.wait_for("pid", START_SECONDS)["pid"]

    @contextmanager
    def database(
        self, settings: Mapping[str, str] | None = None, revision: Revision = PRESENT
    ) -> "Iterator[Database]":
        """An empty database, migrated by a revision's own code, dropped at the end.

        `settings` are for all sessions in it.
        """
        name = f"bench_{secrets.token_hex(4)}"
        self.sql(f"CREATE DATABASE {name} OWNER tokentape_owner")
        try:
            for key, value in (settings or {}).items():
                self.sql(f"ALTER DATABASE {name} SET {key} = '{value}'")
            found = Database(name, _in(self.app_url, name), _in(self.owner_url, name), self)
            if revision is PRESENT:
                trio.run(partial(migrations.upgrade, found.owner_url, app_role="tokentape_app"))
            else:
                _migrate(found, revision)
            yield found
        finally:
            self.sql(f"DROP DATABASE {name} WITH (FORCE)")


@dataclass(frozen=True, slots=True)
class Database:
    """One database. `app_url`: for the role that serves; `owner_url`: for the role that owns the tables."""

    name: str
    app_url: str
    owner_url: str
    postgres: Postgres

    def sql(self, statement: str) -> str:
        """Runs a statement as the superuser in this database. Returns what psql prints."""
        return self.postgres.sql(statement, self.name)


@contextmanager
def open_postgres() -> Iterator[Postgres]:
    """Starts PostgreSQL in a folder of its own, which is deleted at the end."""
    # Not a private folder: started by root, PostgreSQL runs as another user, who must be able to enter it.
    folder = Path(tempfile.gettempdir()) / f"tokentape-bench-{secrets.token_hex(4)}"
    with child_process("postgres_process", str(folder), end_seconds=STOP_SECONDS) as process:
        started = process.wait_for("app", START_SECONDS)
        bin_dir = Path(started["bin"])
        yield Postgres(
            started["app"], started["owner"], started["superuser"], bin_dir, folder, started["pid"], process
        )


def _migrate(database: Database, revision: Revision) -> None:
    """Migrates with the former revision's own command."""
    urls = {"TOKENTAPE_DATABASE_URL": database.app_url, "TOKENTAPE_DATABASE_OWNER_URL": database.owner_url}
    others = {name: value for name, value in os.environ.items() if not name.startswith("TOKENTAPE_")}
    done = subprocess.run(
        [sys.executable, "-m", "server", "migrate"],
        env={**others, **urls},
        cwd=revision.folder,
        capture_output=True,
        text=True,
        timeout=MIGRATE_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the former revision's `migrate` failed: {done.stderr.strip()[-2_000:]}")


def _in(url: str, database: str) -> str:
    return urlsplit(url)._replace(path=f"/{database}").geturl()
