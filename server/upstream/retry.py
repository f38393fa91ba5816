"""When a failed attempt is made again, and the answer that hides it.

Owns the one rule that nobody sees, or pays for, an answer twice: an attempt is made again only before anything of
the answer has come (text, a thought, a piece of a call), each with a connection of its own, the last one closed
first. Bounded in number and in time. Must not know any provider's wire format, nor why an attempt failed beyond
`retryable` and `retry_after`.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import trio

from .errors import UpstreamError
from .model import Answer, Chunk, Finish

__all__ = ["AskAgain", "Attempt", "RetriedAnswer", "RetryPolicy", "Schedule"]


class AskAgain(Exception):
    """The provider refused the request as it was, and another is ready, to be sent at once."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long to try; all times in seconds.

    No wait begins that would end after `budget`, so the first token comes, or the failure is told, within `budget`
    plus what two attempts may take. A provider that asks for more than `retry_after_cap` is taken at its word: the
    run fails at once and the client learns when to come back. After a stall (minutes of silence, in which the
    provider may have worked) one more attempt is made at most.
    """

    attempts: int = 4  # all together; the providers' SDKs make 3
    first_delay: float = 0.5
    longest_delay: float = 8.0
    retry_after_cap: float = 30.0
    budget: float = 300.0


class Schedule:
    """The waits of one run. Pure: `now` is seconds on any clock that does not go back."""

    def __init__(self, policy: RetryPolicy, rng: random.Random, now: float) -> None:
        self._policy = policy
        self._rng = rng
        self._give_up_at = now + policy.budget
        self._failures = 0
        self._stalled = False

    def wait(self, error: UpstreamError, now: float) -> float | None:
        """Seconds to wait before the next attempt, or None: tell the client of this error."""
        policy = self._policy
        self._failures += 1
        stalled, self._stalled = self._stalled, self._stalled or error.stall
        if stalled or not error.retryable or self._failures >= policy.attempts:
            return None
        if error.stall:  # the budget is over as a rule; this one attempt is made all the same
            return policy.first_delay * self._rng.uniform(0.5, 1.0)
        if error.retry_after is None:
            delay = min(policy.longest_delay, policy.first_delay * 2.0 ** min(self._failures - 1, 30))
            delay *= self._rng.uniform(0.5, 1.0)
        elif error.retry_after > policy.retry_after_cap:
            return None
        else:
            # All whom the provider told the same time must not come back in the same instant.
            delay = error.retry_after + self._rng.uniform(0.0, policy.first_delay)
        return delay if now + delay <= self._give_up_at else None


class Attempt(Answer, Protocol):
    """One connection's worth of an answer: connects in its first `receive`, and can be closed at any stage."""

    @property
    def spoke(self) -> bool:
        """Something of the answer has come, maybe not returned by `receive`."""

    async def aclose(self) -> None:
        """Close the socket at once, without a goodbye; again and again if asked."""


class RetriedAnswer:
    """An answer made of attempts: failures before anything of it came are waited out, later ones are raised."""

    def __init__(
        self,
        dial: Callable[[], Attempt],
        policy: RetryPolicy,
        rng: random.Random,
        *,
        clock: Callable[[], float] = trio.current_time,
        sleep: Callable[[float], Awaitable[object]] = trio.sleep,
    ) -> None:
        self._dial = dial
        self._attempt = dial()
        self._schedule = Schedule(policy, rng, clock())
        self._clock = clock
        self._sleep = sleep

    @property
    def finish(self) -> Finish | None:
        return self._attempt.finish

    @property
    def repaired(self) -> int:
        return self._attempt.repaired

    async def receive(self) -> Sequence[Chunk]:
        """As `Answer.receive`; raises the last attempt's `UpstreamError` when no more are made."""
        while True:
            wait: float | None = 0.0
            try:
                return await self._attempt.receive()
            except AskAgain:
                pass  # said before the answer began
            except UpstreamError as error:
                wait = None if self._attempt.spoke else self._schedule.wait(error, self._clock())
                if wait is None:
                    raise
            await self._attempt.aclose()  # before the wait: a provider that is overloaded gets its socket back
            if wait:
                await self._sleep(wait)
            self._attempt = self._dial()

    async def aclose(self) -> None:
        await self._attempt.aclose()
