"""A PostgreSQL of the benchmarks' own, fsync on, and an empty, migrated database for each of them."""

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
from bench.stand.helper import Helper, helper
from bench.stand.revision import PRESENT, Revision

START_SECONDS, STOP_SECONDS = 300.0, 60.0
MIGRATE_SECONDS = 60.0


@dataclass(slots=True)
class Postgres:
    """A running one. `pid` is its main process; `folder` holds all that it has, and goes with it."""

    app_url: str
    owner_url: str
    superuser_url: str
    bin_dir: Path
    folder: Path
    pid: int
    _keeper: Helper

    def sql(self, statement: str, database: str = "postgres") -> str:
        """What psql prints for a statement of the superuser."""
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
        """Starts it anew: nothing is in its buffers."""
        self._keeper.tell(do="restart")
        self.pid = self._keeper.until("pid", START_SECONDS)["pid"]

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
    """One database. `app_url` serves, `owner_url` owns the tables."""

    name: str
    app_url: str
    owner_url: str
    postgres: Postgres

    def sql(self, statement: str) -> str:
        """What psql prints for a statement of the superuser, in this database."""
        return self.postgres.sql(statement, self.name)


@contextmanager
def open_postgres() -> Iterator[Postgres]:
    """Brought up in a folder of its own, which goes with it."""
    # Not a private folder: as root, PostgreSQL runs as another user who has to get in.
    folder = Path(tempfile.gettempdir()) / f"tokentape-bench-{secrets.token_hex(4)}"
    with helper("keeper", str(folder), end_seconds=STOP_SECONDS) as keeper:
        said = keeper.until("app", START_SECONDS)
        where = Path(said["bin"])
        yield Postgres(said["app"], said["owner"], said["superuser"], where, folder, said["pid"], keeper)


def _migrate(database: Database, revision: Revision) -> None:
    """By its own command."""
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
