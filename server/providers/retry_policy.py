"""When a failed request to a provider is retried, and the answer that hides the retries.

Owns the one rule that nobody sees, or pays for, an answer twice: a request is retried only before any part of the
answer has arrived (text, reasoning, a piece of a call). Each attempt has its own connection, and the previous one
is closed first. Attempts are bounded in number and in time. Must not know any provider's format, nor why an
attempt failed beyond `retryable`, `retry_after` and `stall`.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import trio

from .interface import Answer, Chunk, Finish, UpstreamError

__all__ = ["Attempt", "RequestRevised", "RetriedAnswer", "RetryDelays", "RetryPolicy"]


class RequestRevised(Exception):
    """The provider refused the request, and a revised one is ready to be sent at once."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long to try; all times in seconds.

    No wait begins that would end after `budget`, so the first token or the failure comes within `budget` plus the
    duration of two attempts. If the provider asks for a longer wait than `retry_after_cap`, the run fails at once
    and the client learns when to come back. After a stall (minutes of silence, in which the provider may have
    worked on the request, and may charge for it) at most one more attempt is made.
    """

    attempts: int = 4  # including the first; the providers' own SDKs make 3
    first_delay: float = 0.5
    longest_delay: float = 8.0
    retry_after_cap: float = 30.0
    budget: float = 300.0


class RetryDelays:
    """The waits between the attempts of one answer. Pure: `now` is in seconds of any monotonic clock."""

    def __init__(self, policy: RetryPolicy, rng: random.Random, now: float) -> None:
        self._policy = policy
        self._rng = rng
        self._give_up_at = now + policy.budget
        self._failures = 0
        self._stalled = False

    def next_delay(self, error: UpstreamError, now: float) -> float | None:
        """Seconds to wait after this error before the next attempt; None: no more attempts, the error is final."""
        policy = self._policy
        self._failures += 1
        stalled, self._stalled = self._stalled, self._stalled or error.stall
        if stalled or not error.retryable or self._failures >= policy.attempts:
            return None
        if error.stall:  # usually beyond the budget; this one attempt is made all the same
            return policy.first_delay * self._rng.uniform(0.5, 1.0)
        if error.retry_after is None:
            delay = min(policy.longest_delay, policy.first_delay * 2.0 ** min(self._failures - 1, 30))
            delay *= self._rng.uniform(0.5, 1.0)
        elif error.retry_after > policy.retry_after_cap:
            return None
        else:
            # Jitter: all runs that were given the same time must not return in the same instant.
            delay = error.retry_after + self._rng.uniform(0.0, policy.first_delay)
        return delay if now + delay <= self._give_up_at else None


class Attempt(Answer, Protocol):
    """One request and its response: it connects in the first `receive`, and can be closed at any stage."""

    @property
    def started(self) -> bool:
        """A part of the answer has arrived, though `receive` may not have returned it yet."""

    async def aclose(self) -> None:
        """Close the socket at once, without a TLS or HTTP goodbye. May be called more than once."""


class RetriedAnswer:
    """An answer made of attempts: a failure before any part of it arrived is retried, a later one is raised."""

    def __init__(
        self,
        new_attempt: Callable[[], Attempt],
        policy: RetryPolicy,
        rng: random.Random,
        *,
        clock: Callable[[], float] = trio.current_time,
        sleep: Callable[[float], Awaitable[object]] = trio.sleep,
    ) -> None:
        self._new_attempt = new_attempt
        self._attempt = new_attempt()
        self._delays = RetryDelays(policy, rng, clock())
        self._clock = clock
        self._sleep = sleep

    @property
    def finish(self) -> Finish | None:
        return self._attempt.finish

    @property
    def repaired(self) -> int:
        return self._attempt.repaired

    async def receive(self) -> Sequence[Chunk]:
        """As `Answer.receive`; raises the `UpstreamError` of the last attempt."""
        while True:
            wait: float | None = 0.0
            try:
                return await self._attempt.receive()
            except RequestRevised:
                pass  # no part of the answer has arrived, and no wait is needed
            except UpstreamError as error:
                wait = None if self._attempt.started else self._delays.next_delay(error, self._clock())
                if wait is None:
                    raise
            await self._attempt.aclose()  # before the wait: an overloaded provider must not keep the socket open
            if wait:
                await self._sleep(wait)
            self._attempt = self._new_attempt()

    async def aclose(self) -> None:
        await self._attempt.aclose()
