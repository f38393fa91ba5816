"""Which database a server works on: the embedded one, brought up and migrated here, or a given one, checked.

It hands out two addresses: the role that serves and the role that owns the tables. It knows no HTTP and runs
nothing on the log itself.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

import migrations
from eventstore.postgres import compatible_since, schema_revision
from eventstore.postgres.address import parse
from eventstore.postgres.bridge import Refused
from server import logs
from server.config import Settings
from server.embedded import Embedded, EmbeddedError, acquire

log = logs.get("database")

KEEP_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Database:
    """Where the log is. `url` serves, `owner_url` migrates and trims."""

    url: str
    owner_url: str


class NotMigrated(Exception):
    """The database is not at this version's schema. The message says what to run."""


class StartStopped(Exception):
    """The server was told to stop while its database was being started. Nobody is to blame."""


@asynccontextmanager
async def open_database(
    settings: Settings, *, migrate: bool, stop: trio.Event | None = None, stop_seconds: float = 60.0
) -> AsyncIterator[Database]:
    """The database, up and at this version's schema, for as long as the context lasts.

    The embedded one is migrated always, a given one only with `migrate`, by one process at a time. `stop` gives
    the start up; the embedded database has `stop_seconds` to stop. Raises `EmbeddedError`, `NotMigrated`,
    `StoreUnavailable` or `Refused`, each with a message for the person who starts the server, or `StartStopped`.
    """
    if settings.database_url is not None:
        database = Database(settings.database_url, settings.database_owner_url or settings.database_url)
        found = await schema_revision(database.url)
        if await _works_on(database.url, found):
            log.info("database of a newer version", at=found, knows=migrations.HEAD)
        elif not migrate:
            _judge(found)
        elif found != migrations.HEAD:  # at it, the role that serves has all that it needs, and may hold no more
            _log_migration(await migrate_database(database, tell=log.info))
        yield database
        return
    stop = trio.Event() if stop is None else stop
    async with _embedded(settings.data_dir, stop, stop_seconds) as held:
        database = Database(held.app_url, held.owner_url)
        _log_migration(await migrate_database(database))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_keep_up, held, stop)
            yield database
            nursery.cancel_scope.cancel()


def _telling(stop: trio.Event) -> Callable[[str], None]:
    def tell(what: str) -> None:
        if stop.is_set():
            raise StartStopped
        log.info(what)

    return tell


@asynccontextmanager
async def _embedded(data_dir: Path | None, stop: trio.Event, stop_seconds: float) -> AsyncIterator[Embedded]:
    # Not abandoned when cancelled: a PostgreSQL that is just being started would be left without a holder.
    held = await trio.to_thread.run_sync(partial(acquire, data_dir, progress=_telling(stop)))
    try:
        yield held
    finally:
        with trio.CancelScope(shield=True), trio.move_on_after(stop_seconds) as bound:
            await trio.to_thread.run_sync(held.release, abandon_on_cancel=True)
        if bound.cancelled_caught:
            log.warning("the embedded PostgreSQL takes long to stop; it goes on by itself")


async def _keep_up(held: Embedded, stop: trio.Event) -> None:
    """Starts PostgreSQL again when something ended it: nobody else would, and the log is waiting for it."""

    def start_again() -> None:
        # In one go, in one thread: a hold that is given back only later could outlive our own.
        acquire(held.data_dir, progress=_telling(stop)).release()

    while True:
        await trio.sleep(KEEP_SECONDS)
        try:
            held.pid  # noqa: B018  # raises when there is none
        except EmbeddedError:
            log.warning("the embedded PostgreSQL is gone; starting it again")
            try:
                await trio.to_thread.run_sync(start_again)
            except EmbeddedError as error:
                log.error("the embedded PostgreSQL does not start", why=str(error))
            except StartStopped:
                return


async def _works_on(url: str, found: str | None) -> bool:
    """Whether a newer version has migrated the database, and left in it what this version needs."""
    if found is None or found in migrations.revisions():
        return False
    return await compatible_since(url) in migrations.revisions()


async def migrate_database(database: Database, *, tell: Callable[[str], None] = lambda _: None) -> str | None:
    """Brings the database to this version's schema; returns the revision it was at, None for an empty one.

    Of several processes that do so at once one migrates, and the others wait for it; `tell` hears what is done
    and waited for. Raises `NotMigrated` when a newer version has been at it or a right is missing, or
    `StoreUnavailable`."""
    _refuse_newer(await schema_revision(database.owner_url))
    try:
        found = await migrations.upgrade(database.owner_url, app_role=parse(database.url).user, tell=tell)
    except Refused as error:
        raise NotMigrated(
            f"The database could not be migrated: {error}. Set TOKENTAPE_DATABASE_OWNER_URL to a role that owns "
            "the tables, or may make them, then start again."
        ) from None
    return found


def _log_migration(found: str | None) -> None:
    if found != migrations.HEAD:
        log.info("database migrated", before=found or "empty", after=migrations.HEAD)


def _judge(found: str | None) -> None:
    """Raises `NotMigrated` unless the database is at this version's revision."""
    _refuse_newer(found)
    if found != migrations.HEAD:
        at = f"at revision {found}" if found else "empty"
        raise NotMigrated(
            f"The database is {at}; this version needs {migrations.HEAD}. Run `tokentape migrate` with the same "
            "settings (and TOKENTAPE_DATABASE_OWNER_URL, if another role owns the tables), then start again; or "
            "start with --migrate (TOKENTAPE_MIGRATE=true), which does that first."
        )


def _refuse_newer(found: str | None) -> None:
    if found is not None and found not in migrations.revisions():
        raise NotMigrated(
            f"The database is at revision {found}, which this version does not know: it has been migrated by a "
            f"newer Tokentape. Start that version, or use another database; this one needs {migrations.HEAD}."
        )
