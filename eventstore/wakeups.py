"""Wakes the readers of a stream when it may have something newer. A wake-up carries no data and may be false.

A reader has one `Waker` for each stream that it follows; `Wakeups` holds all wakers of the process. The rule that
keeps a reader from sleeping through an event: it calls `arm`, then reads, then sleeps. A wake-up that arrives
while it reads is kept by the waker, so that the following `sleep` returns at once.

A sleeping reader is a bare trio task that is rescheduled by hand, because this happens for every token and every
reader of it. This file knows no events and no database.
"""

from collections.abc import Iterable
from typing import Any

import trio


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


class Wakeups:
    """All wakers of this process, by stream."""

    def __init__(self) -> None:
        self._wakers: dict[str, set[Waker]] = {}

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

    def wake(self, streams: Iterable[str], *, in_tail: bool = False) -> None:
        """Wakes all readers of these streams."""
        for stream in streams:
            for waker in self._wakers.get(stream, ()):
                waker.wake(in_tail=in_tail)

    def wake_all(self) -> None:
        """Wakes all readers of all streams: a notification may have been missed."""
        for wakers in self._wakers.values():
            for waker in wakers:
                waker.wake()

    def wake_behind(self, stream: str, head: int) -> None:
        """Wakes the readers of the stream whose position is before `head`."""
        for waker in self._wakers.get(stream, ()):
            if waker.position < head:
                waker.wake()

    def furthest(self, stream: str) -> int:
        """The highest position that a reader of the stream stands at; 0 if it has no reader."""
        return max((waker.position for waker in self._wakers.get(stream, ())), default=0)

    def streams(self) -> list[str]:
        """The streams that have a reader."""
        return list(self._wakers)

    def __len__(self) -> int:
        """The number of readers."""
        return sum(map(len, self._wakers.values()))
