"""Migrates a database up and down, as the owner of its tables, while servers work on it.

Each revision is a transaction of its own and waits at most `LOCK_SECONDS` for a lock. A statement that waits for a
table delays every later statement on it, appends too; so the revision gives up, lets them pass, and is tried
again. Therefore a revision may hold a strong lock only for a moment: a constraint, say, is added `NOT VALID` and
validated by the next revision (docs/deploy.md, upgrading).

Many processes may migrate at once: one takes an advisory lock, and the others find nothing left to do after it.
This file must not know what a revision does.
"""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

import trio
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from eventstore.postgres.asyncpg_trio import Driver, LockTimeout, open_driver
from eventstore.postgres.db_connection import connect_to_primary
from migrations import HEAD

T = TypeVar("T")

_FOLDER = Path(__file__).parent
_VERSION_TABLE = {"version_table_schema": "eventstore", "version_table": "revision"}
_LOCK = 7_306_015_824_111_507  # any number, the same in every process
# Not to the owner itself: grant_to() first revokes all rights, and the owner would lock itself out.
_GRANTS = {
    schema: text(f"SELECT {schema}.grant_to(a) FROM (SELECT CAST(:role AS name) AS a) r WHERE a <> current_user")
    for schema in ("eventstore", "tokentape_auth", "tokentape_files")
}
_HAS_GRANT = text("SELECT to_regprocedure(:schema || '.grant_to(name)') IS NOT NULL")
# Tried again and again instead of waited for: a waiting statement keeps a snapshot, and CREATE INDEX CONCURRENTLY
# in another process waits until all older snapshots are gone.
_TRY_LOCK = text(f"SELECT pg_try_advisory_lock({_LOCK})")
_HOLDERS = text(
    """
    SELECT DISTINCT c.relname || ' is held by ' || coalesce(nullif(a.application_name, ''), 'somebody')
           || ' (pid ' || l.pid || ')'
      FROM pg_locks l
      JOIN pg_class c ON c.oid = l.relation
      JOIN pg_stat_activity a ON a.pid = l.pid
     WHERE c.relnamespace IN (to_regnamespace('eventstore'), to_regnamespace('tokentape_auth'),
                              to_regnamespace('tokentape_files'))
       AND c.relkind = 'r' AND l.granted AND l.pid <> pg_backend_pid()
       AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
     LIMIT 5
    """
)

LOCK_SECONDS: Final = 2.0
"""How long a revision waits for a lock; every later statement on the table waits as long."""
RETRY_SECONDS: Final = 600.0
"""For how long a revision is tried again while a table is locked."""
PAUSES: Final = (1.0, 5.0)
"""Shortest and longest pause between two tries, in seconds: time for the statements that had to wait."""
_CONNECT_SECONDS: Final = 10.0
_CLOSE_SECONDS: Final = 5.0
_STATEMENT_SECONDS: Final = 86_400.0
_SETTINGS: Final = {
    "lock_timeout": f"{LOCK_SECONDS:g}s",
    "statement_timeout": "0",  # to validate a constraint takes as long as the table is large
    "default_transaction_isolation": "read committed",
    "synchronous_commit": "on",
}

Tell = Callable[[str], None]


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    return config


async def upgrade(
    owner_url: str, *, app_role: str | None = None, revision: str = "head", tell: Tell = lambda _: None
) -> str | None:
    """Brings the database up to `revision` and gives `app_role` (if named) the rights to serve.

    Returns the revision that was found under the lock, None for an empty database: of several processes that
    call this at once, only the one that migrated is told of an old one. `owner_url`: a role that owns the
    schema or may create it. `tell` hears what is done and what is waited for. Raises `StoreUnavailable` (not
    reachable, or a table was held by somebody for all of `RETRY_SECONDS`) or `DatabaseRefused` (a right is
    missing; the message is the database's)."""
    until = HEAD if revision == "head" else revision
    async with _migration_lock(owner_url, tell) as database:
        found = await database.run(_current)
        for step in _steps(found, until):
            tell(f"to revision {step}")
            await database.run_when_unlocked(_upgrade_to(step), tell)
        if app_role is not None:
            # Under the same lock: two grants at once update one row of the catalogue, and one of them fails.
            await database.run_when_unlocked(_grant_to(app_role), tell)
        return found


async def downgrade(owner_url: str, revision: str = "base") -> None:
    """Takes the schema back to `revision`. `base` takes everything away, data included."""
    async with _migration_lock(owner_url, _silent) as database:
        await database.run_when_unlocked(
            lambda connection: command.downgrade(_with(connection), revision), _silent
        )


def _silent(_: str) -> None:
    pass


def _upgrade_to(step: str) -> Callable[[Connection], None]:
    return lambda connection: command.upgrade(_with(connection), step)


def _grant_to(role: str) -> Callable[[Connection], None]:
    def grant(connection: Connection) -> None:
        for schema, statement in _GRANTS.items():
            # An upgrade to an older revision ends before the schema is made.
            if connection.execute(_HAS_GRANT, {"schema": schema}).scalar():
                connection.execute(statement, {"role": role})

    return grant


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection, opts=_VERSION_TABLE).get_current_revision()


def _steps(found: str | None, until: str) -> list[str]:
    """The revisions after `found`, up to `until`, in order."""
    script = ScriptDirectory(str(_FOLDER))
    return [one.revision for one in reversed(list(script.iterate_revisions(until, found or "base")))]


def _with(connection: Connection) -> Config:
    config = _config()
    config.attributes["connection"] = connection
    return config


class _Database:
    """The owner's connection, which runs one transaction after another."""

    def __init__(self, driver: Driver, connection: AsyncConnection) -> None:
        self._driver = driver
        self._connection = connection

    async def run(self, act: Callable[[Connection], T]) -> T:
        """Runs one transaction. Raises `LockTimeout` if a table stays locked; then nothing was done."""

        async def go() -> T:
            try:
                async with self._connection.begin():
                    return await self._connection.run_sync(act)
            except DBAPIError as error:
                # Inside SQLAlchemy's error is its dialect's, and its cause asyncpg's, which `Driver`
                # translates.
                raise (error.orig and error.orig.__cause__) or error from None

        return await self._driver.run(go)

    async def run_when_unlocked(self, act: Callable[[Connection], object], tell: Tell) -> None:
        """As `run`, repeated while a table is locked, for `RETRY_SECONDS` at most."""
        deadline = trio.current_time() + RETRY_SECONDS
        while True:
            try:
                await self.run(act)
            except LockTimeout:
                if trio.current_time() > deadline:
                    raise
            else:
                return
            holders = await self.run(lambda connection: connection.execute(_HOLDERS).scalars().all())
            tell("waiting, and letting servers go on: " + ("; ".join(map(str, holders)) or "a table is held"))
            await trio.sleep(random.uniform(*PAUSES))

    async def close(self) -> None:
        """Closes SQLAlchemy's connection and engine."""

        async def go() -> None:
            await self._connection.close()
            await self._connection.engine.dispose()

        await self._driver.run(go)


@asynccontextmanager
async def _migration_lock(owner_url: str, tell: Tell) -> AsyncIterator[_Database]:
    """The database, while no other process migrates it: an advisory lock is held."""
    async with open_driver() as driver:
        connection, _ = await connect_to_primary(
            driver,
            owner_url,
            "tokentape migrates",
            _SETTINGS,
            timeout=_CONNECT_SECONDS,
            command_timeout=_STATEMENT_SECONDS,
            probe=True,
        )

        async def connected() -> object:
            return connection.raw

        async def begin() -> AsyncConnection:
            return await create_async_engine("postgresql+asyncpg://", async_creator=connected).connect()

        database = _Database(driver, await driver.run(begin))
        try:
            told = False
            # A session-level lock: it is held until the connection ends.
            while not await database.run(lambda connection: connection.execute(_TRY_LOCK).scalar()):
                if not told:
                    tell("waiting for another process that migrates this database")
                    told = True
                await trio.sleep(0.1)
            yield database
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(_CLOSE_SECONDS):
                await database.close()
            connection.abort()
