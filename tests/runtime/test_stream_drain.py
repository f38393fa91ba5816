"""The drain of client streams: how many there may be, how long each may stay, and how they end when the server
stops.
"""

import math
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from server.problem import Problem
from server.runtime.stream_drain import MIN_SHARE, StreamDrain, StreamLease

WINDOW = 2.0


async def wait_within(lease: StreamLease, seconds: float) -> float:
    """The seconds that a wait of `seconds` within the lease really takes."""
    start = trio.current_time()
    with lease.scope(seconds):
        await trio.Event().wait()
    return trio.current_time() - start


async def test_stream_above_the_limit_is_refused(autojump_clock: MockClock) -> None:
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


async def test_draining_refuses_new_work(autojump_clock: MockClock) -> None:
    drain = StreamDrain(2, None)
    drain.refuse_if_begun()
    drain.begin(WINDOW)
    assert drain.begun
    for refuse in (drain.refuse_if_begun, drain.refuse_stream):
        with pytest.raises(Problem) as caught:
            refuse()
        assert (caught.value.status, caught.value.code) == (503, "draining")
        assert caught.value.retry_after


async def test_lease_without_a_cap_never_ends(autojump_clock: MockClock) -> None:
    lease = StreamDrain(1, None).enter()
    await trio.sleep(80_000)
    assert not lease.over
    assert lease.end_at == math.inf


async def test_waits_within_a_capped_lease(autojump_clock: MockClock) -> None:
    """Each wait takes the time asked for until the lease is over."""
    lease = StreamDrain(1, 100.0).enter()
    lease.shorten(trio.current_time() + 70)
    assert [await wait_within(lease, 30) for _ in range(4)] == pytest.approx([30, 30, 10, 0])
    assert lease.over


async def test_capped_leases_end_at_different_times(autojump_clock: MockClock) -> None:
    """And none ends later than the cap: a hosting platform that caps streams would cut it."""
    drain = StreamDrain(1_000, 100.0)
    ends = [drain.enter().end_at - trio.current_time() for _ in range(200)]
    assert 100 * MIN_SHARE <= min(ends) < 85
    assert 95 < max(ends) <= 100
    assert len({round(end, 3) for end in ends}) > 100


async def test_draining_ends_leases_spread_over_the_window(autojump_clock: MockClock) -> None:
    drain = StreamDrain(1_000, None)
    leases = [drain.enter() for _ in range(200)]
    ends: list[float] = []

    async def stream(lease: StreamLease) -> None:
        while not lease.over:
            await wait_within(lease, 15)
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


async def test_shortening_a_lease_shortens_a_running_wait(autojump_clock: MockClock) -> None:
    lease = StreamDrain(1, None).enter()
    async with trio.open_nursery() as nursery:
        start = trio.current_time()
        nursery.start_soon(wait_within, lease, 1e6)
        await trio.sleep(3)
        lease.shorten(start + 5)
    assert trio.current_time() - start == pytest.approx(5)
    assert lease.over


async def test_shorten_never_lengthens_a_lease(autojump_clock: MockClock) -> None:
    """Neither the lease nor a wait that is under way."""
    lease = StreamDrain(1, 10.0).enter()
    async with trio.open_nursery() as nursery:
        start, end = trio.current_time(), lease.end_at
        nursery.start_soon(wait_within, lease, 4)
        await wait_all_tasks_blocked()
        lease.shorten(start + 100)
    assert trio.current_time() - start == pytest.approx(4)
    assert lease.end_at == end


async def test_waits_after_shortening_are_short(autojump_clock: MockClock) -> None:
    lease = StreamDrain(1, None).enter()
    lease.shorten(trio.current_time() + 1)
    assert await wait_within(lease, 30) == pytest.approx(1)
    assert await wait_within(lease, 30) == pytest.approx(0)


async def test_empty_waits_for_the_drain_and_the_last_stream(autojump_clock: MockClock) -> None:
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


async def test_drain_without_streams_is_empty_at_once(autojump_clock: MockClock) -> None:
    drain = StreamDrain(5, None)
    drain.leave(drain.enter())
    drain.begin(WINDOW)
    with trio.fail_after(0.1):
        await drain.empty()


async def test_stream_entering_as_the_drain_begins_also_ends(autojump_clock: MockClock) -> None:
    """1. The stream is accepted. 2. The drain begins. 3. The stream's body starts: it too has to end."""
    drain = StreamDrain(5, None)
    drain.refuse_stream()
    drain.begin(WINDOW)
    lease = drain.enter()
    with trio.fail_after(WINDOW + 0.1):
        await wait_within(lease, 1e6)
    assert lease.over


async def test_a_lease_ends_when_its_reader_loses_the_right(autojump_clock: MockClock) -> None:
    """Also one that sleeps; and whoever watches the right is told when the stream is over."""
    drain, told, over = StreamDrain(2, None), list[Callable[[], None]](), list[str]()

    def hold(end: Callable[[], None]) -> Callable[[], None]:
        told.append(end)
        return lambda: over.append("over")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain.serve)
        lease = drain.enter("sse", hold)
        nursery.start_soon(_revoke_at, 2.0, told)
        assert await wait_within(lease, 60.0) == pytest.approx(2.0)
        assert lease.over
        assert lease.revoked
        assert not over
        drain.leave(lease)
        drain.leave(lease)
        assert over == ["over"]
        nursery.cancel_scope.cancel()


async def _revoke_at(seconds: float, told: list[Callable[[], None]]) -> None:
    await trio.sleep(seconds)
    for end in told:
        end()
