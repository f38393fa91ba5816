"""The store a program calls: group commit, shared reads, tails and subscriptions over any `Log`.

It owns the promises that hold for every backend: an append returns after its commit and not before; one that
is sent again happens once; whoever waits for newer events gets them with every notification lost. It knows
no SQL.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Self, TypeVar

import trio

from eventstore.appending import check, exclusive_names, made, refusal, repeatable, weigh
from eventstore.batcher import Batcher, Limits
from eventstore.errors import Erased, Rewound, StoreUnavailable, StreamUnknown, Trimmed
from eventstore.figures import Figures, figures
from eventstore.log import KEYS_AT_ONCE, Hear, Log, Outcome, ReadQuery, Verdict
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
from eventstore.observing import Health
from eventstore.options import StoreOptions
from eventstore.patience import once, patiently
from eventstore.subscription import Subscription
from eventstore.tail_cache import Tails
from eventstore.wakeups import Wakeups

HEAD_LIMITS = Limits(questions=5_000, weight=5_000, waiting=50_000)

STANDS = (Verdict.APPENDED, Verdict.REPEATED_SEQ, Verdict.REPEATED_KEY)

T = TypeVar("T")


class EventStore:
    """One per process. Open it, then append, read, subscribe.

    Every method raises `StoreUnavailable` when the database does not answer within `options.patience`.
    """

    def __init__(self, log: Log, options: StoreOptions | None = None) -> None:
        self.options = options or StoreOptions()
        self.wakeups = Wakeups()
        self.closing = trio.Event()
        self._log = log
        self._health = Health(self.options.observer)
        self._tails = Tails(self.options.tail_stream_bytes, self.options.tail_total_bytes)
        self._appends: Batcher[Append, Outcome] = Batcher(
            self._append_batch,
            self.options.append_limits,
            exclusive=exclusive_names,
            weigh=weigh,
            again=True,
            lanes=log.lanes,
        )
        self._reads: Batcher[ReadQuery, Slice | None] = Batcher(
            self._read_batch, self.options.read_limits, weigh=lambda query: query.limit, shared=True
        )
        self._heads: Batcher[str, Head | None] = Batcher(self._heads_batch, HEAD_LIMITS, shared=True)

    @property
    def incarnation(self) -> int:
        """Grows when the log is another one now, or some stream was found to have gone back: what is held is
        void."""
        return self._tails.incarnation

    @property
    def owner(self) -> int:
        """The number under which this process's writers are known to be alive."""
        return self._log.owner

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Self]:
        """The store at work. At its end nothing is under way any more; waiting appends are cancelled."""
        hear = Hear(newer=self._heard_newer, closed=self._heard_closed, moved=self._heard_moved)
        async with self._log.open(hear), trio.open_nursery() as nursery:
            for batcher in (self._appends, self._reads, self._heads):
                nursery.start_soon(batcher.serve)
            nursery.start_soon(self._poll_heads)
            yield self
            nursery.cancel_scope.cancel()

    # -- writing

    async def append(self, append: Append) -> Appended:
        """Appends, and returns after the commit.

        Raises `WrongExpectedPosition`, `Fenced`, `KeyReused`, `Erased` (nothing was appended), or
        `StoreUnavailable` (not known; the same append with the same key or sequence is safe to send again).
        """
        check(append)
        outcome = await self._appends.ask(repeatable(append), self.options.patience)
        if outcome.verdict is Verdict.APPENDED:
            return Appended(outcome.stream, outcome.first, outcome.last, outcome.at)
        if outcome.verdict in STANDS:
            return Appended(outcome.stream, outcome.first, outcome.last, None, repeated=True)
        raise refusal(append, outcome)

    async def _append_batch(self, batch: Sequence[Append]) -> Sequence[Outcome | Exception]:
        # Every append can be repeated (by a writer's seq or by a key), so a lost connection, after which
        # nobody knows whether the commit happened, is answered by sending the same batch again.
        started = trio.current_time()
        outcomes = await self._patiently(partial(self._log.append, batch), "append")
        seconds = trio.current_time() - started
        self.options.observer.committed(len(batch), sum(len(append.events) for append in batch), seconds)
        for append, outcome in zip(batch, outcomes, strict=True):
            if not isinstance(outcome, Outcome) or outcome.verdict not in STANDS:
                if isinstance(outcome, StoreUnavailable):
                    self._health.put_off("append", outcome.kind)
                continue
            appended = outcome.verdict is Verdict.APPENDED
            self._health.repeated += not appended
            in_tail = appended and self._tails.offer(append.stream, made(append.events, outcome.first, outcome.at))
            # A repetition may be the answer that got lost: then nobody has heard of these events yet.
            self.wakeups.wake([outcome.stream], in_tail=in_tail)
            self._log.announce([outcome.stream])
            if append.closes is not None and append.writer is None:
                self._log.announce_close(append.stream, append.closes)
                self._heard_closed()
        return outcomes

    # -- reading

    async def read(self, stream: str, after: int = 0, limit: int | None = None, *, seen: int = 0) -> Slice:
        """At most `limit` events after a position, and the primary's head. Changes nothing.

        `seen`: a position that the caller knows to have been in the log (an append's, or one that it has folded).
        Raises `StreamUnknown`, `Trimmed`, `Erased`, or `Rewound` where the log ends before what was seen of it. A
        position past the head gives no events: compare `head`.
        """
        limit = limit or self.options.read_limit
        known = max(seen, self._tails.last(stream))  # before the asking: the answer cannot be older than that
        found = await self._reads.ask(ReadQuery(stream, after, limit), self.options.patience)
        if found is None:
            raise self._rewound(stream, known, Head(0, 1)) if known else StreamUnknown(stream)
        if found.erased:
            self._tails.drop(stream)  # another process may have erased it: here its events end now
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
            self.wakeups.wake([stream])  # whoever took events out of the tail has to look
        return found

    async def look(self, stream: str, after: int, limit: int, *, seen: int = 0) -> Slice:
        """As `read`. Where the shared tail holds newer events they come from there, and only the head is read."""
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
        """At most `limit` events right after a position, from memory. None of them says nothing."""
        return self._tails.after(stream, after, limit)

    async def read_one(self, stream: str, position: int) -> Event | None:
        """The event at a position, None past the head. Raises `StreamUnknown`, `Trimmed` or `Erased`."""
        events = (await self.read(stream, position - 1, 1)).events
        return events[0] if events else None

    async def head(self, stream: str, *, seen: int = 0) -> Head:
        """Where the stream ends, read from the primary. Raises `StreamUnknown`, `Erased`, or `Rewound` as
        `read`."""
        known = max(seen, self._tails.last(stream))
        head = await self._heads.ask(stream, self.options.patience)
        if known and (head is None or (head.position < known and not head.erased)):
            raise self._rewound(stream, known, head or Head(0, 1))
        return self._there(stream, head)

    def _rewound(self, stream: str, known: int, head: Head) -> Rewound:
        self._tails.drop(stream)
        self._tails.incarnation += 1  # where one stream went back, others may have gone back and on unnoticed
        self.options.observer.rewound(stream, known, head.position)
        return Rewound(stream, known, head.earliest, head.position)

    def _there(self, stream: str, head: Head | None) -> Head:
        if head is None:
            raise StreamUnknown(stream)
        if head.erased:
            raise Erased(stream)
        return head

    def subscribe(self, stream: str, after: int = 0, *, seen: int = 0) -> Subscription:
        """A subscription from a position on; a context manager. `seen`: as of `read`."""
        return Subscription(
            stream,
            after,
            seen=seen,
            limit=self.options.read_limit,
            read=self.read,
            tails=self._tails,
            wakeups=self.wakeups,
        )

    async def list_streams(self, category: str, before: int | None, limit: int) -> Sequence[StreamRow]:
        """The newest `limit` streams of a category, or those older than the `order` given as `before`."""
        return await self._patiently(partial(self._log.list_streams, category, before, limit), "list_streams")

    async def find_key(self, scope: str, name: str) -> Place | None:
        """Where the append stands that claimed this key; None if nobody did, or it has expired."""
        return await self._patiently(partial(self._log.find_key, scope, name), "find_key")

    # -- snapshots

    async def save_snapshot(self, stream: str, name: str, snapshot: Snapshot) -> None:
        """Stores a fold. The first one stored at a position stays: folds are pure, so all are equal.

        One that the log does not reach is not stored, nor is one again that was tried before the log moved: it may
        be of a past that the log has left, and would be wrong for ever.
        """
        of = self.incarnation

        async def save() -> None:
            if of == self.incarnation:
                await self._log.save_snapshot(stream, name, snapshot)

        await self._patiently(save, "save_snapshot")

    async def load_snapshot(self, stream: str, name: str, at_most: int) -> Snapshot | None:
        """The newest stored fold at or before a position."""
        return await self._patiently(partial(self._log.load_snapshot, stream, name, at_most), "load_snapshot")

    # -- writers

    async def writer(self, stream: str, name: str) -> WriterState | None:
        """How a writer stands; None if it never wrote."""
        return await self._patiently(partial(self._log.writer, stream, name), "writer")

    async def release(self, writers: Sequence[tuple[str, str]]) -> None:
        """Says of (stream, writer) pairs of this process that it holds nothing more for them."""
        await self._patiently(partial(self._log.release, writers), "release")

    async def closed_by_others(self) -> Sequence[tuple[str, str]]:
        """This process's writers that somebody else closed and that are not released yet.

        `closing` is set when such a one was heard of; renew it, then ask.
        """
        return await self._patiently(self._log.closed_by_others, "closed_by_others")

    async def open_writers(self) -> Sequence[OpenWriter]:
        """Open writers that are this process's own, or whose process shows no sign of life."""
        return await self._patiently(self._log.open_writers, "open_writers")

    # -- keeping

    async def trim(self, stream: str, before: int) -> Head:
        """Retention: removes the events before a position (never the newest) and returns what is left.

        Runs as the owner of the tables. Raises `StreamUnknown`, `Erased`. A reader behind gets `Trimmed` now.
        """
        head = await self._patiently(partial(self._log.trim, stream, before), "trim")
        self._tails.drop(stream)
        return self._there(stream, head)

    async def erase_streams(self, category: str, seconds: float, limit: int = 100) -> Sequence[str]:
        """Erases streams of a category that are older than so many seconds and have no open writer; their names.

        The age is that of the newest event, by the database's clock. Events, snapshots and writers go, keys
        stay; who reads the stream or appends to it gets `Erased`, and its name is not taken again. At most
        `limit` in one short transaction, and fewer where there is much to remove: call it until it returns
        none. The role that serves may erase categories that begin with `ephemeral`, the owner of the tables all.
        A name is missing where the answer got lost and the call was sent again. A process that followed a
        stream may give out what it holds of it until its next look into the log.
        """
        call = partial(self._log.erase_streams, category, seconds, limit)
        names = await self._patiently(call, "erase_streams")
        for stream in names:
            self._tails.drop(stream)
        self.wakeups.wake(names)  # who sleeps on one would never hear of it otherwise
        self._log.announce(names)
        return names

    async def expire_keys(self) -> int:
        """Removes all keys whose time is over, a bounded number in each transaction; returns how many."""
        removed = last = await self._patiently(self._log.expire_keys, "expire_keys")
        while last >= KEYS_AT_ONCE:
            last = await self._patiently(self._log.expire_keys, "expire_keys")
            removed += last
        return removed

    async def clock(self) -> datetime:
        """The clock that `Event.at` is taken from (UTC): for whoever judges whether a time has come."""
        return await self._patiently(self._log.clock, "clock")

    async def alive(self) -> None:
        """Returns when the primary answers. Raises `StoreUnavailable` at once when it does not."""
        await once(self._log.alive, "alive", self._health)

    def figures(self) -> Figures:
        """The store's numbers now. Asks nobody, so it works while the database is away."""
        queues = {"appends": self._appends.load, "reads": self._reads.load, "heads": self._heads.load}
        return figures(queues, len(self.wakeups), self._tails, self._health)

    # -- hints

    def _heard_newer(self, streams: Iterable[str] | None) -> None:
        if streams is None:
            self.wakeups.wake_all()
        else:
            self.wakeups.wake(streams)

    def _heard_moved(self, why: str) -> None:
        self._tails.incarnation += 1
        self._tails.clear()
        self.options.observer.moved(why)
        self.wakeups.wake_all()
        self.closing.set()

    def _heard_closed(self) -> None:
        self.closing.set()

    async def _poll_heads(self) -> None:
        while True:
            await trio.sleep(self.options.safety_poll)
            streams = self.wakeups.streams()
            for start in range(0, len(streams), HEAD_LIMITS.questions):
                asked = streams[start : start + HEAD_LIMITS.questions]
                before = [max(self._tails.last(stream), self.wakeups.furthest(stream)) for stream in asked]
                try:
                    heads = await once(partial(self._log.heads, asked), "heads", self._health)
                except StoreUnavailable:
                    break  # whoever reads hears of it there; the next round asks again
                for stream, head, known in zip(asked, heads, before, strict=True):
                    gone_back = known > (head.position if isinstance(head, Head) else 0)
                    if not isinstance(head, Exception) and (gone_back or (head is not None and head.erased)):
                        self.wakeups.wake([stream])
                    elif isinstance(head, Head):
                        self.wakeups.wake_behind(stream, head.position)

    async def _patiently(self, call: Callable[[], Awaitable[T]], name: str) -> T:
        return await patiently(call, self.options.patience, name, self._health)

    async def _read_batch(self, queries: Sequence[ReadQuery]) -> Sequence[Slice | Exception | None]:
        return await self._patiently(partial(self._log.read, queries), "read")

    async def _heads_batch(self, streams: Sequence[str]) -> Sequence[Head | Exception | None]:
        return await self._patiently(partial(self._log.heads, streams), "heads")
