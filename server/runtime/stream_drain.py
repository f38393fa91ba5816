"""The streams of this process: how many there may be, how long each may stay, and how all end when it stops.

Each stream has an end time: from the start if streams are capped, or when the drain begins. Both are spread at
random, so that clients that came together do not all come back in the same instant. One task wakes those whose
time has come, for a deadline and a cancel scope of its own cost a quiet stream more than all the rest of it.
"""

import math
import random
from collections import Counter
from heapq import heapify, heappop, heappush
from itertools import count

import trio

from eventstore.wakeups import Waker
from server.errors import Problem

LEAST_SHARE = 0.8
"""Of the longest time that a stream may take: so much it has at least."""


class Stay:
    """One open stream's leave to stay: `over` when it shall end."""

    __slots__ = ("_drain", "_due", "_scope", "_waker", "_watched", "end_at", "transport")

    def __init__(self, drain: "Drain", end_at: float, transport: str) -> None:
        self.end_at = end_at
        self.transport = transport
        self._drain = drain
        self._scope: trio.CancelScope | None = None
        self._waker: Waker | None = None
        self._due = math.inf
        self._watched = math.inf  # the earliest time at which the drain's task looks at this stay

    @property
    def over(self) -> bool:
        """Whether the time has come."""
        return trio.current_time() >= self.end_at

    async def sleep(self, waker: Waker, until: float) -> bool:
        """Sleeps until the waker is rung (True), or `until` (by trio's clock) or the stay's end has come (False).

        Also returns, with False, when somebody nudges the waker. Always a checkpoint. One task sleeps in a stay at
        a time.
        """
        due = min(until, self.end_at)
        if due <= trio.current_time():
            await trio.lowlevel.checkpoint()
            return False
        if not waker.rung:
            self._waker, self._due = waker, due
            if due < self._watched:
                self._drain.watch(self, due)
                self._watched = due
        await waker.sleep()
        return waker.rung

    def look_at(self, entry: float) -> float:
        """An entry of the drain's heap has come due: wakes the sleeper if its time has come.

        Returns the time of the next entry, infinity for none.
        """
        if entry != self._watched:
            return math.inf  # an earlier time was entered after this one: that entry counts
        if self._due <= entry:
            if self._waker is not None:
                self._waker.nudge()
            self._due = math.inf  # if nobody slept: whoever does next looks at its time first
        self._watched = self._due
        return self._due

    def scope(self, seconds: float) -> trio.CancelScope:
        """A scope for the next wait: ends after `seconds`, or when the stay ends, whichever is first."""
        self._scope = trio.CancelScope(deadline=min(trio.current_time() + seconds, self.end_at))
        return self._scope

    def shorten(self, end_at: float) -> None:
        """Ends the stay earlier, also in the middle of a wait."""
        self.end_at = min(self.end_at, end_at)
        if self._scope is not None:
            self._scope.deadline = min(self._scope.deadline, self.end_at)
        if self._waker is not None and self.end_at < self._due:
            self._due = self.end_at
            if self._due < self._watched:
                self._drain.watch(self, self._due)
                self._watched = self._due


class Drain:
    """All stays of this process. `most` bounds their number, `longest` (seconds) each one's length.

    `refused` counts what was turned away, by the code of its problem. `serve` has to run for `Stay.sleep` to
    end at its time.
    """

    def __init__(self, most: int, longest: float | None) -> None:
        self._most = most
        self._longest = longest
        self._stays: set[Stay] = set()
        self.begun = False
        self._empty = trio.Event()
        self.refused = {"draining": 0, "overloaded": 0}
        self._order = count()
        self._watched: list[tuple[float, int, Stay]] = []  # a heap
        self._next = math.inf
        self._sooner = trio.Event()

    def __len__(self) -> int:
        return len(self._stays)

    @property
    def most(self) -> int:
        """How many there may be."""
        return self._most

    def by_transport(self) -> Counter[str]:
        """How many there are of each kind."""
        return Counter(stay.transport for stay in self._stays)

    def refuse_if_begun(self) -> None:
        """Raises the `Problem` with which new work is refused while the server stops."""
        if self.begun:
            self.refused["draining"] += 1
            raise Problem(503, "draining", "The server is stopping. Come back in a moment.", retry_after=1.0)

    def refuse_stream(self) -> None:
        """The same for a new stream or a request to be held, which is refused too when too many are open."""
        self.refuse_if_begun()
        if len(self._stays) >= self._most:
            self.refused["overloaded"] += 1
            raise Problem(
                503,
                "overloaded",
                f"This server serves {self._most} streams at most, and all are taken. Come back in a moment.",
                retry_after=2.0,
                extra={"limit": self._most},
            )

    def enter(self, transport: str = "other") -> Stay:
        """A new stay; give it back with `leave`. Over at once for who was let in just before the drain began.

        `transport` names its kind, one of few, for whoever counts them.
        """
        longest = math.inf if self._longest is None else self._longest * random.uniform(LEAST_SHARE, 1.0)
        stay = Stay(self, trio.current_time() + (0.0 if self.begun else longest), transport)
        self._stays.add(stay)
        return stay

    def leave(self, stay: Stay) -> None:
        """The stream is over."""
        self._stays.discard(stay)
        if self.begun and not self._stays:
            self._empty.set()

    async def empty(self) -> None:
        """Returns when the drain has begun and the last stream has ended."""
        await self._empty.wait()

    def begin(self, window: float) -> None:
        """No new stays, and the present ones end within `window` seconds."""
        self.begun = True
        now = trio.current_time()
        for stay in self._stays:
            stay.shorten(now + random.uniform(0, window))
        if not self._stays:
            self._empty.set()

    # -- times

    def watch(self, stay: Stay, due: float) -> None:
        """Has `serve` look at a stay at a time."""
        heappush(self._watched, (due, next(self._order), stay))
        if due < self._next:
            self._sooner.set()

    async def serve(self) -> None:
        """Wakes sleepers when their times come. Runs for ever; once a process."""
        while True:
            self._next = self._watched[0][0] if self._watched else math.inf
            self._sooner = trio.Event()
            with trio.move_on_at(self._next):
                await self._sooner.wait()
            now = trio.current_time()
            while self._watched and self._watched[0][0] <= now:
                entry, _, stay = heappop(self._watched)
                if stay in self._stays:
                    again = stay.look_at(entry)
                    if again < math.inf:
                        heappush(self._watched, (again, next(self._order), stay))
            if len(self._watched) > 100 and len(self._watched) > 4 * len(self._stays):
                self._forget_those_who_left()

    def _forget_those_who_left(self) -> None:
        """Short polls leave an entry each until its time: more than there are streams would only take memory."""
        self._watched = [entry for entry in self._watched if entry[2] in self._stays]
        heapify(self._watched)
