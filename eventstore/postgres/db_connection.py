"""Connections to the database: to the right server, with the right settings, and made again after each loss.

Behind a database's URL may be a standby, a pooler that gives each transaction another server process, a database
whose encoding cannot store every text, or another history of the same database. `connect_to_primary` recognises
each of them before the first statement of a caller. `ReconnectingConnection` connects when it is first used, and
again after the connection was lost; it never sends a statement twice, which is its caller's decision.

The SQL is in `statements.sql`, which `load_statements` reads. This file uses only the statements that ask what a
connection leads to; those of the log are used by `postgres_backend`, `queries` and `notify`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Final, NamedTuple

import trio

from eventstore.postgres.asyncpg_trio import (
    Connection,
    ConnectionLost,
    DatabaseRefused,
    Driver,
    LockTimeout,
    Row,
    UnsuitableDatabase,
    open_driver,
)
from eventstore.postgres.database_url import BadDatabaseUrl, DatabaseUrl, parse_database_url

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


def load_statements(package: str, name: str) -> dict[str, str]:
    """The statements of a package's `.sql` file by name, with their comments, which then appear in the server's
    log."""
    parts = _NAME.split(files(package).joinpath(name).read_text(encoding="utf-8"))
    return dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))


STATEMENTS: Final = load_statements(__package__, "statements.sql")

_SETTINGS, _FACTS = STATEMENTS["apply_settings"], STATEMENTS["inspect_server"]
_FOREIGN_STATEMENT: Final = ("26000", "42P05")
"""A prepared statement does not exist, or exists already: this is not the server process it was prepared in."""

POOLER_PROBES: Final = 8
"""How often two connections are compared. A busy pooler may give them different server processes once by
chance."""


class Identity(NamedTuple):
    """Which database this is, and which of its histories. All three are None if the server does not tell.

    `timeline`: PostgreSQL counts it up when a standby is promoted (documentation, section 26.3).
    """

    cluster: int | None = None
    database: int | None = None
    timeline: int | None = None


class PrimaryConnection(NamedTuple):
    """A connection to a primary that keeps its settings, and which database it leads to."""

    connection: Connection
    identity: Identity


def database_url(url: str) -> DatabaseUrl:
    """As `parse_database_url`, but raises `UnsuitableDatabase` for a URL that cannot be used."""
    try:
        return parse_database_url(url)
    except BadDatabaseUrl as error:
        raise UnsuitableDatabase(f"the database's URL cannot be used: {error}") from None


async def connect_to_primary(
    driver: Driver,
    url: str,
    purpose: str,
    settings: Mapping[str, str],
    *,
    timeout: float,
    command_timeout: float,
    probe: bool = False,
    accept: Callable[[Identity], None] = lambda _: None,
) -> PrimaryConnection:
    """Connects to the primary among the URL's hosts, and puts `settings` in force.

    Each host gets `timeout` seconds; `command_timeout` bounds each later statement. `purpose` is the name that
    pg_stat_activity shows. `probe`: if there is a pooler, also find out whether it gives each transaction another
    server process, by a second connection for a moment. `accept` is called with the identity of the database, and
    raises `ConnectionLost` to have the next host tried.

    Raises `ConnectionLost` (no primary answers), `DatabaseRefused` (a wrong password, say) or `UnsuitableDatabase`
    (the message says what to do).
    """
    address = database_url(url)
    if address.connect_timeout is not None:
        timeout = min(timeout, address.connect_timeout)
    name = {"application_name": purpose}
    failures: list[ConnectionLost] = []
    for host in address.in_order():
        try:
            connection = await driver.connect(
                address.dsn, name, timeout=timeout, command_timeout=command_timeout, host=host
            )
        except ConnectionLost as error:
            failures.append(error)
            continue
        try:
            pooled = await _apply_settings(connection, settings, address)
            if pooled and probe:
                other = await driver.connect(
                    address.dsn, name, timeout=timeout, command_timeout=command_timeout, host=host
                )
                try:
                    await _refuse_transaction_pooling(connection, other, address)
                finally:
                    other.abort()
            identity = await _identify(connection)
            accept(identity)
        except ConnectionLost as error:
            connection.abort()
            failures.append(error)
        except BaseException:
            connection.abort()
            raise
        else:
            address.found(host)
            return PrimaryConnection(connection, identity)
    if len(failures) == 1:
        raise failures[0]
    raise ConnectionLost(
        "no host of the database's URL is a primary that answers: " + "; ".join(map(str, failures))
    )


async def _apply_settings(connection: Connection, settings: Mapping[str, str], address: DatabaseUrl) -> bool:
    """Puts the settings in force and checks that they hold and that the server is suitable.

    Returns whether there is a pooler in between: then the server process is not the one that the startup named.
    """
    try:
        wanted = await connection.fetch(_SETTINGS, list(settings), list(settings.values()))
        ((standby, pid, encoding, in_force),) = await connection.fetch(_FACTS, list(settings))
    except DatabaseRefused as error:
        if error.sqlstate in _FOREIGN_STATEMENT:
            raise _transaction_pooling(address) from error
        raise
    if standby:
        raise ConnectionLost("the database server is a standby: it takes no writes, and shows what was")
    if encoding != "UTF8":
        raise UnsuitableDatabase(
            f"the database's encoding is {encoding}, which cannot hold every text; make one with: "
            "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )
    pooled: bool = pid != connection.server_pid
    connection.pid = pid
    for (name, value), found in zip(wanted, in_force, strict=True):
        if value != found:
            if pooled:
                raise _transaction_pooling(address)
            raise UnsuitableDatabase(
                f"the database does not keep the setting {name}={value} (it is {found} right after)"
            )
    return pooled


async def _refuse_transaction_pooling(one: Connection, other: Connection, address: DatabaseUrl) -> None:
    """Raises `UnsuitableDatabase` if two connections share a server process, or if one of them changes its own.

    A pooler in session mode gives each connection one server process for as long as it is open.
    """
    seen: set[tuple[int, int]] = set()
    try:
        for _ in range(POOLER_PROBES):
            pids = [(await connection.fetch(STATEMENTS["backend"]))[0]["pid"] for connection in (one, other)]
            seen.add((pids[0], pids[1]))
    except DatabaseRefused as error:
        if error.sqlstate in _FOREIGN_STATEMENT:
            raise _transaction_pooling(address) from error
        raise
    if len(seen) > 1 or any(first == second for first, second in seen):
        raise _transaction_pooling(address)


def _transaction_pooling(address: DatabaseUrl) -> UnsuitableDatabase:
    return UnsuitableDatabase(
        "a pooler in front of the database gives each transaction another connection (transaction mode). That "
        "takes away the advisory locks by which servers know each other alive, and the settings that make commits "
        "durable. Use the pooler's session mode, or the database's own address"
        + (f": {address.remedy}" if address.remedy else "")
    )


async def _identify(connection: Connection) -> Identity:
    try:
        ((cluster, database, timeline),) = await connection.fetch(STATEMENTS["identity"])
    except DatabaseRefused:  # a managed server that does not let its users ask
        return Identity()
    return Identity(cluster, database, timeline)


_NO_TABLE: Final = ("42P01", "3F000", "42501")
"""No such table, no such schema, no right to look."""
_WRONG_LOGIN: Final = ("28", "3D")
"""The role or the database is not what it was: SQLSTATE classes 28 (authorization) and 3D (catalog name)."""


async def schema_revision(url: str) -> str | None:
    """The schema's revision; None if there is no schema. Raises `StoreUnavailable` or `DatabaseRefused`."""
    return await _read_revision(url, STATEMENTS["revision"])


async def compatible_since(url: str) -> str | None:
    """The oldest revision whose servers can work on the schema; None if the schema does not say.

    Raises `StoreUnavailable` or `DatabaseRefused`.
    """
    return await _read_revision(url, STATEMENTS["compatible"])


async def _read_revision(url: str, sql: str) -> str | None:
    async with open_driver() as driver:
        connection = ReconnectingConnection(driver, url, "eventstore revision")
        try:
            rows = await connection.fetch(sql)
        except DatabaseRefused as error:
            if error.sqlstate in _NO_TABLE:
                return None
            raise
        finally:
            connection.disconnect()
        return str(rows[0]["revision"]) if rows else None


SESSION_SETTINGS: Final[Mapping[str, str]] = {
    "search_path": "eventstore",
    "default_transaction_isolation": "read committed",  # append() needs a new snapshot for each statement
    "synchronous_commit": "on",
    "lock_timeout": "5s",
    "statement_timeout": "20s",
    "idle_in_transaction_session_timeout": "5s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "jit": "off",
    # Every statement has to use an index. A plan that was made while the tables were small would read them whole,
    # and would be kept until the next ANALYZE, however large the tables have become.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}
"""In force on every connection of the store, and checked after each is made. The timeouts are shorter than
`COMMAND_TIMEOUT`, so that the server gives up before the client, and a client that is paused or cut off holds no
lock for long."""

COMMAND_TIMEOUT: Final = 25.0


@dataclass(slots=True)
class ReconnectingConnection:
    """A connection that is made when it is first used, and again after it was lost. One statement at a time.

    `purpose`: the name that pg_stat_activity shows. `settings`: besides `SESSION_SETTINGS`. `connect_timeout` and
    `command_timeout`: in seconds. `established`: whether the database has accepted us before; from then on a
    refused connection (the role is being changed, or the database renamed) counts as a lost one and is tried
    again. `on_connect`: called with the identity of the database for each new connection; it may raise
    `ConnectionLost` to have the next host tried. `identity`: of the database that the present connection leads to.
    """

    driver: Driver
    url: str
    purpose: str
    settings: Mapping[str, str] = field(default_factory=dict)
    connect_timeout: float = 5.0
    command_timeout: float = COMMAND_TIMEOUT
    connection: Connection | None = None
    established: bool = False
    on_connect: Callable[["ReconnectingConnection", Identity], None] | None = None
    identity: Identity | None = None
    _lock: trio.Lock = field(default_factory=trio.Lock, init=False, repr=False)

    async def connected(self) -> Connection:
        """The connection, made if there is none. Raises `ConnectionLost` or `DatabaseRefused`."""
        if self.connection is None or self.connection.ended.is_set():
            try:
                connection, identity = await connect_to_primary(
                    self.driver,
                    self.url,
                    self.purpose,
                    {**SESSION_SETTINGS, **self.settings},
                    timeout=self.connect_timeout,
                    command_timeout=self.command_timeout,
                    probe=not self.established,
                    accept=self._accept,
                )
            except DatabaseRefused as error:
                if self.established:
                    raise ConnectionLost(f"the database does not take us any more: {error}") from error
                raise
            # Stored before the next checkpoint: if the caller is cancelled, `disconnect` still finds the
            # connection.
            self.connection, self.identity = connection, identity
        return self.connection

    def _accept(self, identity: Identity) -> None:
        if self.on_connect is not None:
            self.on_connect(self, identity)

    async def fetch(self, sql: str, *values: Any) -> Sequence[Row]:
        """Runs one statement and returns all its rows.

        Raises `ConnectionLost`, after which the next call connects again; `LockTimeout`; `DatabaseRefused`.
        """
        try:
            self._lock.acquire_nowait()  # it is nearly always free; `acquire` would let all other tasks run first
        except trio.WouldBlock:
            await self._lock.acquire()
        try:
            connection = await self.connected()
            return await connection.fetch(sql, *values)
        except LockTimeout:
            raise  # the server answered, and the connection is as it was
        except (ConnectionLost, trio.Cancelled):
            # A cancelled statement may still be running on the connection; the next one must not get its answer.
            self.disconnect()
            raise
        except DatabaseRefused as error:
            if error.sqlstate.startswith(_WRONG_LOGIN):
                self.disconnect()
            raise
        finally:
            self._lock.release()

    def disconnect(self) -> None:
        """Ends the connection at once, if there is one."""
        if self.connection is not None:
            self.connection.abort()
            self.connection = None
