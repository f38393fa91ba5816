"""Adaptive batching of tokens: no pause while the CPU is idle, a bounded one while it is busy."""

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from server.generations.token_pump import MAX_PAUSE, MIN_PAUSE, SAMPLE_SECONDS, AdaptiveBatching


def batching_after(shares: list[float]) -> AdaptiveBatching:
    pace = AdaptiveBatching()
    for share in shares:
        pace.update(share)
    return pace


def test_idle_cpu_causes_no_pause() -> None:
    assert batching_after([0.5] * 100).pause == 0.0
    assert batching_after([0.0, 0.9, 0.0]).pause == 0.0  # one busy moment is none


def test_pause_grows_to_a_bound_while_busy() -> None:
    pauses = [batching_after([0.95] * n).pause for n in range(1, 40)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == MAX_PAUSE
    assert MIN_PAUSE <= next(pause for pause in pauses if pause) < MAX_PAUSE


def test_pause_stays_while_it_helps_and_ends_when_idle() -> None:
    busy = batching_after([0.95] * 8).pause
    kept, gone = batching_after([0.95] * 8 + [0.8] * 50), batching_after([0.95] * 8 + [0.2] * 60)
    assert kept.pause >= busy
    assert gone.pause == 0.0


@given(st.lists(st.floats(0, 4), max_size=200))
def test_pause_is_zero_or_within_its_bounds(shares: list[float]) -> None:
    pace = batching_after(shares)
    assert pace.pause == 0.0 or MIN_PAUSE <= pace.pause <= MAX_PAUSE


async def test_load_is_measured_by_the_cpu_clock(autojump_clock: MockClock) -> None:
    began = trio.current_time()
    pace = AdaptiveBatching(cpu=lambda: 0.9 * (trio.current_time() - began))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pace.run)
        await trio.sleep(40 * SAMPLE_SECONDS)
        nursery.cancel_scope.cancel()
    assert pace.load == pytest.approx(0.9, abs=0.01)
    assert pace.pause == MAX_PAUSE


async def test_pause_counts_from_the_last_read_of_the_upstream(autojump_clock: MockClock) -> None:
    pace = batching_after([0.95] * 40)
    began = trio.current_time()
    await pace.wait(began)
    assert trio.current_time() - began == pytest.approx(MAX_PAUSE)
    await trio.sleep(1)
    later = trio.current_time()
    await pace.wait(began)  # the append took longer than the pause
    assert trio.current_time() == later
    await AdaptiveBatching().wait(later)
    assert trio.current_time() == later
