"""Retries: the delays as a pure function, and an answer made of scripted attempts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from server.providers import CODES, ArgumentsDelta, Chunk, Finish, Reasoning, RetryPolicy, UpstreamError
from server.providers.retry_policy import RequestRevised, RetriedAnswer, RetryDelays


class Low(Random):
    def uniform(self, a: float, b: float) -> float:
        return a


class High(Random):
    def uniform(self, a: float, b: float) -> float:
        return b


def failed(code: str = "upstream_unavailable", **more: float) -> UpstreamError:
    return UpstreamError(code, "x", retry_after=more.get("retry_after"))


def test_waits_double_up_to_the_longest_with_jitter() -> None:
    policy = RetryPolicy(attempts=8)
    low, high = (RetryDelays(policy, rng, 0) for rng in (Low(), High()))
    assert [high.next_delay(failed(), 0) for _ in range(8)] == [0.5, 1, 2, 4, 8, 8, 8, None]
    assert [low.next_delay(failed(), 0) for _ in range(8)] == [0.25, 0.5, 1, 2, 4, 4, 4, None]


@pytest.mark.parametrize("code", CODES)
def test_only_retryable_errors_are_retried(code: str) -> None:
    assert (RetryDelays(RetryPolicy(), Random(1), 0).next_delay(failed(code), 0) is not None) is CODES[
        code
    ].retryable


@pytest.mark.parametrize(("asked", "least", "most"), [(0, 0, 0.5), (20, 20, 20.5), (30, 30, 30.5)])
def test_retry_after_is_never_shortened(asked: float, least: float, most: float) -> None:
    for rng, wait in ((Low(), least), (High(), most)):
        assert RetryDelays(RetryPolicy(), rng, 0).next_delay(failed(retry_after=asked), 0) == wait


def stalled(code: str = "upstream_stalled") -> UpstreamError:
    return UpstreamError(code, "x", stall=True)


@pytest.mark.parametrize("then", [stalled(), stalled("upstream_timeout"), failed()])
def test_one_more_attempt_after_a_stall(then: UpstreamError) -> None:
    """Also when the budget is used up, as it is after minutes of silence."""
    delays = RetryDelays(RetryPolicy(), High(), 0)
    assert delays.next_delay(failed(), 1) == 0.5
    assert delays.next_delay(stalled(), 601) == 0.5
    assert delays.next_delay(then, 1201) is None


async def test_revised_request_is_sent_at_once_and_is_no_attempt() -> None:
    attempts = [ScriptedAttempt(RequestRevised()), ScriptedAttempt(RequestRevised()), ScriptedAttempt(["a"])]
    answer = RetriedAnswer(dialling(*attempts), RetryPolicy(attempts=1), High(), sleep=trio.sleep_forever)  # type: ignore[arg-type]
    assert await answer.receive() == ["a"]
    assert [attempt.closed for attempt in attempts] == [True, True, False]


def test_wait_above_the_cap_fails_at_once() -> None:
    assert RetryDelays(RetryPolicy(), Random(1), 0).next_delay(failed(retry_after=30.1), 0) is None


def test_no_wait_ends_after_the_budget() -> None:
    delays = RetryDelays(RetryPolicy(attempts=9, budget=100), High(), 1000)
    assert delays.next_delay(failed(), 1099.5) == 0.5
    assert delays.next_delay(failed(), 1099.1) is None


class ScriptedAttempt:
    """An attempt that gives these in turn: batches, errors, and a finish when they are used up."""

    repaired = 0

    def __init__(self, *results: Sequence[Chunk] | Exception, spoke: bool = False) -> None:
        self.results = list(results)
        self.started = spoke
        self.finish: Finish | None = None
        self.closed = False

    async def receive(self) -> Sequence[Chunk]:
        await trio.lowlevel.checkpoint()
        assert not self.closed
        if not self.results:
            self.finish = Finish("stop", None)
            return ()
        result = self.results.pop(0)
        if isinstance(result, Exception):
            raise result
        self.started = True
        return result

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


def dialling(*attempts: ScriptedAttempt) -> Callable[[], ScriptedAttempt]:
    waiting = list(attempts)
    return lambda: waiting.pop(0)


async def test_each_failed_attempt_is_closed_before_the_next(
    autojump_clock: MockClock,
) -> None:
    attempts = [
        ScriptedAttempt(failed()),
        ScriptedAttempt(failed("upstream_stalled")),
        ScriptedAttempt(["a"], ["b"]),
    ]
    answer = RetriedAnswer(dialling(*attempts), RetryPolicy(), High())
    start = trio.current_time()
    assert await answer.receive() == ["a"]
    assert trio.current_time() - start == pytest.approx(0.5 + 1)
    assert [attempt.closed for attempt in attempts] == [True, True, False]
    assert await answer.receive() == ["b"]
    assert await answer.receive() == ()
    assert answer.finish == Finish("stop", None)
    await answer.aclose()
    assert attempts[2].closed


@pytest.mark.parametrize("first", [["a"], [""], [Reasoning("a")], [ArgumentsDelta(0, "", "{")]])
async def test_nothing_is_retried_after_the_first_chunk(first: list[Chunk]) -> None:
    answer = RetriedAnswer(dialling(ScriptedAttempt(first, failed())), RetryPolicy(), High())
    assert await answer.receive() == first
    with pytest.raises(UpstreamError):
        await answer.receive()


async def test_nothing_is_retried_after_an_incomplete_chunk() -> None:
    """The name of a call or half an emoji was generated and is charged."""
    answer = RetriedAnswer(dialling(ScriptedAttempt(failed(), spoke=True)), RetryPolicy(), High())
    with pytest.raises(UpstreamError):
        await answer.receive()


async def test_last_error_is_raised_after_the_last_attempt(autojump_clock: MockClock) -> None:
    last = failed("upstream_timeout")
    attempts = [
        ScriptedAttempt(failed()),
        ScriptedAttempt(failed()),
        ScriptedAttempt(failed()),
        ScriptedAttempt(last, last),
    ]
    answer = RetriedAnswer(dialling(*attempts), RetryPolicy(), High())
    for _ in range(2):  # and so it stays
        with pytest.raises(UpstreamError) as caught:
            await answer.receive()
        assert caught.value is last


async def test_clock_and_sleep_are_injected() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await trio.lowlevel.checkpoint()

    times = iter([0.0, 10.0, 299.9])
    attempts = dialling(ScriptedAttempt(failed()), ScriptedAttempt(failed()))
    answer = RetriedAnswer(attempts, RetryPolicy(), High(), clock=lambda: next(times), sleep=sleep)
    with pytest.raises(UpstreamError):
        await answer.receive()
    assert slept == [0.5]


async def test_failed_attempt_is_closed_before_the_wait(nursery: trio.Nursery) -> None:
    attempt = ScriptedAttempt(failed())
    answer = RetriedAnswer(dialling(attempt), RetryPolicy(), High())
    nursery.start_soon(answer.receive)
    await wait_all_tasks_blocked()
    assert attempt.closed
    nursery.cancel_scope.cancel()
