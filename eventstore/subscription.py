"""A subscription: a position that moves along a stream, by pulling.

Arm the wake-up, look after the position (in the shared tail, else in the log), and only then sleep. Its whole
state is a position and a bell, so a reader that is slow, or never comes back, costs nothing more than that.
"""

from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType

from eventstore.model import Event, Slice
from eventstore.tail_cache import Tails
from eventstore.wakeups import Wakeups

Read = Callable[[str, int, int], Awaitable[Slice]]
LIVE = 32
"""Events that a reader who stands at the head asks for: it wants the newest few, and many share a batch."""


class Subscription:
    """All events of `stream` after `position`, in order, without gap or repeat, as they come.

    A context manager: the bell is given back at its end. `position` is that of the last event returned.
    `head` is the newest head of the primary this subscription has read, 0 before the first look. `waker` is rung
    when there may be something to look at: for who waits for a time as well.
    """

    __slots__ = ("_limit", "_read", "_tails", "_wakeups", "head", "position", "stream", "waker")

    def __init__(
        self, stream: str, position: int, *, limit: int, read: Read, tails: Tails, wakeups: Wakeups
    ) -> None:
        self.stream = stream
        self.position = position
        self.head = 0
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

        Cancelling it loses nothing. Raises `StoreUnavailable` (ask again), `Trimmed`, `Erased`, `StreamUnknown`.
        """
        while True:
            await self.waker.sleep()
            if events := await self.look():
                return events

    async def look(self) -> Sequence[Event]:
        """Like `next`, but returns an empty sequence when the primary says that nothing is newer."""
        self.waker.arm()
        events = self._tails.after(self.stream, self.position, self._limit)
        if events:
            self._tails.hits += 1
            if self.waker.unread or len(events) == self._limit:
                self.waker.ring(in_tail=True)  # no bell will ring again for what stands right behind
        else:
            self._tails.misses += 1
            self.waker.unread = False
            try:
                live = 0 < self.head <= self.position
                found = await self._read(
                    self.stream, self.position, min(LIVE, self._limit) if live else self._limit
                )
            except BaseException:
                self.waker.ring()  # failed or cancelled: what rang for this look is still to be seen
                raise
            self.head = found.head
            events = found.events
            if events and events[-1].position < found.head:
                self.waker.ring()
        if events:
            self.position = self.waker.position = events[-1].position
        return events
