"""The drain: how many streams, how long, and how they end when the server stops."""

import math

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from server.problem import Problem
from server.runtime.stream_drain import MIN_SHARE, StreamDrain, StreamLease

WINDOW = 2.0


async def held(lease: StreamLease, seconds: float) -> float:
    """How long a wait of `seconds` within the lease takes."""
    start = trio.current_time()
    with lease.scope(seconds):
        await trio.Event().wait()
    return trio.current_time() - start


async def test_streams_up_to_the_limit(autojump_clock: MockClock) -> None:
    drain = StreamDrain(2, None)
    leases = []
    for _ in range(2):
        drain.refuse_stream()
        leases.append(drain.enter())
    assert len(drain) == 2
    with pytest.raises(Problem) as caught:
        drain.refuse_stream()
    problem = caught.value
    assert (problem.status, problem.code, problem.extra) == (503, "overloaded", {"limit": 2})
    assert problem.retry_after
    drain.refuse_if_begun()  # other work is not refused for that
    drain.leave(leases[0])
    drain.refuse_stream()


async def test_leaving_twice_frees_one_place(autojump_clock: MockClock) -> None:
    drain = StreamDrain(2, None)
    first, _second = drain.enter(), drain.enter()
    drain.leave(first)
    drain.leave(first)
    assert len(drain) == 1


async def test_new_work_is_refused_once_the_drain_has_begun(autojump_clock: MockClock) -> None:
    drain = StreamDrain(2, None)
    drain.refuse_if_begun()
    drain.begin(WINDOW)
    assert drain.begun
    for refuse in (drain.refuse_if_begun, drain.refuse_stream):
        with pytest.raises(Problem) as caught:
            refuse()
        assert (caught.value.status, caught.value.code) == (503, "draining")
        assert caught.value.retry_after


async def test_a_stay_is_for_ever_where_nothing_caps_it(autojump_clock: MockClock) -> None:
    lease = StreamDrain(1, None).enter()
    await trio.sleep(80_000)
    assert not lease.over
    assert lease.end_at == math.inf


async def test_a_capped_stay(autojump_clock: MockClock) -> None:
    """The wait is as long as was asked, until the lease is over."""
    lease = StreamDrain(1, 100.0).enter()
    lease.shorten(trio.current_time() + 70)
    assert [await held(lease, 30) for _ in range(4)] == pytest.approx([30, 30, 10, 0])
    assert lease.over


async def test_capped_leases_that_began_together_do_not_end_together(autojump_clock: MockClock) -> None:
    """Nor later than they may: a host that caps streams would cut them."""
    drain = StreamDrain(1_000, 100.0)
    ends = [drain.enter().end_at - trio.current_time() for _ in range(200)]
    assert 100 * MIN_SHARE <= min(ends) < 85
    assert 95 < max(ends) <= 100
    assert len({round(end, 3) for end in ends}) > 100


async def test_the_leases_end_within_the_window_each_at_its_own_time(autojump_clock: MockClock) -> None:
    drain = StreamDrain(1_000, None)
    leases = [drain.enter() for _ in range(200)]
    ends: list[float] = []

    async def stream(lease: StreamLease) -> None:
        while not lease.over:
            await held(lease, 15)
        ends.append(trio.current_time())
        drain.leave(lease)

    async with trio.open_nursery() as streams:
        for lease in leases:
            streams.start_soon(stream, lease)
        await trio.sleep(7)  # in the middle of a wait
        begun = trio.current_time()
        drain.begin(WINDOW)
    assert len(ends) == 200
    assert begun <= min(ends) < begun + WINDOW / 4
    assert begun + WINDOW * 3 / 4 < max(ends) <= begun + WINDOW + 0.001
    assert len({round(end, 3) for end in ends}) > 100


async def test_a_stay_is_shortened_in_the_middle_of_a_wait(autojump_clock: MockClock) -> None:
    lease = StreamDrain(1, None).enter()
    async with trio.open_nursery() as nursery:
        start = trio.current_time()
        nursery.start_soon(held, lease, 1e6)
        await trio.sleep(3)
        lease.shorten(start + 5)
    assert trio.current_time() - start == pytest.approx(5)
    assert lease.over


async def test_a_stay_is_never_made_longer(autojump_clock: MockClock) -> None:
    """Neither the lease nor the wait that is under way."""
    lease = StreamDrain(1, 10.0).enter()
    async with trio.open_nursery() as nursery:
        start, end = trio.current_time(), lease.end_at
        nursery.start_soon(held, lease, 4)
        await wait_all_tasks_blocked()
        lease.shorten(start + 100)
    assert trio.current_time() - start == pytest.approx(4)
    assert lease.end_at == end


async def test_a_shortened_stay_leaves_later_waits_short(autojump_clock: MockClock) -> None:
    lease = StreamDrain(1, None).enter()
    lease.shorten(trio.current_time() + 1)
    assert await held(lease, 30) == pytest.approx(1)
    assert await held(lease, 30) == pytest.approx(0)


async def test_empty_means_begun_and_all_gone(autojump_clock: MockClock) -> None:
    drain = StreamDrain(5, None)
    first, second = drain.enter(), drain.enter()
    gone = trio.Event()

    async def wait() -> None:
        await drain.empty()
        gone.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        drain.leave(first)
        await wait_all_tasks_blocked()
        assert not gone.is_set()
        drain.begin(WINDOW)
        await wait_all_tasks_blocked()
        assert not gone.is_set()
        drain.leave(second)
    assert gone.is_set()


async def test_without_streams_it_is_empty_at_once(autojump_clock: MockClock) -> None:
    drain = StreamDrain(5, None)
    drain.leave(drain.enter())
    drain.begin(WINDOW)
    with trio.fail_after(0.1):
        await drain.empty()


async def test_who_comes_in_just_as_it_begins_does_not_stay(autojump_clock: MockClock) -> None:
    """A stream was let in, then the drain began, then its body started: it too has to end."""
    drain = StreamDrain(5, None)
    drain.refuse_stream()
    drain.begin(WINDOW)
    lease = drain.enter()
    with trio.fail_after(WINDOW + 0.1):
        await held(lease, 1e6)
    assert lease.over
