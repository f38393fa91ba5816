"""`Log` over Postgres: turns batches into arrays for one statement, and rows into values.

It owns the connections: two for appending (one batch is made while the other is committed), one each for reading,
heads, everything small, hints out, hints in, and the sign of life. It decides nothing about retries; a lost
connection is `StoreUnavailable`, and the caller sends again.
"""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from sys import intern
from typing import Any, TypeVar

import trio

from eventstore.batcher import Batcher, Limits
from eventstore.errors import Erased, StoreError
from eventstore.log import Hear, Outcome, ReadQuery, Verdict
from eventstore.model import (
    Append,
    Event,
    Head,
    OpenWriter,
    Place,
    Slice,
    Snapshot,
    StreamRow,
    WriterState,
)
from eventstore.postgres.bridge import Bridge, Locked, Refused, Row, open_bridge
from eventstore.postgres.columns import append_columns, as_texts, speaks
from eventstore.postgres.hints import Announcer, Company, listen, show_life
from eventstore.postgres.session import COMMAND_TIMEOUT, Session
from eventstore.postgres.statements import STATEMENTS

READ_BYTES = 8 * 1024 * 1024
"""What one batch of reads brings at most, about; each brings at least one event."""

QUERY_BYTES = 1024 * 1024
"""The same for one read of the batch: what a reader holds that takes nothing."""

_APPEND, _APPEND_TEXTS, _DURING = STATEMENTS["append"], STATEMENTS["append_texts"], STATEMENTS["append_during"]
_STAYS_ERASED = "23514"  # a CHECK that an append can fail at: only that of the streams that were erased
_VERDICTS = {verdict.value: verdict for verdict in Verdict}
_OWNERS = ("trim", "erase_streams")
"""The statements that the role which serves requests may not run."""

Question = tuple[str, tuple[Any, ...]]
Q = TypeVar("Q")
A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class PostgresOptions:
    """`dsn` is the role that serves requests; `owner_dsn` may remove events (retention), default the same.

    `program` is how the connections call themselves. `hints=False` sends and hears no notification:
    everything still arrives, by the safety poll. `lanes` is how many batches of appends are under way at once.
    """

    dsn: str
    owner_dsn: str | None = None
    hints: bool = True
    program: str = "eventstore"
    lanes: int = 2
    connect_timeout: float = 5.0
    patience: float = 30.0


class PostgresLog:
    """One process's connection to the log. Open it once, through `EventStore.open`."""

    def __init__(self, options: PostgresOptions) -> None:
        self.owner = secrets.randbits(63)
        self.lanes = options.lanes
        self._options = options
        self._established = False
        self._appends: list[Session]  # those that are free
        self._read: Session
        self._heads: Session
        self._small: Session
        self._retention: Session
        self._announcer: Announcer
        self._company = Company()
        self._asks: Batcher[Question, Sequence[Row]] = Batcher(
            self._ask_one, Limits(questions=1, weight=1, waiting=10_000)
        )

    @asynccontextmanager
    async def open(self, hear: Hear) -> AsyncIterator[None]:
        """Connects and stays connected. Raises `StoreUnavailable` or `Refused` if it cannot at the start."""
        sessions: list[Session] = []
        async with open_bridge() as bridge:
            try:
                async with trio.open_nursery() as nursery:
                    self._open_sessions(bridge, sessions)
                    # A wrong address or password is said now, not at the first token.
                    await self._appends[-1].connected()
                    self._established = True
                    for session in sessions:
                        session.established = True
                    await nursery.start(self._show_life, bridge, sessions)
                    if self._options.hints:
                        hearing = self._session(bridge, sessions, "hears")
                        await nursery.start(self._listen, hearing, hear)
                        nursery.start_soon(self._announcer.serve)
                    nursery.start_soon(self._asks.serve)
                    yield
                    nursery.cancel_scope.cancel()
            finally:
                # After the tasks that use them: one of these may just be getting a new connection.
                for session in sessions:
                    session.drop()

    def _session(self, bridge: Bridge, sessions: list[Session], purpose: str, **settings: str) -> Session:
        session = Session(
            bridge,
            self._options.dsn,
            f"{self._options.program} {purpose}",
            settings=settings,
            established=self._established,
            connect_timeout=self._options.connect_timeout,
            # Nobody waits longer for an answer, and behind one that never comes the next ones would wait too.
            command_timeout=min(COMMAND_TIMEOUT, self._options.patience),
        )
        sessions.append(session)
        return session

    def _open_sessions(self, bridge: Bridge, sessions: list[Session]) -> None:
        self._appends = [self._session(bridge, sessions, "appends") for _ in range(self.lanes)]
        self._read = self._session(bridge, sessions, "reads")
        self._heads = self._session(bridge, sessions, "asks heads")
        self._small = self._session(bridge, sessions, "asks")
        self._retention = self._session(bridge, sessions, "trims")
        self._retention.dsn = self._options.owner_dsn or self._options.dsn
        announces = self._session(bridge, sessions, "announces", synchronous_commit="off")
        self._announcer = Announcer(announces, self._company)

    async def _show_life(
        self, bridge: Bridge, sessions: list[Session], *, task_status: trio.TaskStatus[None]
    ) -> None:
        # No lock_timeout: the lock of a process that has just gone is waited for, not refused.
        session = self._session(bridge, sessions, "lives", lock_timeout="0")
        await show_life(session, self.owner, task_status)

    async def _listen(self, session: Session, hear: Hear, *, task_status: trio.TaskStatus[None]) -> None:
        await listen(session, hear, self._announcer, self._company, self.owner, task_status)

    # -- the log

    async def append(self, batch: Sequence[Append]) -> Sequence[Outcome | StoreError]:
        session = self._appends.pop()
        try:
            columns = append_columns(batch, self.owner)
            if speaks(columns):
                rows = await session.fetch(_DURING, *columns)
            else:
                texts = as_texts(columns) if len(batch) > 1 else None
                rows = await session.fetch(*((_APPEND_TEXTS, *texts) if texts else (_APPEND, *columns)))
        except (Refused, Locked) as error:
            refused: StoreError | None = error
        else:
            refused = None
        finally:
            self._appends.append(session)
        if refused is not None:
            if isinstance(refused, Refused) and refused.sqlstate == _STAYS_ERASED and len(batch) == 1:
                return [Erased(batch[0].stream)]
            return await _singly(self.append, batch, refused)
        return [
            Outcome(_VERDICTS[verdict], stream, first or 0, last or 0, at, head)
            for _, verdict, stream, first, last, at, head in rows
        ]

    async def read(self, queries: Sequence[ReadQuery]) -> Sequence[Slice | StoreError | None]:
        try:
            rows = await self._read.fetch(
                STATEMENTS["read"],
                [query.stream for query in queries],
                [query.after for query in queries],
                [query.limit for query in queries],
                min(QUERY_BYTES, READ_BYTES // len(queries)),
            )
        except Refused as error:
            return await _singly(self.read, queries, error)
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
                    tag = tags.setdefault(tag, tag)  # one text for all events of a batch
                events.append(Event(position, intern(type_), at, tag, data))
        return found

    async def heads(self, streams: Sequence[str]) -> Sequence[Head | StoreError | None]:
        try:
            rows = await self._heads.fetch(STATEMENTS["heads"], list(streams))
        except Refused as error:
            return await _singly(self.heads, streams, error)
        found: list[Head | None] = [None] * len(streams)
        for row in rows:
            found[row["n"] - 1] = Head(row["head"], row["earliest"])
        return found

    # -- everything small, one statement after the other, each unharmed by its asker's cancellation

    async def _ask(self, name: str, *values: Any) -> Sequence[Row]:
        return await self._asks.ask((name, values), self._options.patience)

    async def _ask_one(self, questions: Sequence[Question]) -> Sequence[Sequence[Row] | Exception]:
        ((name, values),) = questions
        session = self._retention if name in _OWNERS else self._small
        try:
            return [await session.fetch(STATEMENTS[name], *values)]
        except StoreError as error:
            return [error]

    async def find_key(self, scope: str, name: str) -> Place | None:
        rows = await self._ask("find_key", scope, name)
        return Place(*rows[0]) if rows else None

    async def save_snapshot(self, stream: str, name: str, snapshot: Snapshot) -> None:
        await self._ask("save_snapshot", stream, name, snapshot.position, snapshot.data)

    async def load_snapshot(self, stream: str, name: str, at_most: int) -> Snapshot | None:
        rows = await self._ask("load_snapshot", stream, name, at_most)
        return Snapshot(*rows[0]) if rows else None

    async def list_streams(self, category: str, before: int | None, limit: int) -> Sequence[StreamRow]:
        return [StreamRow(*row) for row in await self._ask("list_streams", category, before, limit)]

    async def trim(self, stream: str, before: int) -> Head | None:
        rows = await self._ask("trim", stream, before)
        return Head(rows[0]["head"], rows[0]["earliest"]) if rows else None

    async def erase_streams(self, category: str, seconds: float, limit: int) -> Sequence[str]:
        return [row["stream"] for row in await self._ask("erase_streams", category, seconds, limit)]

    async def expire_keys(self) -> int:
        return len(await self._ask("expire_keys"))

    async def writer(self, stream: str, name: str) -> WriterState | None:
        rows = await self._ask("writer", stream, name)
        return WriterState(*rows[0]) if rows else None

    async def release(self, writers: Sequence[tuple[str, str]]) -> None:
        await self._ask("release", [stream for stream, _ in writers], [name for _, name in writers])

    async def closed_by_others(self) -> Sequence[tuple[str, str]]:
        return [(row["stream"], row["name"]) for row in await self._ask("closed_by_others", self.owner)]

    async def open_writers(self) -> Sequence[OpenWriter]:
        return [OpenWriter(*row) for row in await self._ask("open_writers", self.owner)]

    async def clock(self) -> datetime:
        at: datetime = (await self._ask("clock"))[0]["at"]
        return at

    async def alive(self) -> None:
        await self._ask("alive")

    # -- hints

    def announce(self, streams: Iterable[str]) -> None:
        if self._options.hints:
            self._announcer.newer(streams)

    def announce_close(self, stream: str, writer: str) -> None:
        if self._options.hints:
            self._announcer.closed()


async def _singly(
    call: Callable[[Sequence[Q]], Awaitable[Sequence[A | StoreError]]], batch: Sequence[Q], error: StoreError
) -> Sequence[A | StoreError]:
    """Each by itself: one that the database cannot take must not fail its neighbours."""
    if len(batch) == 1:
        return [error]
    return [answer for one in batch for answer in await call([one])]
