"""Who has waited too long: one task watches over all waiters, for a cancel scope each costs more than the wait.

It knows waiters by three things: that they can be told apart, when they came, and how to settle them.
"""

import math
from itertools import takewhile
from typing import Protocol

import trio

from eventstore.errors import StoreUnavailable


class Waits(Protocol):
    """Somebody who waits."""

    def settle(self, answer: None, error: Exception) -> None:
        """Ends the wait with an error."""


Watched = dict[Waits, float]
"""Those who have the same patience, with their deadlines, in order of their coming and so of their deadlines."""


class Lateness:
    """All waiters of one batcher, by their patience in seconds: few different ones, or it gets slow."""

    def __init__(self) -> None:
        self._watched: dict[float, Watched] = {}
        self._due = math.inf
        self._sooner = trio.Event()

    def watch(self, waiter: Waits, patience: float) -> Watched:
        """From now on. Whoever has been settled takes itself out of what is returned."""
        watched = self._watched.get(patience)
        if watched is None:
            watched = self._watched[patience] = {}
        deadline = watched[waiter] = trio.current_time() + patience
        if deadline < self._due:
            self._sooner.set()
        return watched

    async def serve(self) -> None:
        """Settles whoever is late with `StoreUnavailable`, for ever.

        It sleeps to the end of the oldest patience it has seen, answered meanwhile or not: so a waiter that is
        answered in time, as nearly all are, wakes nobody.
        """
        while True:
            self._due = min(
                (next(iter(some.values())) for some in self._watched.values() if some), default=math.inf
            )
            self._sooner = trio.Event()
            with trio.move_on_at(self._due):
                await self._sooner.wait()
            now = trio.current_time()
            for patience, watched in list(self._watched.items()):
                late = list(takewhile(lambda waiter: watched[waiter] <= now, watched))  # noqa: B023  # used at once
                for waiter in late:
                    del watched[waiter]
                    waiter.settle(None, StoreUnavailable(f"the database did not answer within {patience:g} s"))

    def settle_all(self, error: StoreUnavailable) -> None:
        """Nobody is waited for any more."""
        for watched in self._watched.values():
            for waiter in list(watched):
                waiter.settle(None, error)
