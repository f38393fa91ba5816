"""`Log` over Postgres: turns batches into arrays for one statement, and rows into values.

It owns the connections: two for appending (one batch is made while the other is committed), one each for
reading, heads, retention, hints out, hints in, and the sign of life; and a few for small questions
(`questions`), which connect when they are needed. It decides nothing about retries; a lost connection is
`StoreUnavailable`, and the caller sends again."""

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

from eventstore.batcher import Batcher
from eventstore.errors import Erased, StoreError, StoreUnavailable
from eventstore.log import Hear, Outcome, ReadQuery, Verdict
from eventstore.model import Append, Event, Head, Slice
from eventstore.postgres.bridge import Bridge, Locked, Lost, Refused, Row, open_bridge
from eventstore.postgres.columns import append_columns, as_texts, speaks
from eventstore.postgres.dialing import Identity, address_of
from eventstore.postgres.hints import Announcer, Company, listen, show_life
from eventstore.postgres.questions import SESSIONS, SINGLY, Questions, in_halves
from eventstore.postgres.session import COMMAND_TIMEOUT, Session
from eventstore.postgres.statements import STATEMENTS

READ_BYTES = 8 * 1024 * 1024
"""What one batch of reads brings at most, about; each brings at least one event."""

QUERY_BYTES = 1024 * 1024
"""The same for one read of the batch: what a reader holds that takes nothing."""

_APPEND, _APPEND_TEXTS, _DURING = STATEMENTS["append"], STATEMENTS["append_texts"], STATEMENTS["append_during"]
_STAYS_ERASED = "23514"  # a CHECK that an append can fail at: only that of the streams that were erased
_VERDICTS = {verdict.value: verdict for verdict in Verdict}

APPEND_LOCK_SECONDS: Final = 1.0
"""How long a batch of appends waits for a row or a table that somebody holds. Nobody holds one for long who
means well; then those that are not concerned go without the others, which are sent again."""
AROUND_LOCK_SECONDS, AROUND_SECONDS = 0.1, 2.0
"""How long each part of such a batch waits, and for how long parts are tried."""


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


class PostgresLog(Questions):
    """One process's connection to the log. Open it once, through `EventStore.open`."""

    def __init__(self, options: PostgresOptions) -> None:
        super().__init__(secrets.randbits(63), options.patience)
        self.lanes = options.lanes
        self._options = options
        self._established = False
        self._sessions: list[Session] = []
        self._identity: Identity | None = None
        self._hear: Hear
        self._appends: list[Session]  # those that are free
        self._read: Session
        self._heads: Session
        self._retention: Session
        self._announcer: Announcer
        self._company = Company()
        self._upkeep: Batcher[tuple[str, tuple[Any, ...]], Sequence[Row]] = Batcher(self._keep_up, SINGLY)

    @asynccontextmanager
    async def open(self, hear: Hear) -> AsyncIterator[None]:
        """Connects and stays connected. Raises `StoreUnavailable` or `Refused` if it cannot at the start."""
        self._hear = hear
        async with open_bridge() as bridge:
            try:
                async with trio.open_nursery() as nursery:
                    small = self._open_sessions(bridge)
                    # A wrong address or password is said now, not at the first token.
                    await self._appends[-1].connected()
                    self._established = True
                    for session in self._sessions:
                        session.established = True
                    with trio.move_on_after(self._options.patience) as bound:
                        await nursery.start(self._show_life, bridge)
                        if self._options.hints:
                            await nursery.start(self._listen, self._session(bridge, "hears"))
                            nursery.start_soon(self._announcer.serve)
                    if bound.cancelled_caught:
                        raise Lost(
                            "the database takes one connection, but not the ten or so that each server needs: "
                            "raise max_connections, or the size of the pooler's pool"
                        )
                    nursery.start_soon(self.answer, small)
                    nursery.start_soon(self._upkeep.serve)
                    yield
                    nursery.cancel_scope.cancel()
            finally:
                # After the tasks that use them: one of these may just be getting a new connection.
                for session in self._sessions:
                    session.drop()

    def _session(self, bridge: Bridge, purpose: str, **settings: str) -> Session:
        program = address_of(self._options.dsn).program or self._options.program
        session = Session(
            bridge,
            self._options.dsn,
            f"{program} {purpose}",
            settings=settings,
            established=self._established,
            connect_timeout=self._options.connect_timeout,
            # Nobody waits longer for an answer, and behind one that never comes the next ones would wait too.
            command_timeout=min(COMMAND_TIMEOUT, self._options.patience),
            meet=self._meet,
        )
        self._sessions.append(session)
        return session

    def _open_sessions(self, bridge: Bridge) -> list[Session]:
        """Makes them; returns those for small questions."""
        patience = f"{APPEND_LOCK_SECONDS:g}s"
        self._appends = [self._session(bridge, "appends", lock_timeout=patience) for _ in range(self.lanes)]
        self._read = self._session(bridge, "reads")
        self._heads = self._session(bridge, "asks heads")
        self._retention = self._session(bridge, "trims")
        self._retention.dsn = self._options.owner_dsn or self._options.dsn
        announces = self._session(bridge, "announces", synchronous_commit="off")
        self._announcer = Announcer(announces, self._company)
        return [self._session(bridge, "asks") for _ in range(SESSIONS)]

    async def _show_life(self, bridge: Bridge, *, task_status: trio.TaskStatus[None]) -> None:
        # No lock_timeout: the lock of a process that has just gone is waited for, not refused.
        session = self._session(bridge, "lives", lock_timeout="0")
        await show_life(session, self.owner, task_status)

    async def _listen(self, session: Session, *, task_status: trio.TaskStatus[None]) -> None:
        await listen(session, self._hear, self._announcer, self._company, self.owner, task_status)

    def _meet(self, session: Session, now: Identity) -> None:
        """A session has a new connection. All of them have to be to the same history of the same database.

        1. The primary fails, and a standby is promoted: it goes on in a higher timeline. 2. One session is
        connected to it, another still to the old primary, which nobody has stopped. Reads from that one would
        miss what was appended to the new one. So the others are dropped, and whoever connects to the old one is
        refused."""
        before = self._identity
        if before is None or now == before or now.cluster is None:
            self._identity = before if now.cluster is None else now
            return
        same = now[:2] == before[:2]
        if same and now.timeline is not None and before.timeline is not None and now.timeline < before.timeline:
            raise Lost(
                f"the database server is in timeline {now.timeline}, but timeline {before.timeline} was seen: an "
                "old primary that should be stopped (if the database was set back on purpose, restart the servers)"
            )
        self._identity = now
        for other in self._sessions:
            if other is not session and other.identity != now:
                other.drop()
        self._hear.moved(f"timeline {now.timeline} after {before.timeline}" if same else "another database")

    # -- the log

    async def append(self, batch: Sequence[Append]) -> Sequence[Outcome | StoreError]:
        session = self._appends.pop()
        try:
            return await self._append_over(session, batch)
        finally:
            self._appends.append(session)

    async def _append_over(self, session: Session, batch: Sequence[Append]) -> Sequence[Outcome | StoreError]:
        try:
            return await self._send(session, batch)
        except Locked as error:
            return [error] if len(batch) == 1 else await self._append_around(session, batch, error)
        except Refused as error:
            if error.sqlstate == _STAYS_ERASED and len(batch) == 1:
                return [Erased(batch[0].stream)]
            return await in_halves(partial(self._append_over, session), batch, error)

    async def _send(self, session: Session, batch: Sequence[Append]) -> Sequence[Outcome | StoreError]:
        columns = append_columns(batch, self.owner)
        if speaks(columns):
            rows = await session.fetch(_DURING, *columns)
        else:
            texts = as_texts(columns) if len(batch) > 1 else None
            rows = await session.fetch(*((_APPEND_TEXTS, *texts) if texts else (_APPEND, *columns)))
        try:
            return [
                Outcome(_VERDICTS[verdict], stream, first or 0, last or 0, at, head)
                for _, verdict, stream, first, last, at, head in rows
            ]
        except KeyError:
            return [_outcome(*row) for row in rows]

    async def _append_around(
        self, session: Session, batch: Sequence[Append], error: Locked
    ) -> Sequence[Outcome | StoreError]:
        """The batch without those that wait for a lock: it is taken apart until all others are in, or time is
        over.

        Who is left gets the error, and is sent again by whoever asked.
        """
        answers: list[Outcome | StoreError] = [error] * len(batch)
        until = trio.current_time() + AROUND_SECONDS
        await session.fetch(STATEMENTS["lock_patience"], f"{AROUND_LOCK_SECONDS:g}s")
        parts = deque(_halves(0, len(batch)))
        while parts and trio.current_time() < until:
            first, last = parts.popleft()
            try:
                answers[first:last] = await self._send(session, batch[first:last])
            except Locked:
                parts.extend(_halves(first, last))
            except Refused as refused:
                answers[first:last] = await in_halves(
                    partial(self._append_over, session), batch[first:last], refused
                )
        await session.fetch(STATEMENTS["lock_patience"], f"{APPEND_LOCK_SECONDS:g}s")
        return answers

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
            return await in_halves(self.read, queries, error)
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
            return await in_halves(self.heads, streams, error)
        found: list[Head | None] = [None] * len(streams)
        for row in rows:
            found[row["n"] - 1] = Head(row["head"], row["earliest"])
        return found

    # -- retention, as the role that may remove events

    async def _keep_up(self, asked: Sequence[tuple[str, tuple[Any, ...]]]) -> Sequence[Sequence[Row] | Exception]:
        ((sql, values),) = asked
        try:
            return [await self._retention.fetch(sql, *values)]
        except StoreError as error:
            return [error]

    async def trim(self, stream: str, before: int) -> Head | None:
        rows = await self._upkeep.ask((STATEMENTS["trim"], (stream, before)), self._options.patience)
        return Head(rows[0]["head"], rows[0]["earliest"]) if rows else None

    async def erase_streams(self, category: str, seconds: float, limit: int) -> Sequence[str]:
        asked = (STATEMENTS["erase_streams"], (category, seconds, limit))
        return [row["stream"] for row in await self._upkeep.ask(asked, self._options.patience)]

    # -- hints

    def announce(self, streams: Iterable[str]) -> None:
        if self._options.hints:
            self._announcer.newer(streams)

    def announce_close(self, stream: str, writer: str) -> None:
        if self._options.hints:
            self._announcer.closed()


def _outcome(
    _: int, verdict: str, stream: str, first: int | None, last: int | None, at: datetime, head: int
) -> Outcome | StoreError:
    known = _VERDICTS.get(verdict)
    if known is None:  # the function was changed under us: whether it appended is not known
        return StoreUnavailable(f"the log answered {verdict!r}, which this version does not know")
    return Outcome(known, stream, first or 0, last or 0, at, head)


def _halves(first: int, last: int) -> list[tuple[int, int]]:
    """Both halves of a range; none of one that cannot be halved."""
    middle = (first + last) // 2
    return [(first, middle), (middle, last)] if middle > first else []
