"""Everything small that is asked of the log, and its upkeep: each kind in a line of its own.

A kind of question that hangs (its table is locked, its answer is large, there is much to remove) holds up
nobody who asks something else. Point reads of one kind go together in one statement, as reads of events do. A
statement under way has a connection to itself; connections are taken from a few, the one that was used last
first, so that no more are made than are busy at once. It knows no events and decides nothing about retries."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

import trio

from eventstore.batcher import Batcher, Limits
from eventstore.errors import StoreError
from eventstore.log import KEYS_AT_ONCE
from eventstore.model import OpenWriter, Place, Snapshot, StreamRow, WriterState
from eventstore.postgres.bridge import Refused, Row
from eventstore.postgres.session import Session
from eventstore.postgres.statements import STATEMENTS

Pair = tuple[str, str]
Q = TypeVar("Q")
A = TypeVar("A")

POINTS: Final = Limits(questions=1_000, weight=1_000, waiting=50_000)
FOLDS: Final = Limits(questions=8, weight=8, waiting=50_000)
"""Snapshots are few to a statement, for each may be megabytes."""
SINGLY: Final = Limits(questions=1, weight=1, waiting=10_000)

_LINES: Final = {
    "list_streams": "lists",
    "release": "owners",
    "closed_by_others": "owners",
    "open_writers": "owners",
    "clock": "clock",
    "alive": "clock",
    "save_snapshot": "saves",
    "expire_keys": "expiry",
}
"""Which of the statements that go one by one stand in one line. Those of `clock` need no table."""

SESSIONS: Final = 3 + len(set(_LINES.values()))
"""How many statements are under way at once, at most: one for each kind of point read, and one a line."""


class Questions:
    """The part of a `Log` that is neither appending nor reading nor retention; `owner` is its sign of life."""

    def __init__(self, owner: int, patience: float) -> None:
        self.owner = owner
        self._patience = patience
        self._free: list[Session] = []
        self._keys: Batcher[tuple[str, str], Place | None] = Batcher(self._find_keys, POINTS, shared=True)
        self._folds: Batcher[tuple[str, str, int], Snapshot | None] = Batcher(
            self._load_snapshots, FOLDS, shared=True
        )
        self._writers: Batcher[tuple[str, str], WriterState | None] = Batcher(
            self._find_writers, POINTS, shared=True
        )
        self._lines: dict[str, Batcher[tuple[str, tuple[Any, ...]], Sequence[Row]]] = {
            line: Batcher(self._ask_one, SINGLY) for line in set(_LINES.values())
        }

    async def answer(self, sessions: Sequence[Session]) -> None:
        """Answers what is asked, for ever. `sessions`: `SESSIONS` of them, connected or not."""
        self._free = list(sessions)
        async with trio.open_nursery() as nursery:
            for serve in (self._keys.serve, self._folds.serve, self._writers.serve):
                nursery.start_soon(serve)
            for line in self._lines.values():
                nursery.start_soon(line.serve)

    async def _fetch(self, sql: str, *values: Any) -> Sequence[Row]:
        session = self._free.pop()
        try:
            return await session.fetch(sql, *values)
        finally:
            self._free.append(session)

    # -- point reads, many in one statement

    async def find_key(self, scope: str, name: str) -> Place | None:
        """As `Log.find_key`."""
        return await self._keys.ask((scope, name), self._patience)

    async def _find_keys(self, asked: Sequence[tuple[str, str]]) -> Sequence[Place | StoreError | None]:
        try:
            rows = await self._fetch(STATEMENTS["find_keys"], *_columns(asked))
        except Refused as error:
            return await in_halves(self._find_keys, asked, error)
        found: list[Place | None] = [None] * len(asked)
        for n, stream, first, last, digest in rows:
            found[n - 1] = Place(stream, first, last, digest)
        return found

    async def load_snapshot(self, stream: str, name: str, at_most: int) -> Snapshot | None:
        """As `Log.load_snapshot`."""
        return await self._folds.ask((stream, name, at_most), self._patience)

    async def _load_snapshots(
        self, asked: Sequence[tuple[str, str, int]]
    ) -> Sequence[Snapshot | StoreError | None]:
        try:
            rows = await self._fetch(STATEMENTS["load_snapshots"], *_columns(asked))
        except Refused as error:
            return await in_halves(self._load_snapshots, asked, error)
        found: list[Snapshot | None] = [None] * len(asked)
        for n, position, data in rows:
            found[n - 1] = Snapshot(position, data)
        return found

    async def writer(self, stream: str, name: str) -> WriterState | None:
        """As `Log.writer`."""
        return await self._writers.ask((stream, name), self._patience)

    async def _find_writers(self, asked: Sequence[tuple[str, str]]) -> Sequence[WriterState | StoreError | None]:
        try:
            rows = await self._fetch(STATEMENTS["writers"], *_columns(asked))
        except Refused as error:
            return await in_halves(self._find_writers, asked, error)
        found: list[WriterState | None] = [None] * len(asked)
        for n, *state in rows:
            found[n - 1] = WriterState(*state)
        return found

    # -- one statement after the other in each line, unharmed by its asker's cancellation

    async def _ask(self, name: str, *values: Any) -> Sequence[Row]:
        return await self._lines[_LINES[name]].ask((name, values), self._patience)

    async def _ask_one(
        self, questions: Sequence[tuple[str, tuple[Any, ...]]]
    ) -> Sequence[Sequence[Row] | Exception]:
        ((name, values),) = questions
        try:
            return [await self._fetch(STATEMENTS[name], *values)]
        except StoreError as error:
            return [error]

    async def save_snapshot(self, stream: str, name: str, snapshot: Snapshot) -> None:
        """As `Log.save_snapshot`."""
        await self._ask("save_snapshot", stream, name, snapshot.position, snapshot.data)

    async def list_streams(self, category: str, before: int | None, limit: int) -> Sequence[StreamRow]:
        """As `Log.list_streams`."""
        return [StreamRow(*row) for row in await self._ask("list_streams", category, before, limit)]

    async def expire_keys(self) -> int:
        """As `Log.expire_keys`."""
        return len(await self._ask("expire_keys", KEYS_AT_ONCE))

    async def release(self, writers: Sequence[tuple[str, str]]) -> None:
        """As `Log.release`."""
        await self._ask("release", *_columns(writers))

    async def closed_by_others(self) -> Sequence[tuple[str, str]]:
        """As `Log.closed_by_others`."""
        return [(row["stream"], row["name"]) for row in await self._ask("closed_by_others", self.owner)]

    async def open_writers(self) -> Sequence[OpenWriter]:
        """As `Log.open_writers`."""
        return [OpenWriter(*row) for row in await self._ask("open_writers", self.owner)]

    async def clock(self) -> datetime:
        """As `Log.clock`."""
        at: datetime = (await self._ask("clock"))[0]["at"]
        return at

    async def alive(self) -> None:
        """As `Log.alive`."""
        await self._ask("alive")


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[], []]


async def in_halves(
    call: Callable[[Sequence[Q]], Awaitable[Sequence[A | StoreError]]], batch: Sequence[Q], error: StoreError
) -> Sequence[A | StoreError]:
    """Each half by itself, after a batch was refused: one that the database cannot take fails no neighbour.

    `call` calls this again for a half that is refused, so the one to blame is found in a few steps.
    """
    if len(batch) == 1:
        return [error]
    middle = len(batch) // 2
    return [*await call(batch[:middle]), *await call(batch[middle:])]
