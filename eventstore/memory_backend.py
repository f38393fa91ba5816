"""The log in memory: the test double of the Postgres backend, and the executable specification of its rule.

`check_append` is the rule by which an append is accepted or refused. In production the SQL function `append` of
`migrations/sql/0001_event_log.up.sql` applies it, because it has to be applied while the rows are locked. A
property test (tests/eventstore/test_check_append_and_sql.py) compares the two on random states and appends, and
the contract tests run on both backends.

One `MemoryBackend` stands for the database. `MemoryBackend.process()` returns one process's view of it. Time is
trio's, so that a test with a virtual clock controls it. Nothing is kept when the program ends.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Final

import trio

from eventstore.backend import Backend, Listener, Outcome, ReadQuery, Verdict
from eventstore.errors import Erased, StoreError, StoreUnavailable
from eventstore.model import Append, Event, Head, OpenWriter, Place, Slice, Snapshot, StreamRow, WriterState

EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""The database's time when trio's clock is at 0."""


@dataclass(slots=True)
class WriterRow:
    """What is stored of a writer. `seq` is its newest append, which is at the positions `first` to `last`.

    A writer that was closed before it wrote has `epoch` and `seq` 0.
    """

    epoch: int
    seq: int
    first: int
    last: int
    owner: int
    closed: bool = False
    released: bool = False


def check_append(append: Append, head: int, writer: WriterRow | None, claims: tuple[Place | None, ...]) -> Verdict:
    """Decides whether the append is accepted. The order of the checks is part of the rule.

    `head`: where the stream ends; 0 if it does not exist. `writer`: the row of `append.checked_writer`, if there
    is one. `claims`: for each key of the append, in order, the append that has claimed it, or None.
    """
    claimed = [(key, claim) for key, claim in zip(append.keys, claims, strict=True) if claim is not None]
    if any(key.digest is None or key.digest != claim.digest for key, claim in claimed):
        return Verdict.KEY_REUSED
    if len({(claim.stream, claim.first) for _, claim in claimed}) > 1:
        return Verdict.KEY_REUSED  # two appends have claimed the keys, so this one repeats neither
    if claimed:
        return Verdict.REPEATED_KEY
    acting = append.writer
    if append.during is not None and writer is None:
        return Verdict.FENCED_UNKNOWN
    # Before "closed": an append that closed its own writer may be repeated.
    if acting is not None and writer is not None and (acting.epoch, acting.seq) == (writer.epoch, writer.seq):
        return Verdict.REPEATED_SEQ
    if writer is not None and writer.closed:
        return Verdict.FENCED_CLOSED
    if acting is not None:
        if writer is not None and acting.epoch < writer.epoch:
            return Verdict.FENCED_EPOCH
        new_epoch = writer is None or acting.epoch > writer.epoch
        next_seq = 1 if new_epoch else writer.seq + 1  # type: ignore[union-attr]  # not new: there is a writer
        if acting.seq != next_seq:
            return Verdict.FENCED_SEQUENCE
    if append.expected >= 0 and append.expected != head:
        return Verdict.WRONG_POSITION
    return Verdict.APPENDED


@dataclass(slots=True)
class _Stream:
    category: str
    order: int
    created_at: datetime
    events: list[Event] = field(default_factory=list)
    earliest: int = 1
    writers: dict[str, WriterRow] = field(default_factory=dict)
    snapshots: dict[str, dict[int, Snapshot]] = field(default_factory=dict)

    @property
    def head(self) -> int:
        return self.earliest - 1 + len(self.events)

    @property
    def erased(self) -> bool:
        return self.earliest > 1 and not self.events


class MemoryBackend:
    """The database that all processes share. Set `available` to False to take it away from them.

    `living`: the listener of each process that has it open, by owner. To remove an entry is to let that process
    look dead to the others.
    """

    def __init__(self) -> None:
        self.available = True
        self.streams: dict[str, _Stream] = {}
        self.keys: dict[tuple[str, str], tuple[Place, float]] = {}
        self.living: dict[int, Listener] = {}
        self._owners = count(1)
        self._orders = count(1)

    def process(self) -> Backend:
        """The view of one more process."""
        return _ProcessView(self, next(self._owners))

    def now(self) -> datetime:
        """The database's clock."""
        return EPOCH + timedelta(seconds=trio.current_time() % 1e9)

    def append_one(self, append: Append, owner: int) -> Outcome | StoreError:
        """Checks one append, and stores its events if it is accepted."""
        stream = self.streams.get(append.stream)
        head = stream.head if stream else 0
        name = append.checked_writer
        row = stream.writers.get(name) if stream and name is not None else None
        claims = tuple(self.find_key(key.scope, key.name) for key in append.keys)
        verdict = check_append(append, head, row, claims)
        now = max(self.now(), stream.events[-1].at) if stream and stream.events else self.now()
        if verdict is Verdict.REPEATED_KEY:
            place = next(claim for claim in claims if claim is not None)
            return Outcome(verdict, place.stream, place.first, place.last, now, head)
        if stream and stream.erased:
            return Erased(append.stream)
        if verdict is Verdict.REPEATED_SEQ and row is not None:
            return Outcome(verdict, append.stream, row.first, row.last, now, head)
        if verdict is not Verdict.APPENDED:
            return Outcome(verdict, append.stream, 0, 0, now, head)
        if stream is None:
            stream = self.streams[append.stream] = _Stream(append.category, next(self._orders), now)
        first, last = head + 1, head + len(append.events)
        for position, new in enumerate(append.events, first):
            stream.events.append(Event(position, new.type, now, new.tag, new.data))
        if append.during is None:
            self._write_row(stream, append, name, first, last, owner)
        for key in append.keys:
            expiry = float("inf") if key.seconds is None else trio.current_time() + key.seconds
            self.keys[key.scope, key.name] = (Place(append.stream, first, last, key.digest), expiry)
        return Outcome(verdict, append.stream, first, last, now, head)

    def find_key(self, scope: str, name: str) -> Place | None:
        """Where the append is that claimed the key; None if none did, or if the key has expired."""
        place, expiry = self.keys.get((scope, name), (None, 0.0))
        return place if expiry > trio.current_time() else None

    def _write_row(
        self, stream: _Stream, append: Append, name: str | None, first: int, last: int, owner: int
    ) -> None:
        if name is None:
            return
        row = stream.writers.get(name)
        if append.writer is not None:
            acting, closed = append.writer, append.closes is not None
            stream.writers[name] = WriterRow(acting.epoch, acting.seq, first, last, owner, closed, closed)
        elif row is not None:
            row.closed, row.released = True, False
        else:
            stream.writers[name] = WriterRow(0, 0, first, last, owner, True, True)

    def erase(self, category: str, before: datetime, limit: int) -> Sequence[str]:
        """Erases streams whose newest event is older than `before` and that have no open writer."""
        erased = [
            name
            for name, stream in self.streams.items()
            if stream.category == category and stream.events and stream.events[-1].at < before
            if all(row.closed for row in stream.writers.values())
        ][:limit]
        for name in erased:
            old = self.streams[name]
            self.streams[name] = _Stream("", old.order, old.created_at, earliest=old.head + 1)
        return erased


class _ProcessView:
    """A `MemoryBackend` as one process sees it."""

    parallel_appends = 1

    def __init__(self, shared: MemoryBackend, owner: int) -> None:
        self.owner = owner
        self._shared = shared

    @asynccontextmanager
    async def open(self, listener: Listener) -> AsyncIterator[None]:
        self._shared.living[self.owner] = listener
        try:
            yield
        finally:
            del self._shared.living[self.owner]

    async def _round_trip(self) -> None:
        # Other tasks run meanwhile, as they do while a real database answers.
        await trio.lowlevel.checkpoint()
        if not self._shared.available:
            raise StoreUnavailable("the in-memory log is switched off")

    async def append(self, batch: Sequence[Append]) -> Sequence[Outcome | StoreError]:
        await self._round_trip()
        return [self._shared.append_one(append, self.owner) for append in batch]

    async def read(self, queries: Sequence[ReadQuery]) -> Sequence[Slice | None]:
        await self._round_trip()
        return [self._slice(query) for query in queries]

    def _slice(self, query: ReadQuery) -> Slice | None:
        stream = self._shared.streams.get(query.stream)
        if stream is None:
            return None
        start = max(0, query.after + 1 - stream.earliest)
        # Copies, as from a database: what readers memoize at an event must not be stored in the log.
        found = [
            Event(one.position, one.type, one.at, one.tag, one.data)
            for one in stream.events[start : start + query.limit]
        ]
        return Slice(found, stream.head, stream.earliest)

    async def heads(self, streams: Sequence[str]) -> Sequence[Head | None]:
        await self._round_trip()
        found = [self._shared.streams.get(name) for name in streams]
        return [Head(stream.head, stream.earliest) if stream else None for stream in found]

    async def find_key(self, scope: str, name: str) -> Place | None:
        await self._round_trip()
        return self._shared.find_key(scope, name)

    async def save_snapshot(self, stream: str, name: str, snapshot: Snapshot) -> None:
        await self._round_trip()
        found = self._shared.streams.get(stream)
        if found is not None and not found.erased and snapshot.position <= found.head:
            found.snapshots.setdefault(name, {}).setdefault(snapshot.position, snapshot)

    async def load_snapshot(self, stream: str, name: str, at_most: int) -> Snapshot | None:
        await self._round_trip()
        found = self._shared.streams.get(stream)
        stored = found.snapshots.get(name, {}) if found else {}
        return max(
            (snapshot for position, snapshot in stored.items() if position <= at_most),
            key=lambda snapshot: snapshot.position,
            default=None,
        )

    async def list_streams(self, category: str, before: int | None, limit: int) -> Sequence[StreamRow]:
        await self._round_trip()
        rows = [
            StreamRow(name, stream.order, stream.head, stream.created_at)
            for name, stream in self._shared.streams.items()
            if stream.category == category and not stream.erased and (before is None or stream.order < before)
        ]
        return sorted(rows, key=lambda row: row.order, reverse=True)[:limit]

    async def trim(self, stream: str, before: int) -> Head | None:
        await self._round_trip()
        found = self._shared.streams.get(stream)
        if found is None:
            return None
        earliest = max(found.earliest, min(before, found.head))
        del found.events[: earliest - found.earliest]
        found.earliest = earliest
        return Head(found.head, found.earliest)

    async def erase_streams(self, category: str, seconds: float, limit: int) -> Sequence[str]:
        await self._round_trip()
        return self._shared.erase(category, self._shared.now() - timedelta(seconds=seconds), limit)

    async def expire_keys(self) -> int:
        await self._round_trip()
        keys = self._shared.keys
        expired = [name for name, (_, expiry) in keys.items() if expiry <= trio.current_time()]
        for name in expired:
            del keys[name]
        return len(expired)

    async def writer(self, stream: str, name: str) -> WriterState | None:
        await self._round_trip()
        row = self._row(stream, name)
        if row is None:
            return None
        return WriterState(row.epoch, row.owner, row.closed, row.released, row.owner in self._shared.living)

    async def release(self, writers: Sequence[tuple[str, str]]) -> None:
        await self._round_trip()
        for stream, name in writers:
            if (row := self._row(stream, name)) is not None:
                row.released = True

    async def closed_by_others(self) -> Sequence[tuple[str, str]]:
        await self._round_trip()
        return [
            (stream, name)
            for stream, name, row in self._writers()
            if row.owner == self.owner and row.closed and not row.released
        ]

    async def open_writers(self) -> Sequence[OpenWriter]:
        await self._round_trip()
        return [
            OpenWriter(stream, name, row.epoch, row.owner)
            for stream, name, row in self._writers()
            if not row.closed and (row.owner == self.owner or row.owner not in self._shared.living)
        ]

    def _row(self, stream: str, name: str) -> WriterRow | None:
        found = self._shared.streams.get(stream)
        return found.writers.get(name) if found else None

    def _writers(self) -> Iterable[tuple[str, str, WriterRow]]:
        for stream, found in self._shared.streams.items():
            for name, row in found.writers.items():
                yield stream, name, row

    async def clock(self) -> datetime:
        await self._round_trip()
        return self._shared.now()

    async def alive(self) -> None:
        await self._round_trip()

    def notify_newer(self, streams: Iterable[str]) -> None:
        named = list(streams)
        for owner, listener in self._shared.living.items():
            if owner != self.owner:
                listener.newer(named)

    def notify_closed(self, stream: str, writer: str) -> None:
        for owner, listener in self._shared.living.items():
            if owner != self.owner:
                listener.closed()
