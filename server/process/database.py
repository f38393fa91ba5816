"""Which database a server uses: the embedded one, started and migrated here, or a given one, whose schema is
checked.

Owns the start of the embedded PostgreSQL and its restart when it ends, the check of the schema's revision, the
migration at start, and what is reported of the database: commits go to the metrics, an outage to the log. An
outage is one log line when it begins and one when it ends, however many requests met it. It must not know HTTP,
and it neither reads nor writes the event log.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

import migrations
from eventstore import Observer
from eventstore.postgres import compatible_since, schema_revision
from eventstore.postgres.asyncpg_trio import DatabaseRefused
from eventstore.postgres.database_url import parse_database_url
from server.config import Settings
from server.embedded_postgres import Embedded, EmbeddedError, acquire
from server.observability import Metrics, logs

log = logs.get("database")
store_log = logs.get("store")

CHECK_SECONDS = 2.0
"""Between two looks at whether the embedded PostgreSQL still runs."""


@dataclass(frozen=True, slots=True)
class Database:
    """Where the event log is: `url` for the role that serves, `owner_url` for the role that owns the tables."""

    url: str
    owner_url: str


class NotMigrated(Exception):
    """The database has another schema than this version needs. The operator is to blame; the message says what to
    run."""


class StartStopped(Exception):
    """A signal told the server to stop while it was still starting its database. Nobody is to blame."""


@asynccontextmanager
async def open_database(
    settings: Settings, *, migrate: bool, stop: trio.Event | None = None, stop_seconds: float = 60.0
) -> AsyncIterator[Database]:
    """The database, running and at this version's schema, for as long as the context lasts.

    The embedded database is always migrated, a given one only with `migrate`; of several processes that start
    together, one migrates. `stop`: an event that, once set, ends the start. `stop_seconds`: how long the embedded
    database may take to stop. Raises `EmbeddedError`, `NotMigrated`, `StoreUnavailable` or `DatabaseRefused`,
    each with a message for the person who starts the server, or `StartStopped`.
    """
    if settings.database_url is not None:
        database = Database(settings.database_url, settings.database_owner_url or settings.database_url)
        found = await schema_revision(database.url)
        if await _is_compatible(database.url, found):
            log.info("database of a newer version", at=found, knows=migrations.HEAD)
        elif not migrate:
            require_migrated(found)
        elif found != migrations.HEAD:  # nothing to do otherwise, and the owner's URL may not be set
            _log_migration(await migrate_database(database, tell=log.info))
        yield database
        return
    stop = trio.Event() if stop is None else stop
    async with _embedded(settings.data_dir, stop, stop_seconds) as held:
        database = Database(held.app_url, held.owner_url)
        _log_migration(await migrate_database(database))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_restart_when_gone, held, stop)
            yield database
            nursery.cancel_scope.cancel()


def _progress_log(stop: trio.Event) -> Callable[[str], None]:
    """A callback for progress messages; it raises `StartStopped` once the server was told to stop."""

    def report(message: str) -> None:
        if stop.is_set():
            raise StartStopped
        log.info(message)

    return report


@asynccontextmanager
async def _embedded(data_dir: Path | None, stop: trio.Event, stop_seconds: float) -> AsyncIterator[Embedded]:
    # A cancel does not abandon the thread: the PostgreSQL that it is starting would run on with nobody to stop it.
    held = await trio.to_thread.run_sync(partial(acquire, data_dir, progress=_progress_log(stop)))
    try:
        yield held
    finally:
        with trio.CancelScope(shield=True), trio.move_on_after(stop_seconds) as bound:
            await trio.to_thread.run_sync(held.release, abandon_on_cancel=True)
        if bound.cancelled_caught:
            log.warning("the embedded PostgreSQL takes long to stop; it goes on by itself")


async def _restart_when_gone(held: Embedded, stop: trio.Event) -> None:
    """Starts the embedded PostgreSQL again when it has ended, for example by the kernel's out-of-memory killer."""

    def start_again() -> None:
        # Acquire and release in one call: a second hold that was released later could outlive the server's own.
        acquire(held.data_dir, progress=_progress_log(stop)).release()

    while True:
        await trio.sleep(CHECK_SECONDS)
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


async def _is_compatible(url: str, found: str | None) -> bool:
    """Whether a newer version has migrated the database and has kept everything in it that this version uses."""
    if found is None or found in migrations.revisions():
        return False
    return await compatible_since(url) in migrations.revisions()


async def migrate_database(database: Database, *, tell: Callable[[str], None] = lambda _: None) -> str | None:
    """Brings the database to this version's schema. Returns the revision that it had before, None for an empty
    one.

    Of several processes that call this at once, one migrates and the others wait for it. `tell` is called with a
    line about each step and each wait. Raises `NotMigrated` where a newer version has migrated the database or the
    owner's role lacks a right, and `StoreUnavailable`.
    """
    _refuse_newer(await schema_revision(database.owner_url))
    try:
        found = await migrations.upgrade(
            database.owner_url, app_role=parse_database_url(database.url).user, tell=tell
        )
    except DatabaseRefused as error:
        raise NotMigrated(
            f"The database could not be migrated: {error}. Set TOKENTAPE_DATABASE_OWNER_URL to a role that owns "
            "the tables, or may make them, then start again."
        ) from None
    return found


def _log_migration(found: str | None) -> None:
    if found != migrations.HEAD:
        log.info("database migrated", before=found or "empty", after=migrations.HEAD)


def require_migrated(found: str | None) -> None:
    """Raises `NotMigrated` unless `found` is this version's revision."""
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


REWOUND_LOG_SECONDS = 10.0
"""At most one line about streams that went back in so many seconds."""


class StoreObserver(Observer):
    """The observer of a process's one event store."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._rewound_at = -REWOUND_LOG_SECONDS

    def committed(self, appends: int, events: int, seconds: float) -> None:
        """A batch of appends was committed, `seconds` after it was sent."""
        self._metrics.committed(appends, events, seconds)

    def unavailable(self, why: str) -> None:
        """The database stopped answering."""
        store_log.warning("store unavailable", why=why)

    def available(self, seconds: float, failures: int) -> None:
        """The database answers again, after `seconds` and so many failed calls."""
        store_log.info("store available again", seconds=round(seconds, 3), failures=failures)

    def maintenance_failed(self, call: str, why: str) -> None:
        """A maintenance call fails; reads and appends are served as before."""
        store_log.warning("store maintenance fails", call=call, why=why)

    def rewound(self, stream: str, seen: int, head: int) -> None:
        """The head of `stream` went back from `seen` to `head`. One line in a while, however many readers meet
        it."""
        now = trio.current_time()
        if now >= self._rewound_at + REWOUND_LOG_SECONDS:
            self._rewound_at = now
            store_log.warning("log went back", stream=stream, seen=seen, head=head)

    def history_changed(self, why: str) -> None:
        """The database is another one than before, or continues from an earlier state."""
        store_log.warning("store moved", why=why)
