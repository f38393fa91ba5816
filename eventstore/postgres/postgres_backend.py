"""The log in Postgres: appends and reads in batches, by single statements, and the connections that carry them.

An append batch is passed as arrays to the SQL function `append`, which decides about each append and stores the
accepted ones. This file turns batches into arrays and rows into values; it decides neither whether an append is
accepted nor whether a call is repeated. A lost connection is `StoreUnavailable`.

It owns the connections: two for appends (one batch is prepared while the other is committed), one each for reading
events, heads, retention, sending and receiving notifications, and the liveness lock; and a few for small queries
(`queries.py`), which are opened when they are needed.
"""

import secrets
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from sys import intern
from typing import Any, Final

import trio

from eventstore.backend import Listener, Outcome, ReadQuery, Verdict
from eventstore.batcher import Batcher
from eventstore.errors import Erased, StoreError, StoreUnavailable
from eventstore.model import Append, Event, Head, Slice
from eventstore.postgres.asyncpg_trio import ConnectionLost, DatabaseRefused, Driver, LockTimeout, Row, open_driver
from eventstore.postgres.db_connection import (
    COMMAND_TIMEOUT,
    STATEMENTS,
    Identity,
    ReconnectingConnection,
    database_url,
)
from eventstore.postgres.notify import Notifier, Peers, hold_liveness_lock, listen
from eventstore.postgres.queries import ONE_BY_ONE, QUERY_CONNECTIONS, Queries, run_halves

DURING_SEQ: Final = 0
"""The `seq` in the arrays that stands for `Append.during`: a writer's own appends count from 1."""


def append_columns(batch: Sequence[Append], owner: int) -> list[Any]:
    """The arguments of the SQL function `append`, in its order: arrays of appends, of their keys, of their events.

    Appends are numbered from 1, and the events of each append from 1.
    """
    keys = [(n, key) for n, append in enumerate(batch, 1) for key in append.keys]
    events = [
        (n, offset, event) for n, append in enumerate(batch, 1) for offset, event in enumerate(append.events, 1)
    ]
    return [
        [append.stream for append in batch],
        [append.category for append in batch],
        [append.expected for append in batch],
        [len(append.events) for append in batch],
        [append.checked_writer for append in batch],
        [append.writer.epoch if append.writer else None for append in batch],
        [
            append.writer.seq if append.writer else None if append.during is None else DURING_SEQ
            for append in batch
        ],
        [append.closes is not None for append in batch],
        owner,
        [n for n, _ in keys],
        [key.scope for _, key in keys],
        [key.name for _, key in keys],
        [key.digest for _, key in keys],
        [key.seconds for _, key in keys],
        [n for n, _, _ in events],
        [offset for _, offset, _ in events],
        [event.type for _, _, event in events],
        [event.tag for _, _, event in events],
        [event.data for _, _, event in events],
    ]


def has_during(columns: Sequence[Any]) -> bool:
    """Whether an append of the batch has `during`: then the statement `append_during` has to be used."""
    return DURING_SEQ in columns[6]


SEPARATOR: Final = "\x1f"
NULL: Final = "\x1e"
_UNCHANGED: Final = range(8, 14)
"""The columns that `as_texts` leaves as they are: the owner, and those of keys, which tokens do not have."""


def as_texts(columns: Sequence[Any]) -> list[Any] | None:
    """The columns with each array as one text, which the server splits; None if a value contains a separator.

    asyncpg handles each element of an array several times before it is sent. One text halves the work here and
    costs the server nothing that can be measured. For batches of more than one append: a text of one empty element
    would be read as no element.
    """
    texts: list[Any] = []
    for n, column in enumerate(columns):
        if n in _UNCHANGED:
            texts.append(column)
            continue
        if NULL in column:
            return None
        if isinstance(column[0], str) and None not in column:
            parts = column
        else:
            parts = [NULL if value is None else str(value) for value in column]
        text = SEPARATOR.join(parts)
        if text.count(SEPARATOR) != len(column) - 1:
            return None
        texts.append(text)
    return texts


READ_BYTES: Final = 8 * 1024 * 1024
"""About how many bytes of events one batch of reads returns; each read returns at least one event."""

QUERY_BYTES: Final = 1024 * 1024
"""About how many bytes one read of a batch returns: a reader that does not take them holds them in memory."""

_APPEND, _APPEND_TEXTS = STATEMENTS["append"], STATEMENTS["append_texts"]
_APPEND_DURING = STATEMENTS["append_during"]
_CHECK_VIOLATION: Final = "23514"
"""The only CHECK that an append can violate is `streams_stay_erased`: its stream was erased."""
_VERDICTS: Final = {verdict.value: verdict for verdict in Verdict}

APPEND_LOCK_SECONDS: Final = 1.0
"""How long a batch of appends waits for a row or a table that another transaction holds. After that the appends
that do not need it go without the others (`_append_unlocked_parts`)."""
PART_LOCK_SECONDS, PARTS_SECONDS = 0.1, 2.0
"""How long each part of such a batch waits for a lock, and for how long parts are tried."""


@dataclass(frozen=True, slots=True)
class PostgresOptions:
    """`dsn`: the URL of the role that serves. `owner_dsn`: that of the role that may remove events; `dsn` if None.

    `notifications`: False sends and receives none; then events of other processes arrive by the safety poll.
    `program`: the name of the connections in pg_stat_activity. `parallel_appends`: how many batches of appends are
    under way at once. `connect_timeout` and `call_timeout`: in seconds, for one host and for one call.
    """

    dsn: str
    owner_dsn: str | None = None
    notifications: bool = True
    program: str = "eventstore"
    parallel_appends: int = 2
    connect_timeout: float = 5.0
    call_timeout: float = 30.0


class PostgresBackend(Queries):
    """One process's access to the log in Postgres. Give it to an `EventStore`, which opens it once."""

    def __init__(self, options: PostgresOptions) -> None:
        super().__init__(secrets.randbits(63), options.call_timeout)
        self.parallel_appends = options.parallel_appends
        self._options = options
        self._established = False
        self._connections: list[ReconnectingConnection] = []
        self._identity: Identity | None = None
        self._listener: Listener
        self._free_for_appends: list[ReconnectingConnection]
        self._reads: ReconnectingConnection
        self._heads: ReconnectingConnection
        self._retention: ReconnectingConnection
        self._notifier: Notifier
        self._peers = Peers()
        self._retention_queue: Batcher[tuple[str, tuple[Any, ...]], Sequence[Row]] = Batcher(
            self._run_retention, ONE_BY_ONE
        )

    @asynccontextmanager
    async def open(self, listener: Listener) -> AsyncIterator[None]:
        """Connects, and stays connected.

        Raises `StoreUnavailable` or `DatabaseRefused` if the first connection cannot be made.
        """
        self._listener = listener
        async with open_driver() as driver:
            try:
                async with trio.open_nursery() as nursery:
                    for_queries = self._add_connections(driver)
                    # So that a wrong address or password is reported now and not at the first token.
                    await self._free_for_appends[-1].connected()
                    self._established = True
                    for connection in self._connections:
                        connection.established = True
                    with trio.move_on_after(self._options.call_timeout) as bound:
                        await nursery.start(self._show_alive, driver)
                        if self._options.notifications:
                            await nursery.start(self._listen, self._add_connection(driver, "listen"))
                            nursery.start_soon(self._notifier.serve)
                    if bound.cancelled_caught:
                        raise ConnectionLost(
                            "the database takes one connection, but not the ten or so that each server needs: "
                            "raise max_connections, or the size of the pooler's pool"
                        )
                    nursery.start_soon(self.serve_queries, for_queries)
                    nursery.start_soon(self._retention_queue.serve)
                    yield
                    nursery.cancel_scope.cancel()
            finally:
                # After the nursery: one of its tasks may have been making a connection until it ended.
                for connection in self._connections:
                    connection.disconnect()

    def _add_connection(self, driver: Driver, purpose: str, **settings: str) -> ReconnectingConnection:
        program = database_url(self._options.dsn).program or self._options.program
        connection = ReconnectingConnection(
            driver,
            self._options.dsn,
            f"{program} {purpose}",
            settings=settings,
            established=self._established,
            connect_timeout=self._options.connect_timeout,
            # A caller waits no longer than this, and the next statements would wait behind one that hangs.
            command_timeout=min(COMMAND_TIMEOUT, self._options.call_timeout),
            on_connect=self._compare_identity,
        )
        self._connections.append(connection)
        return connection

    def _add_connections(self, driver: Driver) -> list[ReconnectingConnection]:
        """Makes the connection objects, and returns those for small queries."""
        lock_timeout = f"{APPEND_LOCK_SECONDS:g}s"
        self._free_for_appends = [
            self._add_connection(driver, "appends", lock_timeout=lock_timeout)
            for _ in range(self.parallel_appends)
        ]
        self._reads = self._add_connection(driver, "reads")
        self._heads = self._add_connection(driver, "heads")
        self._retention = self._add_connection(driver, "retention")
        if self._options.owner_dsn is not None:
            self._retention.url = self._options.owner_dsn
        self._notifier = Notifier(self._add_connection(driver, "notify", synchronous_commit="off"), self._peers)
        return [self._add_connection(driver, "queries") for _ in range(QUERY_CONNECTIONS)]

    async def _show_alive(self, driver: Driver, *, task_status: trio.TaskStatus[None]) -> None:
        # lock_timeout 0 waits: right after a restart the lock may still be held by the old connection.
        connection = self._add_connection(driver, "liveness", lock_timeout="0")
        await hold_liveness_lock(connection, self.owner, task_status)

    async def _listen(self, connection: ReconnectingConnection, *, task_status: trio.TaskStatus[None]) -> None:
        await listen(connection, self._listener, self._notifier, self._peers, self.owner, task_status)

    def _compare_identity(self, connection: ReconnectingConnection, now: Identity) -> None:
        """Makes sure that all connections lead to the same history of the same database.

        Without it, reads could miss appends: 1. The primary fails, and a standby is promoted, which continues in a
        higher timeline. 2. One connection leads there already, another still to the old primary, which nobody has
        stopped. 3. An append goes to the new one, a read to the old one. So at the first connection to the new
        timeline all others are ended, and from then on a connection to a lower timeline is refused.
        """
        before = self._identity
        if before is None or now == before or now.cluster is None:
            self._identity = before if now.cluster is None else now
            return
        same = now[:2] == before[:2]
        if same and now.timeline is not None and before.timeline is not None and now.timeline < before.timeline:
            raise ConnectionLost(
                f"the database server is in timeline {now.timeline}, but timeline {before.timeline} was seen: an "
                "old primary that should be stopped (if the database was set back on purpose, restart the servers)"
            )
        self._identity = now
        for other in self._connections:
            if other is not connection and other.identity != now:
                other.disconnect()
        self._listener.history_changed(
            f"timeline {now.timeline} after {before.timeline}" if same else "another database"
        )

    # -- appends

    async def append(self, batch: Sequence[Append]) -> Sequence[Outcome | StoreError]:
        """As `Backend.append`."""
        connection = self._free_for_appends.pop()
        try:
            return await self._append_on(connection, batch)
        finally:
            self._free_for_appends.append(connection)

    async def _append_on(
        self, connection: ReconnectingConnection, batch: Sequence[Append]
    ) -> Sequence[Outcome | StoreError]:
        try:
            return await self._send(connection, batch)
        except LockTimeout as error:
            if len(batch) == 1:
                return [error]
            return await self._append_unlocked_parts(connection, batch, error)
        except DatabaseRefused as error:
            if error.sqlstate == _CHECK_VIOLATION and len(batch) == 1:
                return [Erased(batch[0].stream)]
            return await run_halves(partial(self._append_on, connection), batch, error)

    async def _send(
        self, connection: ReconnectingConnection, batch: Sequence[Append]
    ) -> Sequence[Outcome | StoreError]:
        columns = append_columns(batch, self.owner)
        if has_during(columns):
            rows = await connection.fetch(_APPEND_DURING, *columns)
        else:
            texts = as_texts(columns) if len(batch) > 1 else None
            rows = await connection.fetch(*((_APPEND_TEXTS, *texts) if texts else (_APPEND, *columns)))
        try:
            return [
                Outcome(_VERDICTS[verdict], stream, first or 0, last or 0, at, head)
                for _, verdict, stream, first, last, at, head in rows
            ]
        except KeyError:
            return [_outcome(*row) for row in rows]

    async def _append_unlocked_parts(
        self, connection: ReconnectingConnection, batch: Sequence[Append], error: LockTimeout
    ) -> Sequence[Outcome | StoreError]:
        """Appends what does not need the lock: halves the batch until the rest is in, or the time is over.

        The appends that need the lock get the error; the store sends them again.
        """
        answers: list[Outcome | StoreError] = [error] * len(batch)
        until = trio.current_time() + PARTS_SECONDS
        await connection.fetch(STATEMENTS["set_lock_timeout"], f"{PART_LOCK_SECONDS:g}s")
        parts = deque(_halves(0, len(batch)))
        while parts and trio.current_time() < until:
            first, last = parts.popleft()
            try:
                answers[first:last] = await self._send(connection, batch[first:last])
            except LockTimeout:
                parts.extend(_halves(first, last))
            except DatabaseRefused as refused:
                answers[first:last] = await run_halves(
                    partial(self._append_on, connection), batch[first:last], refused
                )
        await connection.fetch(STATEMENTS["set_lock_timeout"], f"{APPEND_LOCK_SECONDS:g}s")
        return answers

    # -- reading

    async def read(self, queries: Sequence[ReadQuery]) -> Sequence[Slice | StoreError | None]:
        """As `Backend.read`."""
        try:
            rows = await self._reads.fetch(
                STATEMENTS["read"],
                [query.stream for query in queries],
                [query.after for query in queries],
                [query.limit for query in queries],
                min(QUERY_BYTES, READ_BYTES // len(queries)),
            )
        except DatabaseRefused as error:
            return await run_halves(self.read, queries, error)
        found: list[Slice | None] = [None] * len(queries)
        events: list[Event] = []
        tags: dict[str, str] = {}
        current = 0
        for n, head, earliest, position, type_, at, tag, data in rows:
            if n != current:
                current, events = n, []
                found[n - 1] = Slice(events, head, earliest)
            if position is not None:
                if tag is not None:
                    tag = tags.setdefault(tag, tag)  # the events of a batch share one string
                events.append(Event(position, intern(type_), at, tag, data))
        return found

    async def heads(self, streams: Sequence[str]) -> Sequence[Head | StoreError | None]:
        """As `Backend.heads`."""
        try:
            rows = await self._heads.fetch(STATEMENTS["heads"], list(streams))
        except DatabaseRefused as error:
            return await run_halves(self.heads, streams, error)
        found: list[Head | None] = [None] * len(streams)
        for row in rows:
            found[row["n"] - 1] = Head(row["head"], row["earliest"])
        return found

    # -- retention, as the role that may remove events

    async def _run_retention(
        self, batch: Sequence[tuple[str, tuple[Any, ...]]]
    ) -> Sequence[Sequence[Row] | Exception]:
        ((sql, values),) = batch
        try:
            return [await self._retention.fetch(sql, *values)]
        except StoreError as error:
            return [error]

    async def trim(self, stream: str, before: int) -> Head | None:
        """As `Backend.trim`."""
        request = (STATEMENTS["trim"], (stream, before))
        rows = await self._retention_queue.ask(request, self._options.call_timeout)
        return Head(rows[0]["head"], rows[0]["earliest"]) if rows else None

    async def erase_streams(self, category: str, seconds: float, limit: int) -> Sequence[str]:
        """As `Backend.erase_streams`."""
        request = (STATEMENTS["erase_streams"], (category, seconds, limit))
        rows = await self._retention_queue.ask(request, self._options.call_timeout)
        return [row["stream"] for row in rows]

    # -- notifications

    def notify_newer(self, streams: Iterable[str]) -> None:
        """As `Backend.notify_newer`."""
        if self._options.notifications:
            self._notifier.newer(streams)

    def notify_closed(self, stream: str, writer: str) -> None:
        """As `Backend.notify_closed`."""
        if self._options.notifications:
            self._notifier.closed()


def _outcome(
    _: int, verdict: str, stream: str, first: int | None, last: int | None, at: datetime, head: int
) -> Outcome | StoreError:
    known = _VERDICTS.get(verdict)
    if known is None:  # a newer version has replaced the SQL function: it is not known whether this was appended
        return StoreUnavailable(f"the log answered {verdict!r}, which this version does not know")
    return Outcome(known, stream, first or 0, last or 0, at, head)


def _halves(first: int, last: int) -> list[tuple[int, int]]:
    """Both halves of a range; none for a range of one."""
    middle = (first + last) // 2
    return [(first, middle), (middle, last)] if middle > first else []
