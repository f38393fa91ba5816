"""Runs the revisions up and down on a database, as its owner, through the store's own bridge and driver.

Safe to call from many processes at once: the first one in holds an advisory lock, the others then find
nothing left to do.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from eventstore.postgres.bridge import open_bridge

_FOLDER = Path(__file__).parent
_VERSION_TABLE = {"version_table_schema": "eventstore", "version_table": "revision"}
_LOCK = 7_306_015_824_111_507  # any number, the same in every process
# Not from the owner to itself: taking its own rights away first would lock it out.
_GRANT = text("SELECT eventstore.grant_to(a) FROM (SELECT CAST(:role AS name) AS a) r WHERE a <> current_user")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    return config


HEAD: Final = ScriptDirectory(str(_FOLDER)).get_current_head() or ""
"""The newest revision: what a database must be at to be served."""


def revisions() -> frozenset[str]:
    """All revisions this version knows."""
    return frozenset(script.revision for script in ScriptDirectory(str(_FOLDER)).walk_revisions())


async def upgrade(owner_url: str, *, app_role: str | None = None, revision: str = "head") -> str | None:
    """Brings the database up to `revision` and gives `app_role` (if named) the rights to serve.

    Returns the revision that was found under the lock, None for an empty database: of several processes that call
    this at once, only the one that migrated is told of an old one. `owner_url`: a role that owns the schema or may
    create it. Raises `StoreUnavailable` (not reachable) or `Refused` (a right is missing; the message is the
    database's).
    """

    found: str | None = None

    def act(config: Config, connection: Connection) -> None:
        nonlocal found
        found = MigrationContext.configure(connection, opts=_VERSION_TABLE).get_current_revision()
        command.upgrade(config, revision)
        if app_role is not None:
            # Under the same lock: two grants at once update one row of the catalogue, and one of them fails.
            connection.execute(_GRANT, {"role": app_role})

    await _run(owner_url, act)
    return found


async def downgrade(owner_url: str, revision: str = "base") -> None:
    """Takes the schema back to `revision`. `base` takes everything away, data included."""
    await _run(owner_url, lambda config, _: command.downgrade(config, revision))


async def _run(owner_url: str, act: Callable[[Config, Connection], None]) -> None:
    def migrate(connection: Connection) -> None:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
        config = _config()
        config.attributes["connection"] = connection
        act(config, connection)

    async def go() -> None:
        engine = create_async_engine("postgresql+asyncpg://", async_creator=lambda: _connect(owner_url))
        try:
            async with engine.begin() as connection:
                await connection.run_sync(migrate)
        except DBAPIError as error:
            # Inside SQLAlchemy's error is its dialect's, and its cause the driver's, which the bridge translates.
            raise (error.orig and error.orig.__cause__) or error from None
        finally:
            await engine.dispose()  # noqa: ASYNC102  # asyncio's side: trio's cancellation ends the task

    async with open_bridge() as bridge:
        await bridge.run(go)


def _connect(url: str) -> Awaitable[Any]:
    return asyncpg.connect(url)
