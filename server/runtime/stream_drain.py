"""The client streams of this process: how many may be open, how long each may last, how all end when it stops.

Each stream holds a lease with an end time: from its start if the length of streams is limited, else from the
moment at which the drain begins. Both are spread at random, so that clients that came together do not all come
back in the same instant. One task wakes the streams whose time has come: a deadline and a cancel scope for each
would cost a quiet stream more than everything else of it. A lease also ends when its reader loses the
right to read, which somebody else watches and tells. Must not know HTTP or what a stream sends.
"""

import math
import random
from collections import Counter
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count

import trio

from eventstore.subscription import Waker
from server.problem import Problem

MIN_SHARE = 0.8
"""The least share of the longest allowed time that a stream gets."""


Hold = Callable[[Callable[[], None]], Callable[[], None]]
"""Takes a callback that ends a lease, and returns a function for when the stream is over."""


class StreamLease:
    """The lease of one open stream. `end_at` is when the stream must end, by trio's clock.

    `revoked`: its reader has lost the right to read, so nothing more may be sent.
    """

    __slots__ = (
        *("_drain", "_due", "_scope", "_waker", "_watched"),
        *("end_at", "release", "revoked", "transport"),
    )

    def __init__(self, drain: "StreamDrain", end_at: float, transport: str) -> None:
        self.end_at = end_at
        self.transport = transport
        self.revoked = False
        self.release: Callable[[], None] | None = None
        self._drain = drain
        self._scope: trio.CancelScope | None = None
        self._waker: Waker | None = None
        self._due = math.inf
        self._watched = math.inf  # the earliest time at which the drain's task looks at this lease

    @property
    def over(self) -> bool:
        """Whether the stream must end now."""
        return trio.current_time() >= self.end_at

    async def sleep(self, waker: Waker, until: float) -> bool:
        """Sleeps until the waker is woken. True: it was.

        False: `until` (by trio's clock) or the end of the lease has come, or the waker was nudged without a ring.
        Always a checkpoint. One task at a time sleeps in a lease.
        """
        due = min(until, self.end_at)
        if due <= trio.current_time():
            await trio.lowlevel.checkpoint()
            return False
        if not waker.woken:
            self._waker, self._due = waker, due
            if due < self._watched:
                self._drain.watch(self, due)
                self._watched = due
        await waker.sleep()
        return waker.woken

    def look_at(self, entry: float) -> float:
        """Called by the drain when the heap entry with the time `entry` is due: wakes the sleeper if it is time.

        Returns the time of the next entry to make, infinity for none.
        """
        if entry != self._watched:
            return math.inf  # a later entry of this lease has an earlier time, and counts instead
        if self._due <= entry:
            if self._waker is not None:
                self._waker.interrupt()
            self._due = math.inf  # the next call of `sleep` compares its time with the clock first
        self._watched = self._due
        return self._due

    def scope(self, seconds: float) -> trio.CancelScope:
        """A cancel scope for the next wait: it ends after `seconds`, or with the lease, whichever is first."""
        self._scope = trio.CancelScope(deadline=min(trio.current_time() + seconds, self.end_at))
        return self._scope

    def revoke(self) -> None:
        """Ends the lease at once: its reader has lost the right to read."""
        self.revoked = True
        self.shorten(trio.current_time())

    def shorten(self, end_at: float) -> None:
        """Moves the end of the lease forward, also in the middle of a wait."""
        self.end_at = min(self.end_at, end_at)
        if self._scope is not None:
            self._scope.deadline = min(self._scope.deadline, self.end_at)
        if self._waker is not None and self.end_at < self._due:
            self._due = self.end_at
            if self._due < self._watched:
                self._drain.watch(self, self._due)
                self._watched = self._due


class StreamDrain:
    """The leases of all streams of one process. At most `most` streams, each at most `longest` seconds.

    `refused` counts refusals by the code of their problem. `begun`: the process stops. `StreamLease.sleep` ends at
    its time only while `serve` runs.
    """

    def __init__(self, most: int, longest: float | None) -> None:
        self._most = most
        self._longest = longest
        self._leases: set[StreamLease] = set()
        self.begun = False
        self._empty = trio.Event()
        self.refused = {"draining": 0, "overloaded": 0}
        self._order = count()
        self._watched: list[tuple[float, int, StreamLease]] = []  # a heap
        self._next = math.inf
        self._sooner = trio.Event()

    def __len__(self) -> int:
        return len(self._leases)

    @property
    def most(self) -> int:
        """How many streams may be open."""
        return self._most

    def by_transport(self) -> Counter[str]:
        """How many streams are open of each transport."""
        return Counter(lease.transport for lease in self._leases)

    def refuse_if_begun(self) -> None:
        """Raises `Problem` 503 `draining` while the server stops."""
        if self.begun:
            self.refused["draining"] += 1
            raise Problem(503, "draining", "The server is stopping. Come back in a moment.", retry_after=1.0)

    def refuse_stream(self) -> None:
        """As `refuse_if_begun`, for a new stream or long poll; 503 `overloaded` where too many are open."""
        self.refuse_if_begun()
        if len(self._leases) >= self._most:
            self.refused["overloaded"] += 1
            raise Problem(
                503,
                "overloaded",
                f"This server serves {self._most} streams at most, and all are taken. Come back in a moment.",
                retry_after=2.0,
                extra={"limit": self._most},
            )

    def enter(self, transport: str = "other", hold: Hold | None = None) -> StreamLease:
        """A new lease, to be given back with `leave`. `transport` is a label of the metrics, one of few values.

        `hold` has the lease revoked when its reader loses the right to read.

        A lease taken after the drain has begun ends at once: its request was accepted just before.
        """
        longest = math.inf if self._longest is None else self._longest * random.uniform(MIN_SHARE, 1.0)
        lease = StreamLease(self, trio.current_time() + (0.0 if self.begun else longest), transport)
        self._leases.add(lease)
        if hold is not None:
            lease.release = hold(lease.revoke)
        return lease

    def leave(self, lease: StreamLease) -> None:
        """Gives a lease back: the stream has ended."""
        self._leases.discard(lease)
        if lease.release is not None:
            lease.release()
            lease.release = None
        if self.begun and not self._leases:
            self._empty.set()

    async def empty(self) -> None:
        """Returns when the drain has begun and the last stream has ended."""
        await self._empty.wait()

    def begin(self, window: float) -> None:
        """Refuses new streams from now on, and has the open ones end within `window` seconds, spread at random."""
        self.begun = True
        now = trio.current_time()
        for lease in self._leases:
            lease.shorten(now + random.uniform(0, window))
        if not self._leases:
            self._empty.set()

    # -- times

    def watch(self, lease: StreamLease, due: float) -> None:
        """Has `serve` look at a lease at the time `due`."""
        heappush(self._watched, (due, next(self._order), lease))
        if due < self._next:
            self._sooner.set()

    async def serve(self) -> None:
        """Wakes the sleepers whose time has come, for ever. One task of a process runs this."""
        while True:
            self._next = self._watched[0][0] if self._watched else math.inf
            self._sooner = trio.Event()
            with trio.move_on_at(self._next):
                await self._sooner.wait()
            now = trio.current_time()
            while self._watched and self._watched[0][0] <= now:
                entry, _, lease = heappop(self._watched)
                if lease in self._leases:
                    again = lease.look_at(entry)
                    if again < math.inf:
                        heappush(self._watched, (again, next(self._order), lease))
            if len(self._watched) > 100 and len(self._watched) > 4 * len(self._leases):
                self._drop_ended_leases()

    def _drop_ended_leases(self) -> None:
        """Drops the heap entries of leases that were given back: each short poll leaves one until its time."""
        self._watched = [entry for entry in self._watched if entry[2] in self._leases]
        heapify(self._watched)
