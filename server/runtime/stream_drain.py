"""The drain: how streams end when the server stops, and how many there may be before.

Each stream has an end time: from the start if streams are capped, or when the drain begins, spread at random
over a window, so that the clients do not all come back in the same instant.
"""

import random
from collections import Counter

import trio

from server.errors import Problem


class Stay:
    """One open stream's leave to stay: `over` when it shall end."""

    __slots__ = ("_scope", "end_at", "transport")

    def __init__(self, end_at: float, transport: str) -> None:
        self.end_at = end_at
        self.transport = transport
        self._scope: trio.CancelScope | None = None

    @property
    def over(self) -> bool:
        """Whether the time has come."""
        return trio.current_time() >= self.end_at

    def scope(self, seconds: float) -> trio.CancelScope:
        """A scope for the next wait: ends after `seconds`, or when the stay ends, whichever is first."""
        self._scope = trio.CancelScope(deadline=min(trio.current_time() + seconds, self.end_at))
        return self._scope

    def shorten(self, end_at: float) -> None:
        """Ends the stay earlier, also in the middle of a wait."""
        self.end_at = min(self.end_at, end_at)
        if self._scope is not None:
            self._scope.deadline = min(self._scope.deadline, self.end_at)


class Drain:
    """All stays of this process. `most` bounds their number, `longest` (seconds) each one's length.

    `refused` counts what was turned away, by the code of its problem.
    """

    def __init__(self, most: int, longest: float | None) -> None:
        self._most = most
        self._longest = longest
        self._stays: set[Stay] = set()
        self.begun = False
        self._empty = trio.Event()
        self.refused = {"draining": 0, "overloaded": 0}

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
        """The same for a new stream, which is refused too when too many are open."""
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

    @property
    def may_hold(self) -> bool:
        """Whether a request may be held for a while; if not, it is answered with what is there."""
        return not self.begun and len(self._stays) < self._most

    def enter(self, transport: str = "other") -> Stay:
        """A new stay; give it back with `leave`. Over at once for who was let in just before the drain began.

        `transport` names its kind, one of few, for whoever counts them.
        """
        now = trio.current_time()
        longest = 0.0 if self.begun else self._longest
        stay = Stay(now + longest if longest is not None else float("inf"), transport)
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
