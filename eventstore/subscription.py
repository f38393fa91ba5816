"""A subscription: a position that moves along a stream as its reader asks for more.

Each round arms the waker, takes the events after the position from the tail cache, else from the log, and sleeps
only if there are none. A subscription's whole state is a position and a waker, so a reader that is slow, or that
never comes back, costs nothing more.

It also notices that the log has gone back to an earlier state, even if it went on past the position since then.
"""

from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import Final, Protocol

from eventstore.errors import Rewound, Trimmed
from eventstore.model import Event, Slice
from eventstore.tail_cache import TailCache
from eventstore.wakeups import Wakeups


class Read(Protocol):
    """As `EventStore.read`."""

    async def __call__(self, stream: str, after: int, limit: int, *, seen: int) -> Slice: ...


LIVE_LIMIT: Final = 32
"""How many events a reader at the head asks for: it needs only the newest few, and many readers share one
batch."""


class Subscription:
    """All events of `stream` after `position`, in order, without gap or repetition, as they are appended.

    Use it as a context manager, which frees the waker. `position` is that of the last event returned. `head` is
    the newest head of the primary that it has read; 0 before the first read. `waker` is woken when there may be
    newer events, for a caller that waits for something else as well.
    """

    __slots__ = (
        *("_at", "_incarnation", "_limit", "_read", "_seen", "_tails", "_wakeups"),
        *("head", "position", "stream", "waker"),
    )

    def __init__(
        self,
        stream: str,
        position: int,
        *,
        limit: int,
        read: Read,
        tails: TailCache,
        wakeups: Wakeups,
        seen: int = 0,
    ) -> None:
        self.stream = stream
        self.position = position
        self.head = 0
        self._seen = seen  # known to have been in the log; `position` may be what a client claims
        self._at: datetime | None = None  # the time of the event at `position`, once it is known
        self._incarnation = tails.incarnation
        self._limit = limit
        self._read = read
        self._tails = tails
        self._wakeups = wakeups
        self.waker = wakeups.add(stream, position)

    def __enter__(self) -> "Subscription":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wakeups.remove(self.waker)

    async def next(self) -> Sequence[Event]:
        """Waits for at least one event and returns what there is, the oldest first, at most the limit.

        Nothing is lost if it is cancelled. Raises `StoreUnavailable` (call it again), `Trimmed`, `Rewound`,
        `Erased`, `StreamUnknown`.
        """
        while True:
            await self.waker.sleep()
            if events := await self.poll():
                return events

    async def poll(self) -> Sequence[Event]:
        """As `next`, but returns nothing, instead of waiting, when the primary has no newer event."""
        self.waker.arm()
        if self._incarnation != self._tails.incarnation:
            await self._check_history()
        events = self._tails.after(self.stream, self.position, self._limit)
        if events:
            self._tails.hits += 1
            if self.waker.tail_incomplete or len(events) == self._limit:
                # More events may follow these, and no later append need wake us for them.
                self.waker.wake(in_tail=True)
        else:
            self._tails.misses += 1
            self.waker.tail_incomplete = False
            try:
                found = await self._read_log()
            except BaseException:
                self.waker.wake()  # failed or cancelled: the wake-up that led here has not been served
                raise
            self.head = self._seen = found.head
            events = found.events
            if events and events[-1].position < found.head:
                self.waker.wake()
        if events:
            self._at = events[-1].at
            self.position = self.waker.position = events[-1].position
            if self.position > self._seen:
                self._seen = self.position
        return events

    async def _read_log(self) -> Slice:
        """Reads the log after the position.

        The first time it reads the event at the position as well and keeps its time, by which `_check_history`
        recognises that event later. Without it, a reader that waits at its cursor and was given nothing yet would
        lose its place at every failover, even if nothing was lost.
        """
        at_head = 0 < self.head <= self.position
        limit = min(LIVE_LIMIT, self._limit) if at_head else self._limit
        if self._at is None and self.position:
            cached = self._tails.after(self.stream, self.position - 1, 1)
            if cached:
                self._at = cached[0].at
            else:
                found = await self._read_from_position(limit)
                if found is not None:
                    return found
        return await self._read(self.stream, self.position, limit, seen=self._seen)

    async def _read_from_position(self, limit: int) -> Slice | None:
        """Reads the event at the position together with those after it; None if they must be read without it."""
        try:
            found = await self._read(self.stream, self.position - 1, limit + 1, seen=self._seen)
        except Rewound:
            raise
        except Trimmed:
            return None
        if not found.events:
            return found  # the position is past the head: a client claimed it
        self._at = found.events[0].at
        following = found.events[1:]
        if not following and found.head > self.position:
            return None  # the event at the position is so large that it filled the answer
        return Slice(following, found.head, found.earliest)

    async def _check_history(self) -> None:
        """Makes sure that the event at the position is still the one that this subscription saw.

        The log may have gone back and then on again, past the position, so that the head alone tells nothing.
        Raises `Rewound` if another event is there now, or if the event at the position was never read.
        """
        incarnation, position = self._tails.incarnation, self.position
        if position:
            try:
                found = await self._read(self.stream, position - 1, 1, seen=self._seen)
            except Rewound:
                raise
            except Trimmed:  # the event is gone, and nobody can tell any more
                self._incarnation = incarnation
                return
            except BaseException:
                self.waker.wake()
                raise
            if not found.events or found.events[0].at != self._at:
                raise Rewound(self.stream, position, found.earliest, found.head)
        self._incarnation = incarnation
