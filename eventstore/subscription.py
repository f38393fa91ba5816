"""Subscriptions: a position that moves along a stream as its reader asks for more, and the wake-ups of its reader.

A reader has one `Waker` for each stream that it follows; `Wakeups` holds all wakers of the process. A wake-up says
that the stream may have something newer. It carries no data and may be false. The rule that keeps a reader from
sleeping through an event: it calls `arm`, then reads, then sleeps. A wake-up that arrives while it reads is kept
by the waker, so that the following `sleep` returns at once. A sleeping reader is a bare trio task that is
rescheduled by hand, because this happens for every token and every reader of it.

Each round of a `Subscription` arms the waker, takes the events after the position from the tail cache, else from
the log, and sleeps only if there are none. Its whole state is a position and a waker, so a reader that is slow, or
that never comes back, costs nothing more. It also notices that the log has gone back to an earlier state, even if
it went on past the position since then. This file knows no database.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Protocol

import trio

from eventstore.errors import Rewound, Trimmed
from eventstore.model import Event, Slice
from eventstore.tail_cache import TailCache


class Waker:
    """Wakes one task that follows one stream. It starts woken, so a new reader reads once before it sleeps.

    `position` is where its reader stands. `tail_incomplete` is true while the log may hold events that the shared
    tail lacks; then events from the tail are not all there is. The reader sets it to False when it reads the log.
    Only one task at a time may sleep on a waker.
    """

    __slots__ = ("_sleeper", "_woken", "position", "stream", "tail_incomplete")

    def __init__(self, stream: str, position: int) -> None:
        self.stream = stream
        self.position = position
        # Another process may have announced an event before this waker was registered.
        self.tail_incomplete = True
        self._woken = True
        self._sleeper: trio.lowlevel.Task | None = None

    @property
    def woken(self) -> bool:
        """Whether it was woken since `arm`: then `sleep` would return at once."""
        return self._woken

    def wake(self, *, in_tail: bool = False) -> None:
        """Ends the reader's sleep, the current one or the next. `in_tail`: the newer events are in the tail."""
        self.tail_incomplete = self.tail_incomplete or not in_tail
        self._woken = True
        if self._sleeper is not None:
            trio.lowlevel.reschedule(self._sleeper)
            self._sleeper = None

    def interrupt(self) -> None:
        """Ends the current sleep, if there is one, without saying that anything is newer (a timer is due, say)."""
        if self._sleeper is not None:
            trio.lowlevel.reschedule(self._sleeper)
            self._sleeper = None

    def arm(self) -> None:
        """Forgets earlier wake-ups. Call it before reading: one that comes during the read must count."""
        self._woken = False

    async def sleep(self) -> None:
        """Waits for `wake` or `interrupt`; returns at once if it was woken since `arm`. Always a checkpoint.

        Raises `trio.BusyResourceError` if another task sleeps on this waker.
        """
        if self._woken:
            await trio.lowlevel.checkpoint()
            return
        if self._sleeper is not None:
            raise trio.BusyResourceError("another task sleeps on this waker")
        self._sleeper = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort_sleep)

    def _abort_sleep(self, _: Any) -> trio.lowlevel.Abort:
        self._sleeper = (
            None  # a later `wake` must not reschedule the cancelled task; it is kept for the next sleep
        )
        return trio.lowlevel.Abort.SUCCEEDED


class RemoteListener:
    """Calls back when another process may have appended to one stream. This process's own appends do not call.

    `position`: up to where its owner knows the stream, who keeps it up to date. Where the stream's head is behind
    that, the safety poll calls back too. The callback is called from the store's tasks and must return at once; a
    call may be false. So a listener costs nothing for what its own process appends.
    """

    __slots__ = ("callback", "position", "stream")

    def __init__(self, stream: str, position: int, callback: Callable[[], None]) -> None:
        self.stream = stream
        self.position = position
        self.callback = callback


class Wakeups:
    """All wakers and remote listeners of this process, by stream."""

    def __init__(self) -> None:
        self._wakers: dict[str, set[Waker]] = {}
        self._listeners: dict[str, set[RemoteListener]] = {}

    def add(self, stream: str, position: int) -> Waker:
        """Registers and returns a new waker, which is woken already."""
        waker = Waker(stream, position)
        self._wakers.setdefault(stream, set()).add(waker)
        return waker

    def remove(self, waker: Waker) -> None:
        """Removes a waker that `add` returned."""
        wakers = self._wakers[waker.stream]
        wakers.discard(waker)
        if not wakers:
            del self._wakers[waker.stream]

    @contextmanager
    def listen(self, stream: str, position: int, callback: Callable[[], None]) -> Iterator[RemoteListener]:
        """A `RemoteListener` for as long as the context is open."""
        listener = RemoteListener(stream, position, callback)
        self._listeners.setdefault(stream, set()).add(listener)
        try:
            yield listener
        finally:
            listeners = self._listeners[stream]
            listeners.discard(listener)
            if not listeners:
                del self._listeners[stream]

    def wake(self, streams: Iterable[str], *, in_tail: bool = False) -> None:
        """Wakes all readers of these streams. `in_tail`: this process has appended the newer events."""
        for stream in streams:
            for waker in self._wakers.get(stream, ()):
                waker.wake(in_tail=in_tail)
            if not in_tail:
                for listener in self._listeners.get(stream, ()):
                    listener.callback()

    def wake_all(self) -> None:
        """Wakes all readers of all streams: a notification may have been missed."""
        for wakers in self._wakers.values():
            for waker in wakers:
                waker.wake()
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.callback()

    def wake_behind(self, stream: str, head: int) -> None:
        """Wakes the readers of the stream whose position is before `head`."""
        for waker in self._wakers.get(stream, ()):
            if waker.position < head:
                waker.wake()
        for listener in self._listeners.get(stream, ()):
            if listener.position < head:
                listener.callback()

    def furthest(self, stream: str) -> int:
        """The highest position that a reader of the stream stands at; 0 if it has no reader."""
        readers = (*self._wakers.get(stream, ()), *self._listeners.get(stream, ()))
        return max((reader.position for reader in readers), default=0)

    def streams(self) -> list[str]:
        """The streams that have a reader or a listener."""
        return [*self._wakers, *(stream for stream in self._listeners if stream not in self._wakers)]

    def __len__(self) -> int:
        """The number of readers."""
        return sum(map(len, self._wakers.values()))


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
