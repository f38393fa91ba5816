"""Who sleeps on which stream, and how they are woken. A wake-up carries no data and may be false.

A sleeper is a bare task, woken by hand: it happens for every token and every reader of it.

The rule that makes it safe (and whose absence left one reader in two stuck): arm first, then read. A waker
that was rung while its owner was reading is found rung when the owner comes back to sleep.
"""

from collections.abc import Iterable
from typing import Any

import trio


class Waker:
    """One sleeper's bell for one stream. Rung at birth: whoever is new has to look once.

    `unread`: the log may hold what the shared tail lacks, so events out of the tail are not all there is. The
    sleeper takes it back when it reads the log. One task sleeps on it at a time.
    """

    __slots__ = ("_rung", "_sleeper", "position", "stream", "unread")

    def __init__(self, stream: str, position: int) -> None:
        self.stream = stream
        self.position = position
        # What another process appended may have been announced when this bell did not hang yet.
        self.unread = True
        self._rung = True
        self._sleeper: trio.lowlevel.Task | None = None

    @property
    def rung(self) -> bool:
        """Whether its owner would go on at once."""
        return self._rung

    def ring(self, *, in_tail: bool = False) -> None:
        """Wakes the sleeper, now or when it next lies down. `in_tail`: what is newer stands in the tail."""
        self.unread = self.unread or not in_tail
        self._rung = True
        if self._sleeper is not None:
            trio.lowlevel.reschedule(self._sleeper)
            self._sleeper = None

    def nudge(self) -> None:
        """Wakes the sleeper, if there is one, though nothing is newer: a time has come that it waits for."""
        if self._sleeper is not None:
            trio.lowlevel.reschedule(self._sleeper)
            self._sleeper = None

    def arm(self) -> None:
        """From here on every ring counts. Call it before looking, never after."""
        self._rung = False

    async def sleep(self) -> None:
        """Until the next ring since `arm`, or a nudge: `rung` tells which. Always a checkpoint."""
        if self._rung:
            await trio.lowlevel.checkpoint()
            return
        if self._sleeper is not None:
            raise trio.BusyResourceError("somebody sleeps on this bell already")
        self._sleeper = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._stir)

    def _stir(self, _: Any) -> trio.lowlevel.Abort:
        self._sleeper = None  # cancelled: a ring finds nobody, and is found later
        return trio.lowlevel.Abort.SUCCEEDED


class Wakeups:
    """All wakers of this process, by stream."""

    def __init__(self) -> None:
        self._wakers: dict[str, set[Waker]] = {}

    def add(self, stream: str, position: int) -> Waker:
        """A new waker, already rung."""
        waker = Waker(stream, position)
        self._wakers.setdefault(stream, set()).add(waker)
        return waker

    def remove(self, waker: Waker) -> None:
        """Forgets it."""
        wakers = self._wakers[waker.stream]
        wakers.discard(waker)
        if not wakers:
            del self._wakers[waker.stream]

    def wake(self, streams: Iterable[str], *, in_tail: bool = False) -> None:
        """Rings everybody on these streams."""
        for stream in streams:
            for waker in self._wakers.get(stream, ()):
                waker.ring(in_tail=in_tail)

    def wake_all(self) -> None:
        """Rings everybody: something may have been missed."""
        for wakers in self._wakers.values():
            for waker in wakers:
                waker.ring()

    def wake_behind(self, stream: str, head: int) -> None:
        """Rings those on this stream who stand before `head`."""
        for waker in self._wakers.get(stream, ()):
            if waker.position < head:
                waker.ring()

    def furthest(self, stream: str) -> int:
        """The highest position that anybody on this stream stands at."""
        return max((waker.position for waker in self._wakers.get(stream, ())), default=0)

    def streams(self) -> list[str]:
        """The streams somebody sleeps on."""
        return list(self._wakers)

    def __len__(self) -> int:
        return sum(map(len, self._wakers.values()))
