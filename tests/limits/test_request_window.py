"""The window of requests: never more than the limit within any span of its length, nor far less."""

import itertools
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.auth.limits.request_window import PIECES, RequestWindow

GAPS = st.lists(
    st.one_of(st.just(0.0), st.floats(0, 0.2), st.floats(0, 3), st.sampled_from([0.1, 0.5, 1.0])), max_size=150
)


def admitted(window: RequestWindow, times: list[float]) -> list[float]:
    taken = []
    for now in times:
        if window.wait(now) <= 0:
            window.take(now)
            taken.append(now)
    return taken


def running(gaps: list[float]) -> list[float]:
    times, now = [], 100.0
    for gap in gaps:
        now += gap
        times.append(now)
    return times


@given(st.integers(1, 30), st.sampled_from([1.0, 60.0]), GAPS)
def test_never_more_within_any_span(limit: int, seconds: float, gaps: list[float]) -> None:
    span: deque[float] = deque()
    for now in admitted(RequestWindow(limit, seconds), running([gap * seconds for gap in gaps])):
        while span and span[0] <= now - seconds + 1e-9:  # floats
            span.popleft()
        span.append(now)
        assert len(span) <= limit


@pytest.mark.parametrize("limit", [1, 2])
def test_a_full_window_never_says_no_wait(limit: int) -> None:
    """At times whose sums and differences are rounded, as 0.2 + 1.0 and 1.2 - 1.0."""
    for gaps in itertools.product([0.0, 0.01, 0.2, 0.6], repeat=6):
        taken = admitted(RequestWindow(limit, 1.0), list(itertools.accumulate(gaps)))
        for now in taken:
            assert sum(now - 1.0 + 1e-9 < one <= now for one in taken) <= limit, gaps


@given(st.integers(1, 30), GAPS)
def test_whoever_waits_as_long_as_told_is_let_in(limit: int, gaps: list[float]) -> None:
    window = RequestWindow(limit, 1.0)
    for now in running(gaps):
        wait = window.wait(now)
        assert 0 <= wait <= 1.0 + 1e-9
        if wait:
            assert window.state(now) == (0, wait)
            # A billionth more: the sum of floats may be one unit short.
            assert window.wait(now + wait + 1e-9) == 0
        else:
            window.take(now)
            assert 0 <= window.state(now)[0] < limit


@given(st.integers(1, 30), GAPS)
def test_no_fewer_than_nine_tenths(limit: int, gaps: list[float]) -> None:
    """Whatever is refused: so many were let in within a span that is at most a tenth longer."""
    window, taken = RequestWindow(limit, 1.0), list[float]()
    for now in running(gaps):
        if window.wait(now) > 0:
            assert sum(one > now - 1.0 - 1.0 / PIECES - 1e-9 for one in taken) >= limit
        else:
            window.take(now)
            taken.append(now)


def test_steady_callers_within_the_limit_are_never_refused() -> None:
    window = RequestWindow(18, 1.0)
    assert len(admitted(window, [100 + number / 16 for number in range(500)])) == 500


def test_a_million_a_minute_takes_no_more_memory_than_twenty() -> None:
    window = RequestWindow(1_000_000, 60.0)
    admitted(window, [100 + number / 1000 for number in range(100_000)])
    assert len(window._counts) <= PIECES + 2
    assert window.state(10_000.0) == (1_000_000, 0.0)
