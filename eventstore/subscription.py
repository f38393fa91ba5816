"""A subscription: a position that moves along a stream, by pulling.

Arm the wake-up, look after the position (in the shared tail, else in the log), and only then sleep. Its whole
state is a position and a bell, so a reader that is slow, or never comes back, costs nothing more than that.
"""

from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import Protocol

from eventstore.errors import Rewound, Trimmed
from eventstore.model import Event, Slice
from eventstore.tail_cache import Tails
from eventstore.wakeups import Wakeups


class Read(Protocol):
    """As `EventStore.read`."""

    async def __call__(self, stream: str, after: int, limit: int, *, seen: int) -> Slice: ...


LIVE = 32
"""Events that a reader who stands at the head asks for: it wants the newest few, and many share a batch."""


class Subscription:
    """All events of `stream` after `position`, in order, without gap or repeat, as they come.

    A context manager: the bell is given back at its end. `position` is that of the last event returned.
    `head` is the newest head of the primary this subscription has read, 0 before the first look. `waker` is rung
    when there may be something to look at: for who waits for a time as well.
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
        tails: Tails,
        wakeups: Wakeups,
        seen: int = 0,
    ) -> None:
        self.stream = stream
        self.position = position
        self.head = 0
        self._seen = seen  # what is known to have been in the log; `position` may be what a client says
        self._at: datetime | None = None  # the time of the event at `position`, where that is known
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
        """Waits for at least one event and returns what is there, oldest first, at most the limit.

        Cancelling it loses nothing. Raises `StoreUnavailable` (ask again), `Trimmed`, `Rewound`, `Erased`,
        `StreamUnknown`.
        """
        while True:
            await self.waker.sleep()
            if events := await self.look():
                return events

    async def look(self) -> Sequence[Event]:
        """Like `next`, but returns an empty sequence when the primary says that nothing is newer."""
        self.waker.arm()
        if self._incarnation != self._tails.incarnation:
            await self._make_sure()
        events = self._tails.after(self.stream, self.position, self._limit)
        if events:
            self._tails.hits += 1
            if self.waker.unread or len(events) == self._limit:
                self.waker.ring(in_tail=True)  # no bell will ring again for what stands right behind
        else:
            self._tails.misses += 1
            self.waker.unread = False
            try:
                found = await self._read_on()
            except BaseException:
                self.waker.ring()  # failed or cancelled: what rang for this look is still to be seen
                raise
            self.head = self._seen = found.head
            events = found.events
            if events and events[-1].position < found.head:
                self.waker.ring()
        if events:
            self._at = events[-1].at
            self.position = self.waker.position = events[-1].position
            if self.position > self._seen:
                self._seen = self.position
        return events

    async def _read_on(self) -> Slice:
        """What the log holds behind the position.

        The first time with the event at the position, whose time is kept: by that `_make_sure` knows it again.
        Else whoever waits behind a cursor and has been given nothing would lose its place at every failover, also
        where nothing was lost.
        """
        live = 0 < self.head <= self.position
        limit = min(LIVE, self._limit) if live else self._limit
        if self._at is None and self.position:
            here = self._tails.after(self.stream, self.position - 1, 1)
            if here:
                self._at = here[0].at
            else:
                found = await self._read_from_here(limit)
                if found is not None:
                    return found
        return await self._read(self.stream, self.position, limit, seen=self._seen)

    async def _read_from_here(self, limit: int) -> Slice | None:
        """The events behind the position, read with the one at it; None where that one has to be read without."""
        try:
            found = await self._read(self.stream, self.position - 1, limit + 1, seen=self._seen)
        except Rewound:
            raise
        except Trimmed:
            return None
        if not found.events:
            return found  # the position lies past the head: a client's word
        self._at = found.events[0].at
        behind = found.events[1:]
        if not behind and found.head > self.position:
            return None  # it is so large that it came alone
        return Slice(behind, found.head, found.earliest)

    async def _make_sure(self) -> None:
        """The log may have gone back and on again, past our position: then only the event there tells.

        Raises `Rewound` where it is another one than stood there at the first look, or was returned since, and
        where there was no look yet.
        """
        incarnation, position = self._tails.incarnation, self.position
        if position:
            try:
                found = await self._read(self.stream, position - 1, 1, seen=self._seen)
            except Rewound:
                raise
            except Trimmed:  # nobody can tell any more
                self._incarnation = incarnation
                return
            except BaseException:
                self.waker.ring()
                raise
            if not found.events or found.events[0].at != self._at:
                raise Rewound(self.stream, position, found.earliest, found.head)
        self._incarnation = incarnation
