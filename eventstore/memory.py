"""The log in memory: for tests, for virtual time, for a program that wants the contract without a database.

One `MemoryLog` is the database; each `MemoryLog.process()` is one process's view of it, with a sign of life
of its own. Nothing survives the end of the program. It holds the very contract of the Postgres log.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count

import trio

from eventstore.appending import spoken_of
from eventstore.errors import Erased, StoreError, StoreUnavailable
from eventstore.judge import WriterRow, judge
from eventstore.log import Hear, Log, Outcome, ReadQuery, Verdict
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

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


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


class MemoryLog:
    """The database all processes share. `available = False` makes it go away."""

    def __init__(self) -> None:
        self.available = True
        self.streams: dict[str, _Stream] = {}
        self.keys: dict[tuple[str, str], tuple[Place, float]] = {}
        self.living: dict[int, Hear] = {}
        self._owners = count(1)
        self._orders = count(1)

    def process(self) -> Log:
        """One more process that uses this log."""
        return _Process(self, next(self._owners))

    def now(self) -> datetime:
        """The database's clock: trio's, so that virtual time is the time of `at` too."""
        return EPOCH + timedelta(seconds=trio.current_time() % 1e9)

    def append_one(self, append: Append, owner: int) -> Outcome | StoreError:
        """Judges and, where it stands, appends."""
        stream = self.streams.get(append.stream)
        head = stream.head if stream else 0
        name = append.writer.name if append.writer else spoken_of(append)
        row = stream.writers.get(name) if stream and name is not None else None
        verdict = judge(append, head, row, tuple(self._claim(key.scope, key.name) for key in append.keys))
        now = max(self.now(), stream.events[-1].at) if stream and stream.events else self.now()
        if verdict is Verdict.REPEATED_KEY:
            place = next(found for key in append.keys if (found := self._claim(key.scope, key.name)))
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

    def _claim(self, scope: str, name: str) -> Place | None:
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
        """Erases the streams whose newest event is from before then and that nobody writes to."""
        over = [
            name
            for name, stream in self.streams.items()
            if stream.category == category and stream.events and stream.events[-1].at < before
            if all(row.closed for row in stream.writers.values())
        ][:limit]
        for name in over:
            old = self.streams[name]
            self.streams[name] = _Stream("", old.order, old.created_at, earliest=old.head + 1)
        return over

    def find(self, scope: str, name: str) -> Place | None:
        """Where a live key points."""
        return self._claim(scope, name)


class _Process:
    """One process's view of a `MemoryLog`."""

    lanes = 1

    def __init__(self, shared: MemoryLog, owner: int) -> None:
        self.owner = owner
        self._shared = shared

    @asynccontextmanager
    async def open(self, hear: Hear) -> AsyncIterator[None]:
        self._shared.living[self.owner] = hear
        try:
            yield
        finally:
            del self._shared.living[self.owner]

    async def _reach(self) -> None:
        # A round trip: other tasks run, as they do while a real database answers.
        await trio.lowlevel.checkpoint()
        if not self._shared.available:
            raise StoreUnavailable("the in-memory log is switched off")

    async def append(self, batch: Sequence[Append]) -> Sequence[Outcome | StoreError]:
        await self._reach()
        return [self._shared.append_one(append, self.owner) for append in batch]

    async def read(self, queries: Sequence[ReadQuery]) -> Sequence[Slice | None]:
        await self._reach()
        return [self._slice(query) for query in queries]

    def _slice(self, query: ReadQuery) -> Slice | None:
        stream = self._shared.streams.get(query.stream)
        if stream is None:
            return None
        start = max(0, query.after + 1 - stream.earliest)
        # Copies, as from a database: what readers keep at an event is theirs and not the log's.
        found = [
            Event(one.position, one.type, one.at, one.tag, one.data)
            for one in stream.events[start : start + query.limit]
        ]
        return Slice(found, stream.head, stream.earliest)

    async def heads(self, streams: Sequence[str]) -> Sequence[Head | None]:
        await self._reach()
        found = [self._shared.streams.get(name) for name in streams]
        return [Head(stream.head, stream.earliest) if stream else None for stream in found]

    async def find_key(self, scope: str, name: str) -> Place | None:
        await self._reach()
        return self._shared.find(scope, name)

    async def save_snapshot(self, stream: str, name: str, snapshot: Snapshot) -> None:
        await self._reach()
        found = self._shared.streams.get(stream)
        if found is not None and not found.erased and snapshot.position <= found.head:
            found.snapshots.setdefault(name, {}).setdefault(snapshot.position, snapshot)

    async def load_snapshot(self, stream: str, name: str, at_most: int) -> Snapshot | None:
        await self._reach()
        found = self._shared.streams.get(stream)
        stored = found.snapshots.get(name, {}) if found else {}
        return max(
            (snapshot for position, snapshot in stored.items() if position <= at_most),
            key=lambda snapshot: snapshot.position,
            default=None,
        )

    async def list_streams(self, category: str, before: int | None, limit: int) -> Sequence[StreamRow]:
        await self._reach()
        rows = [
            StreamRow(name, stream.order, stream.head, stream.created_at)
            for name, stream in self._shared.streams.items()
            if stream.category == category and not stream.erased and (before is None or stream.order < before)
        ]
        return sorted(rows, key=lambda row: row.order, reverse=True)[:limit]

    async def trim(self, stream: str, before: int) -> Head | None:
        await self._reach()
        found = self._shared.streams.get(stream)
        if found is None:
            return None
        earliest = max(found.earliest, min(before, found.head))
        del found.events[: earliest - found.earliest]
        found.earliest = earliest
        return Head(found.head, found.earliest)

    async def erase_streams(self, category: str, seconds: float, limit: int) -> Sequence[str]:
        await self._reach()
        return self._shared.erase(category, self._shared.now() - timedelta(seconds=seconds), limit)

    async def expire_keys(self) -> int:
        await self._reach()
        keys = self._shared.keys
        over = [name for name, (_, expiry) in keys.items() if expiry <= trio.current_time()]
        for name in over:
            del keys[name]
        return len(over)

    async def writer(self, stream: str, name: str) -> WriterState | None:
        await self._reach()
        row = self._row(stream, name)
        if row is None:
            return None
        return WriterState(row.epoch, row.owner, row.closed, row.released, row.owner in self._shared.living)

    async def release(self, writers: Sequence[tuple[str, str]]) -> None:
        await self._reach()
        for stream, name in writers:
            if (row := self._row(stream, name)) is not None:
                row.released = True

    async def closed_by_others(self) -> Sequence[tuple[str, str]]:
        await self._reach()
        return [
            (stream, name)
            for stream, name, row in self._writers()
            if row.owner == self.owner and row.closed and not row.released
        ]

    async def open_writers(self) -> Sequence[OpenWriter]:
        await self._reach()
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
        await self._reach()
        return self._shared.now()

    async def alive(self) -> None:
        await self._reach()

    def announce(self, streams: Iterable[str]) -> None:
        named = list(streams)
        for owner, hear in self._shared.living.items():
            if owner != self.owner:
                hear.newer(named)

    def announce_close(self, stream: str, writer: str) -> None:
        for owner, hear in self._shared.living.items():
            if owner != self.owner:
                hear.closed()
