"""The small queries of the Postgres backend: keys, snapshots, writers, lists, the clock. Not appends, not events.

Each kind of query has a queue of its own, so that a query that hangs (its table is locked, its answer is large)
delays no query of another kind. Point reads of one kind that wait together become one statement; the others run
one by one. A statement has a connection to itself while it runs. Connections are taken from a small stack, the
last used one first, so no more are opened than are busy at once.

This file decides nothing about retries.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

import trio

from eventstore.backend import EXPIRE_LIMIT
from eventstore.batcher import Batcher, Limits
from eventstore.errors import StoreError
from eventstore.model import OpenWriter, Place, Snapshot, StreamRow, WriterState
from eventstore.postgres.asyncpg_trio import DatabaseRefused, Row
from eventstore.postgres.db_connection import STATEMENTS, ReconnectingConnection

Q = TypeVar("Q")
A = TypeVar("A")

POINT_READ_LIMITS: Final = Limits(requests=1_000, weight=1_000, waiting=50_000)
SNAPSHOT_LIMITS: Final = Limits(requests=8, weight=8, waiting=50_000)
"""Few snapshots to a statement, because each may be megabytes."""
ONE_BY_ONE: Final = Limits(requests=1, weight=1, waiting=10_000)

_QUEUE_OF: Final = {
    "list_streams": "lists",
    "release": "owners",
    "closed_by_others": "owners",
    "open_writers": "owners",
    "clock": "clock",
    "alive": "clock",
    "save_snapshot": "saves",
    "expire_keys": "expiry",
}
"""The queue of each statement that is not a point read. Statements of one queue run one after the other. Those of
`clock` read no table, so no lock on a table can delay them."""

QUERY_CONNECTIONS: Final = 3 + len(set(_QUEUE_OF.values()))
"""Most statements that run at once: one for each kind of point read, and one for each queue."""


class Queries:
    """The part of `Backend` that is neither appending nor reading events nor retention. `owner`: as `Backend`."""

    def __init__(self, owner: int, call_timeout: float) -> None:
        self.owner = owner
        self._call_timeout = call_timeout
        self._free: list[ReconnectingConnection] = []
        self._keys: Batcher[tuple[str, str], Place | None] = Batcher(
            self._find_keys, POINT_READ_LIMITS, shared=True
        )
        self._snapshots: Batcher[tuple[str, str, int], Snapshot | None] = Batcher(
            self._load_snapshots, SNAPSHOT_LIMITS, shared=True
        )
        self._writers: Batcher[tuple[str, str], WriterState | None] = Batcher(
            self._find_writers, POINT_READ_LIMITS, shared=True
        )
        self._queues: dict[str, Batcher[tuple[str, tuple[Any, ...]], Sequence[Row]]] = {
            queue: Batcher(self._run_statement, ONE_BY_ONE) for queue in set(_QUEUE_OF.values())
        }

    async def serve_queries(self, connections: Sequence[ReconnectingConnection]) -> None:
        """Runs the queries until it is cancelled, on `QUERY_CONNECTIONS` connections, connected or not."""
        self._free = list(connections)
        async with trio.open_nursery() as nursery:
            for serve in (self._keys.serve, self._snapshots.serve, self._writers.serve):
                nursery.start_soon(serve)
            for queue in self._queues.values():
                nursery.start_soon(queue.serve)

    async def _fetch(self, sql: str, *values: Any) -> Sequence[Row]:
        connection = self._free.pop()
        try:
            return await connection.fetch(sql, *values)
        finally:
            self._free.append(connection)

    # -- point reads: many in one statement

    async def find_key(self, scope: str, name: str) -> Place | None:
        """As `Backend.find_key`."""
        return await self._keys.ask((scope, name), self._call_timeout)

    async def _find_keys(self, keys: Sequence[tuple[str, str]]) -> Sequence[Place | StoreError | None]:
        try:
            rows = await self._fetch(STATEMENTS["find_keys"], *_columns(keys))
        except DatabaseRefused as error:
            return await run_halves(self._find_keys, keys, error)
        found: list[Place | None] = [None] * len(keys)
        for n, stream, first, last, digest in rows:
            found[n - 1] = Place(stream, first, last, digest)
        return found

    async def load_snapshot(self, stream: str, name: str, at_most: int) -> Snapshot | None:
        """As `Backend.load_snapshot`."""
        return await self._snapshots.ask((stream, name, at_most), self._call_timeout)

    async def _load_snapshots(
        self, wanted: Sequence[tuple[str, str, int]]
    ) -> Sequence[Snapshot | StoreError | None]:
        try:
            rows = await self._fetch(STATEMENTS["load_snapshots"], *_columns(wanted))
        except DatabaseRefused as error:
            return await run_halves(self._load_snapshots, wanted, error)
        found: list[Snapshot | None] = [None] * len(wanted)
        for n, position, data in rows:
            found[n - 1] = Snapshot(position, data)
        return found

    async def writer(self, stream: str, name: str) -> WriterState | None:
        """As `Backend.writer`."""
        return await self._writers.ask((stream, name), self._call_timeout)

    async def _find_writers(self, wanted: Sequence[tuple[str, str]]) -> Sequence[WriterState | StoreError | None]:
        try:
            rows = await self._fetch(STATEMENTS["writers"], *_columns(wanted))
        except DatabaseRefused as error:
            return await run_halves(self._find_writers, wanted, error)
        found: list[WriterState | None] = [None] * len(wanted)
        for n, *state in rows:
            found[n - 1] = WriterState(*state)
        return found

    # -- statements that run one by one; a caller that is cancelled leaves its statement running

    async def _query(self, name: str, *values: Any) -> Sequence[Row]:
        return await self._queues[_QUEUE_OF[name]].ask((name, values), self._call_timeout)

    async def _run_statement(
        self, batch: Sequence[tuple[str, tuple[Any, ...]]]
    ) -> Sequence[Sequence[Row] | Exception]:
        ((name, values),) = batch
        try:
            return [await self._fetch(STATEMENTS[name], *values)]
        except StoreError as error:
            return [error]

    async def save_snapshot(self, stream: str, name: str, snapshot: Snapshot) -> None:
        """As `Backend.save_snapshot`."""
        await self._query("save_snapshot", stream, name, snapshot.position, snapshot.data)

    async def list_streams(self, category: str, before: int | None, limit: int) -> Sequence[StreamRow]:
        """As `Backend.list_streams`."""
        return [StreamRow(*row) for row in await self._query("list_streams", category, before, limit)]

    async def expire_keys(self) -> int:
        """As `Backend.expire_keys`."""
        return len(await self._query("expire_keys", EXPIRE_LIMIT))

    async def release(self, writers: Sequence[tuple[str, str]]) -> None:
        """As `Backend.release`."""
        await self._query("release", *_columns(writers))

    async def closed_by_others(self) -> Sequence[tuple[str, str]]:
        """As `Backend.closed_by_others`."""
        return [(row["stream"], row["name"]) for row in await self._query("closed_by_others", self.owner)]

    async def open_writers(self) -> Sequence[OpenWriter]:
        """As `Backend.open_writers`."""
        return [OpenWriter(*row) for row in await self._query("open_writers", self.owner)]

    async def clock(self) -> datetime:
        """As `Backend.clock`."""
        at: datetime = (await self._query("clock"))[0]["at"]
        return at

    async def alive(self) -> None:
        """As `Backend.alive`."""
        await self._query("alive")


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    """Rows as columns: a statement takes one array for each."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[], []]


async def run_halves(
    call: Callable[[Sequence[Q]], Awaitable[Sequence[A | StoreError]]], batch: Sequence[Q], error: StoreError
) -> Sequence[A | StoreError]:
    """Runs each half of a refused batch by itself, so that one bad element does not fail the others.

    `call` calls this function again for a half that is refused. So the bad element is found in a few steps and
    gets the error for itself.
    """
    if len(batch) == 1:
        return [error]
    middle = len(batch) // 2
    return [*await call(batch[:middle]), *await call(batch[middle:])]
