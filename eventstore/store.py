"""The store that a program uses: `EventStore`, over any `Backend`, and its options.

It owns the promises that hold for every backend. An append returns after its commit and never before. An append
that is sent again happens once. A reader that waits for newer events gets them even if every notification is lost,
because `_poll_heads` compares all readers with the primary's heads from time to time.

It knows no SQL and nothing of the program's events.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final, Self, TypeVar

import trio

from eventstore.backend import (
    EXPIRE_LIMIT,
    Backend,
    Listener,
    Outcome,
    ReadQuery,
    Verdict,
    committed_events,
    exclusive_names,
    refusal,
    repeatable,
    validate,
    weigh,
)
from eventstore.batcher import Batcher, Limits
from eventstore.db_retry import call_once, retry_within
from eventstore.errors import Erased, Rewound, StoreUnavailable, StreamUnknown, Trimmed
from eventstore.model import (
    Append,
    Appended,
    Event,
    Head,
    OpenWriter,
    Place,
    Slice,
    Snapshot,
    StreamRow,
    WriterState,
)
from eventstore.observer import Health, Observer, StoreStats, stats
from eventstore.subscription import RemoteListener, Subscription, Wakeups
from eventstore.tail_cache import TailCache


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Times are in seconds, sizes in bytes.

    `call_timeout`: how long a call waits for a database that is away before it raises `StoreUnavailable`.
    `safety_poll`: how often waiting readers are compared with the primary's heads, in case notifications were
    lost. `read_limit`: how many events one read returns at most, unless it says otherwise. `tail_stream_bytes` and
    `tail_total_bytes` bound the tail cache, for one stream and for all. `append_limits`, `read_limits`: bounds of
    the batches. `observer` is told of commits and outages.
    """

    call_timeout: float = 30.0
    safety_poll: float = 1.0
    read_limit: int = 500
    tail_stream_bytes: int = 512 * 1024
    tail_total_bytes: int = 64 * 1024 * 1024
    append_limits: Limits = Limits(requests=256, weight=5_000, waiting=10_000)
    read_limits: Limits = Limits(requests=128, weight=20_000, waiting=20_000)
    observer: Observer = Observer()


HEAD_LIMITS: Final = Limits(requests=5_000, weight=5_000, waiting=50_000)

IN_LOG: Final = (Verdict.APPENDED, Verdict.REPEATED_SEQ, Verdict.REPEATED_KEY)
"""The verdicts after which the append's events are in the log."""

T = TypeVar("T")


class EventStore:
    """The event store of one process. Open it, then append, read and subscribe.

    Every async method raises `StoreUnavailable` if the database does not answer within `options.call_timeout`.
    """

    def __init__(self, backend: Backend, options: StoreOptions | None = None) -> None:
        self.options = StoreOptions() if options is None else options
        self.wakeups = Wakeups()
        self._backend = backend
        self._health = Health(self.options.observer)
        self._tails = TailCache(self.options.tail_stream_bytes, self.options.tail_total_bytes)
        self._close_callbacks: list[Callable[[], None]] = []
        self._appends: Batcher[Append, Outcome] = Batcher(
            self._append_batch,
            self.options.append_limits,
            exclusive=exclusive_names,
            weigh=weigh,
            retry=True,
            lanes=backend.parallel_appends,
        )
        self._reads: Batcher[ReadQuery, Slice | None] = Batcher(
            self._read_batch, self.options.read_limits, weigh=lambda query: query.limit, shared=True
        )
        self._heads: Batcher[str, Head | None] = Batcher(self._heads_batch, HEAD_LIMITS, shared=True)

    @property
    def incarnation(self) -> int:
        """Grows whenever the log may have gone back to an earlier state. What a caller cached before is void."""
        return self._tails.incarnation

    @property
    def owner(self) -> int:
        """The number of this process, which is stored with its writers."""
        return self._backend.owner

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Self]:
        """Connects, and runs the store's tasks. At the end waiting calls are cancelled and nothing is under
        way."""
        listener = Listener(newer=self._on_newer, closed=self._on_closed, history_changed=self._on_history_changed)
        async with self._backend.open(listener), trio.open_nursery() as nursery:
            for batcher in (self._appends, self._reads, self._heads):
                nursery.start_soon(batcher.serve)
            nursery.start_soon(self._poll_heads)
            yield self
            nursery.cancel_scope.cancel()

    # -- appending

    async def append(self, append: Append) -> Appended:
        """Appends events, and returns once they are committed.

        Raises `WrongExpectedPosition`, `Fenced`, `KeyReused` or `Erased`: nothing was appended. `ValueError`: the
        append contradicts itself. After `StoreUnavailable` it is not known whether the events were appended; it is
        safe to send the same append again if it has a key or a writer's sequence number.
        """
        validate(append)
        outcome = await self._appends.ask(repeatable(append), self.options.call_timeout)
        if outcome.verdict is Verdict.APPENDED:
            return Appended(outcome.stream, outcome.first, outcome.last, outcome.at)
        if outcome.verdict in IN_LOG:
            return Appended(outcome.stream, outcome.first, outcome.last, None, repeated=True)
        raise refusal(append, outcome)

    async def _append_batch(self, batch: Sequence[Append]) -> Sequence[Outcome | Exception]:
        # A lost connection leaves open whether the batch was committed. Every append in it is repeatable (by its
        # writer's seq or by a key), so the answer is to send the same batch again.
        started = trio.current_time()
        outcomes = await self._retry(partial(self._backend.append, batch), "append")
        seconds = trio.current_time() - started
        self.options.observer.committed(len(batch), sum(len(append.events) for append in batch), seconds)
        for append, outcome in zip(batch, outcomes, strict=True):
            if not isinstance(outcome, Outcome) or outcome.verdict not in IN_LOG:
                if isinstance(outcome, StoreUnavailable):
                    self._health.element_failed("append", outcome.kind)
                continue
            appended = outcome.verdict is Verdict.APPENDED
            self._health.repeated += not appended
            in_tail = appended and self._tails.offer(
                append.stream, committed_events(append.events, outcome.first, outcome.at)
            )
            # Also after a repetition: the first answer may have been lost, and then no reader was woken.
            self.wakeups.wake([outcome.stream], in_tail=in_tail)
            self._backend.notify_newer([outcome.stream])
            if append.closes is not None and append.writer is None:
                self._backend.notify_closed(append.stream, append.closes)
                self._on_closed()
        return outcomes

    # -- reading

    async def read(self, stream: str, after: int = 0, limit: int | None = None, *, seen: int = 0) -> Slice:
        """Reads at most `limit` events after a position, and the head, from the primary.

        `limit`: `options.read_limit` if None; 0 reads the head alone. `seen`: a position that the caller knows to
        have been in the log, because it appended or folded it. A position past the head gives no events.

        Raises `StreamUnknown`, `Trimmed`, `Erased`, `Rewound` if the log ends before what was seen of it, and
        `ValueError` for a negative limit.
        """
        if limit is None:
            limit = self.options.read_limit
        elif limit < 0:
            raise ValueError(f"a read's limit is 0 or more, not {limit}")
        known = max(seen, self._tails.last(stream))  # before the read: its answer must not end before this
        found = await self._reads.ask(ReadQuery(stream, after, limit), self.options.call_timeout)
        if found is None:
            raise self._rewound(stream, known, Head(0, 1)) if known else StreamUnknown(stream)
        if found.erased:
            self._tails.drop(stream)  # another process may have erased the stream
            raise Erased(stream)
        if found.head < known:
            raise self._rewound(stream, known, Head(found.head, found.earliest))
        if after < found.earliest - 1:
            raise Trimmed(stream, after, found.earliest, found.head)
        if (
            found.events
            and found.events[-1].position == found.head
            and not self._tails.offer(stream, found.events)
        ):
            self.wakeups.wake([stream])  # readers that were given events of the dropped tail have to read again
        return found

    async def read_cached(self, stream: str, after: int, limit: int, *, seen: int = 0) -> Slice:
        """As `read`, but takes the events from the tail cache if it has them; then only the head is read."""
        if self._tails.last(stream) <= after:
            return await self.read(stream, after, limit, seen=seen)
        head = await self.head(stream, seen=seen)
        if head.position <= after:
            return Slice((), head.position, head.earliest)
        events = self._tails.after(stream, after, limit)
        if events and (events[-1].position >= head.position or len(events) == limit):
            return Slice(events, max(head.position, events[-1].position), head.earliest)
        return await self.read(stream, after, limit, seen=seen)

    def recent(self, stream: str, after: int, limit: int) -> Sequence[Event]:
        """At most `limit` events directly after a position, from the tail cache. No events mean nothing."""
        return self._tails.after(stream, after, limit)

    async def read_one(self, stream: str, position: int) -> Event | None:
        """The event at a position; None past the head. Raises `StreamUnknown`, `Trimmed` or `Erased`."""
        events = (await self.read(stream, position - 1, 1)).events
        return events[0] if events else None

    async def head(self, stream: str, *, seen: int = 0) -> Head:
        """The stream's head, read from the primary. `seen`: as in `read`.

        Raises `StreamUnknown`, `Erased`, `Rewound`.
        """
        known = max(seen, self._tails.last(stream))
        head = await self._heads.ask(stream, self.options.call_timeout)
        if known and (head is None or (head.position < known and not head.erased)):
            raise self._rewound(stream, known, head or Head(0, 1))
        return self._existing(stream, head)

    def _rewound(self, stream: str, known: int, head: Head) -> Rewound:
        self._tails.drop(stream)
        self._tails.incarnation += 1  # other streams may have gone back too, and on again, which nobody notices
        self.options.observer.rewound(stream, known, head.position)
        return Rewound(stream, known, head.earliest, head.position)

    def _existing(self, stream: str, head: Head | None) -> Head:
        if head is None:
            raise StreamUnknown(stream)
        if head.erased:
            raise Erased(stream)
        return head

    def subscribe(self, stream: str, after: int = 0, *, seen: int = 0) -> Subscription:
        """A subscription to the events after a position, as a context manager. `seen`: as in `read`."""
        return Subscription(
            stream,
            after,
            seen=seen,
            limit=self.options.read_limit,
            read=self.read,
            tails=self._tails,
            wakeups=self.wakeups,
        )

    def listen_to_others(
        self, stream: str, position: int, callback: Callable[[], None]
    ) -> AbstractContextManager[RemoteListener]:
        """Calls back when another process may have appended to the stream, for as long as the context is open.

        A lost notification delays the call by `options.safety_poll`, while the listener's `position` is kept up to
        date.
        """
        return self.wakeups.listen(stream, position, callback)

    async def list_streams(self, category: str, before: int | None, limit: int) -> Sequence[StreamRow]:
        """At most `limit` streams of a category, the newest first: all, or those after the `order` in `before`."""
        return await self._retry(partial(self._backend.list_streams, category, before, limit), "list_streams")

    async def find_key(self, scope: str, name: str) -> Place | None:
        """Where the append is that claimed this key; None if none did, or if the key has expired."""
        return await self._retry(partial(self._backend.find_key, scope, name), "find_key")

    # -- snapshots

    async def save_snapshot(self, stream: str, name: str, snapshot: Snapshot) -> None:
        """Stores a fold. If one is stored at that position already, that one stays: folds are pure, so both are
        equal.

        It is not stored if the stream ends before its position, nor if the log goes back to an earlier state while
        this call is retried: the fold may be of a past that the log has left, and would be wrong for ever.
        """
        incarnation = self.incarnation

        async def save() -> None:
            if incarnation == self.incarnation:
                await self._backend.save_snapshot(stream, name, snapshot)

        await self._retry(save, "save_snapshot")

    async def load_snapshot(self, stream: str, name: str, at_most: int) -> Snapshot | None:
        """The newest stored fold at or before the position `at_most`."""
        return await self._retry(partial(self._backend.load_snapshot, stream, name, at_most), "load_snapshot")

    # -- writers

    async def writer(self, stream: str, name: str) -> WriterState | None:
        """The state of a writer; None if it has never written."""
        return await self._retry(partial(self._backend.writer, stream, name), "writer")

    async def release(self, writers: Sequence[tuple[str, str]]) -> None:
        """Records of these (stream, writer) pairs of this process that it holds nothing more for them."""
        await self._retry(partial(self._backend.release, writers), "release")

    def on_close(self, callback: Callable[[], None]) -> None:
        """Registers a callback for "a writer of this process may have been closed by somebody else".

        It is called from the store's tasks, must return at once, and has then to see to it that `closed_by_others`
        is called. Calls may be lost, so ask from time to time without being called.
        """
        self._close_callbacks.append(callback)

    async def closed_by_others(self) -> Sequence[tuple[str, str]]:
        """(stream, writer) of this process's writers that somebody else closed and that are not released yet."""
        return await self._retry(self._backend.closed_by_others, "closed_by_others")

    async def open_writers(self) -> Sequence[OpenWriter]:
        """The open writers of this process, and those of processes that are not alive."""
        return await self._retry(self._backend.open_writers, "open_writers")

    # -- maintenance

    async def trim(self, stream: str, before: int) -> Head:
        """Removes the events before a position, but never the newest event; returns what is left. For retention.

        It runs as the owner of the tables. A reader that stands before the position gets `Trimmed` from then on.
        Raises `StreamUnknown`, `Erased`.
        """
        head = await self._retry(partial(self._backend.trim, stream, before), "trim")
        self._tails.drop(stream)
        return self._existing(stream, head)

    async def erase_streams(self, category: str, seconds: float, limit: int = 100) -> Sequence[str]:
        """Erases streams of a category that have no open writer and whose newest event is older than `seconds`.

        Returns their names. The age is measured by the database's clock. Events, snapshots and writers are
        removed; keys stay. Readers and appends get `Erased` from then on, and the name is not used again. It
        erases at most `limit` streams in one short transaction, and fewer if they are large: call it until it
        returns none. The role that serves may erase only categories that begin with `ephemeral`; the owner of the
        tables, all.

        A name is missing from the result if the answer was lost and the call was repeated. Another process may
        still serve the stream's events from its tail cache until it next reads the log.
        """
        call = partial(self._backend.erase_streams, category, seconds, limit)
        names = await self._retry(call, "erase_streams")
        for stream in names:
            self._tails.drop(stream)
        self.wakeups.wake(names)  # a reader that sleeps has to find out: no append will wake it again
        self._backend.notify_newer(names)
        return names

    async def expire_keys(self) -> int:
        """Removes all expired keys, a bounded number in each transaction; returns how many."""
        removed = last = await self._retry(self._backend.expire_keys, "expire_keys")
        while last >= EXPIRE_LIMIT:
            last = await self._retry(self._backend.expire_keys, "expire_keys")
            removed += last
        return removed

    async def clock(self) -> datetime:
        """The database's clock (UTC), from which `Event.at` is taken. Use it to decide whether a time has come."""
        return await self._retry(self._backend.clock, "clock")

    async def alive(self) -> None:
        """Returns once the primary has answered. Raises `StoreUnavailable` after the first failure."""
        await call_once(self._backend.alive, "alive", self._health)

    def stats(self) -> StoreStats:
        """The store's numbers now. It asks nobody, so it works while the database is away."""
        queues = {"appends": self._appends.load, "reads": self._reads.load, "heads": self._heads.load}
        return stats(queues, len(self.wakeups), self._tails, self._health)

    # -- what the backend learns about other processes

    def _on_newer(self, streams: Iterable[str] | None) -> None:
        if streams is None:
            self.wakeups.wake_all()
        else:
            self.wakeups.wake(streams)

    def _on_closed(self) -> None:
        for callback in self._close_callbacks:
            callback()

    def _on_history_changed(self, why: str) -> None:
        self._tails.incarnation += 1
        self._tails.clear()
        self.options.observer.history_changed(why)
        self.wakeups.wake_all()
        self._on_closed()

    async def _poll_heads(self) -> None:
        """Wakes the readers whose stream is not where they are, whether or not a notification said so."""
        while True:
            await trio.sleep(self.options.safety_poll)
            streams = self.wakeups.streams()
            for start in range(0, len(streams), HEAD_LIMITS.requests):
                part = streams[start : start + HEAD_LIMITS.requests]
                known = [max(self._tails.last(stream), self.wakeups.furthest(stream)) for stream in part]
                try:
                    heads = await call_once(partial(self._backend.heads, part), "heads", self._health)
                except StoreUnavailable:
                    break  # readers get this error from their own reads; the next round tries again
                for stream, head, position in zip(part, heads, known, strict=True):
                    went_back = position > (head.position if isinstance(head, Head) else 0)
                    if not isinstance(head, Exception) and (went_back or (head is not None and head.erased)):
                        self.wakeups.wake([stream])
                    elif isinstance(head, Head):
                        self.wakeups.wake_behind(stream, head.position)

    async def _retry(self, call: Callable[[], Awaitable[T]], name: str) -> T:
        return await retry_within(call, self.options.call_timeout, name, self._health)

    async def _read_batch(self, queries: Sequence[ReadQuery]) -> Sequence[Slice | Exception | None]:
        return await self._retry(partial(self._backend.read, queries), "read")

    async def _heads_batch(self, streams: Sequence[str]) -> Sequence[Head | Exception | None]:
        return await self._retry(partial(self._backend.heads, streams), "heads")
