"""Retrying store calls while the database is unavailable, in virtual time: growing pauses within a time
limit.
"""

from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from eventstore import StoreUnavailable
from eventstore.db_retry import FIRST_PAUSE, MAX_PAUSE, retry_within


class FailingCall:
    """Is unavailable for this number of calls, and notes when it was called."""

    def __init__(self, failures: int, takes: float = 0.0) -> None:
        self.failures = failures
        self.takes = takes
        self.called_at: list[float] = []
        self.errors: list[StoreUnavailable] = []

    async def __call__(self) -> str:
        self.called_at.append(trio.current_time())
        await trio.sleep(self.takes)
        if len(self.called_at) <= self.failures:
            self.errors.append(StoreUnavailable(f"away {len(self.called_at)}"))
            raise self.errors[-1]
        return "here"

    @property
    def pauses(self) -> list[float]:
        return [round(later - earlier, 6) for earlier, later in pairwise(self.called_at)]


async def test_first_success_returns_at_once(autojump_clock: MockClock) -> None:
    began = trio.current_time()
    assert await retry_within(FailingCall(0), 5.0) == "here"
    assert trio.current_time() == began


async def test_pauses_grow_to_a_bound(autojump_clock: MockClock) -> None:
    call = FailingCall(9)
    assert await retry_within(call, 60.0) == "here"
    assert call.pauses == [FIRST_PAUSE * 2**n for n in range(5)] + [MAX_PAUSE] * 4


async def test_last_error_is_raised_after_the_time_limit(autojump_clock: MockClock) -> None:
    call = FailingCall(10**6)
    began = trio.current_time()
    with pytest.raises(StoreUnavailable) as caught:
        await retry_within(call, 5.0)
    assert caught.value is call.errors[-1]
    assert 5.0 - MAX_PAUSE <= trio.current_time() - began <= 5.0


async def test_tiny_time_limit_means_one_try(autojump_clock: MockClock) -> None:
    call = FailingCall(1)
    with pytest.raises(StoreUnavailable, match="away 1"):
        await retry_within(call, 0.01)
    assert len(call.called_at) == 1


async def test_call_without_an_answer_times_out(autojump_clock: MockClock) -> None:
    began = trio.current_time()
    with pytest.raises(StoreUnavailable, match="within 5 s"):
        await retry_within(FailingCall(0, takes=1e6), 5.0)
    assert trio.current_time() - began == pytest.approx(5.0)


async def test_failure_followed_by_no_answer_times_out(autojump_clock: MockClock) -> None:
    began = trio.current_time()
    with pytest.raises(StoreUnavailable):
        await retry_within(FailingCall(1, takes=4.0), 5.0)
    assert trio.current_time() - began == pytest.approx(5.0)


async def test_other_errors_are_not_retried(autojump_clock: MockClock) -> None:
    async def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await retry_within(broken, 5.0)


async def test_retry_can_be_cancelled(autojump_clock: MockClock) -> None:
    for takes in (0.0, 1e6):
        with trio.move_on_after(1.0) as scope:
            await retry_within(FailingCall(10**6, takes), 60.0)
        assert scope.cancelled_caught
