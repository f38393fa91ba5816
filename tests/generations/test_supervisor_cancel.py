"""A run that is stopped or cancelled at every quarter of a second of a life in which each stage takes one second.

Whoever ends it, and whenever: when the call returns the upstream is closed, the log holds exactly one
terminal event, and no event of the generation comes after it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.providers import Answer, Prompt

from .fake_upstream import FOREVER, FakeUpstream, Step
from .run_owner import Owner, fields, owner, run_of, the_end, told, types
from .unreliable_logs import Mute, Slow

LIFE = 8.0
"""start, open, wait, append, wait, append, close, end: one second each."""
MOMENTS = [0.0, *(quarter / 4 + 0.125 for quarter in range(round(LIFE * 4) + 2))]
"""Before its task has run at all, then every quarter of a second until after its end."""


def upstream_of_seconds() -> FakeUpstream:
    """A fake upstream each of whose stages takes one second."""
    return FakeUpstream(1.0, ("a",), 1.0, ("b", "c"), opening=1.0, closing=1.0)


@asynccontextmanager
async def running(log: MemoryBackend, upstream: FakeUpstream, moment: float) -> AsyncIterator[Owner]:
    """A process whose run has gone on for `moment` seconds; at 0 its task has not run yet."""
    async with owner(Slow(log.process(), 1.0)) as here:
        await here.request()
        here.supervisor.start(run_of(upstream))
        if moment:
            await trio.sleep(moment)
        yield here


async def test_life_constant_is_the_length_of_a_run(autojump_clock: MockClock) -> None:
    log, upstream = MemoryBackend(), upstream_of_seconds()
    async with running(log, upstream, LIFE - 0.1) as here:
        assert here.supervisor.runs
        await trio.sleep(0.2)
        assert not here.supervisor.runs


async def assert_quiet(log: MemoryBackend, upstream: FakeUpstream) -> None:
    """No more events come, and no answer is open."""
    before = told(log)
    the_end(before)
    await trio.sleep(60)
    assert told(log) == before
    assert upstream.open_now == 0


@pytest.mark.parametrize("moment", MOMENTS)
async def test_server_stop_at_any_moment(moment: float, autojump_clock: MockClock) -> None:
    log, upstream = MemoryBackend(), upstream_of_seconds()
    async with running(log, upstream, moment) as here:
        await here.supervisor.finish(0)
        assert upstream.open_now == 0
        assert here.supervisor.runs == {}
        await assert_quiet(log, upstream)
    end = the_end(told(log))
    if end.type == "generation.failed":
        assert fields(end)["error"]["code"] == "server_stopped"
        assert fields(end)["retryable"] is True
    # While its upstream closes either end may be the faster; after that its own is on its way.
    if not LIFE - 2 < moment < LIFE - 1:
        assert (end.type == "generation.completed") is (moment > LIFE - 1)


@pytest.mark.parametrize("moment", MOMENTS)
async def test_cancel_by_the_owner_at_any_moment(moment: float, autojump_clock: MockClock) -> None:
    log, upstream = MemoryBackend(), upstream_of_seconds()
    async with running(log, upstream, moment) as here:
        ended_by_us = await here.cancel()
        await here.supervisor.stop("gen_1")
        assert upstream.open_now == 0
        await assert_quiet(log, upstream)
    end = the_end(told(log))
    assert end.type == ("generation.cancelled" if ended_by_us else "generation.completed")


@pytest.mark.parametrize("mute", [False, True])
@pytest.mark.parametrize("moment", MOMENTS)
async def test_cancel_by_another_process_at_any_moment(
    moment: float, mute: bool, autojump_clock: MockClock
) -> None:
    """Also by one whose notifications are lost: the owner finds out by itself, and releases the writer."""
    log, upstream = MemoryBackend(), upstream_of_seconds()
    async with running(log, upstream, moment) as here:
        view = log.process()
        async with owner(Mute(view) if mute else view) as there:
            ended_by_it = await there.cancel()
            with trio.fail_after(5):  # what a cancellation waits for the owner
                await there.released()
            assert upstream.open_now == 0
            await assert_quiet(log, upstream)
        assert here.supervisor.runs == {}
    end = the_end(told(log))
    assert end.type == ("generation.cancelled" if ended_by_it else "generation.completed")


async def test_cancelled_run_does_not_wait_for_its_next_token(autojump_clock: MockClock) -> None:
    """The watch task learns of the cancellation."""
    log, upstream = MemoryBackend(), FakeUpstream(("a",), FOREVER)
    async with owner(log.process()) as here, owner(log.process()) as there:
        await here.request()
        here.supervisor.start(run_of(upstream))
        await trio.sleep(10)
        start = trio.current_time()
        assert await there.cancel()
        await there.released()
        assert trio.current_time() - start < 0.1
        assert upstream.open_now == 0


async def test_run_fenced_at_its_next_token_is_released(autojump_clock: MockClock) -> None:
    """The notification is lost, and its next append is refused before the watch task has looked."""
    script: list[Step] = [0.01, ("a",)]
    log, upstream = MemoryBackend(), FakeUpstream(*script * 3_000)
    async with owner(log.process()) as here, owner(Mute(log.process())) as there:
        await here.request()
        run = run_of(upstream)
        here.supervisor.start(run)
        await trio.sleep(1.1)
        assert await there.cancel()
        await run.done.wait()
        with trio.fail_after(5):
            await there.released()


async def test_error_during_the_stop_ends_only_that_run(autojump_clock: MockClock) -> None:
    """An upstream's own task fails as it is cancelled."""
    log, upstream, other = MemoryBackend(), FailingWhenCancelled(FOREVER), FakeUpstream(10.0, ("b",))
    async with owner(log.process()) as here:
        await here.request("gen_1", "conv_1")
        await here.request("gen_2", "conv_2")
        here.supervisor.start(run_of(upstream))
        good = run_of(other, "gen_2", "conv_2")
        here.supervisor.start(good)
        await trio.sleep(1)
        assert await here.cancel()
        assert await here.supervisor.stop("gen_1")
        await good.done.wait()
    assert the_end(told(log)).type == "generation.cancelled"
    assert the_end(told(log, "gen_2", "conv_2")).type == "generation.completed"


class FailingWhenCancelled(FakeUpstream):
    """Its answer has a second task that fails when it is cancelled."""

    @asynccontextmanager
    async def open(self, prompt: Prompt) -> AsyncIterator[Answer]:
        async with super().open(prompt) as answer, trio.open_nursery() as nursery:
            nursery.start_soon(self._fail_when_cancelled)
            yield answer

    async def _fail_when_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("broken while closing")


async def test_stop_waits_for_a_run_that_ends_in_time(autojump_clock: MockClock) -> None:
    log, upstream = MemoryBackend(), upstream_of_seconds()
    async with running(log, upstream, 1) as here:
        start = trio.current_time()
        await here.supervisor.finish(30)
        assert trio.current_time() - start == pytest.approx(LIFE - 1)
    assert types(log)[-1] == "generation.completed"


async def test_run_started_during_the_stop_is_ended(autojump_clock: MockClock) -> None:
    """Its request was on its way to the log when the server stopped: it is not left as an orphan."""
    log, upstream = MemoryBackend(), FakeUpstream(("a",), FOREVER)
    async with owner(log.process()) as here:
        await here.supervisor.finish(5)
        await here.request()
        run = run_of(upstream)
        here.supervisor.start(run)
        with trio.fail_after(1):
            await run.done.wait()
    assert upstream.opened == 0
    assert fields(the_end(told(log)))["error"]["code"] == "server_stopped"


async def test_stop_ends_long_runs_at_its_bound(autojump_clock: MockClock) -> None:
    """The short run completes, the long one is ended."""
    log, long, short = MemoryBackend(), FakeUpstream(("a",), FOREVER), FakeUpstream(2.0, ("b",))
    async with owner(log.process()) as here:
        await here.request("gen_1", "conv_1")
        await here.request("gen_2", "conv_2")
        here.supervisor.start(run_of(long))
        here.supervisor.start(run_of(short, "gen_2", "conv_2"))
        start = trio.current_time()
        await here.supervisor.finish(5)
        assert trio.current_time() - start == pytest.approx(5)
    assert fields(the_end(told(log)))["error"]["code"] == "server_stopped"
    assert the_end(told(log, "gen_2", "conv_2")).type == "generation.completed"


class SlowClosingUpstream(FakeUpstream):
    """Takes long to close, and is shielded from cancellation."""

    def __init__(self) -> None:
        super().__init__(("a",), FOREVER, closing=20.0)


@pytest.mark.parametrize("stubborn", ["first", "last"])
async def test_slow_closing_run_does_not_delay_the_stop_of_others(
    stubborn: str, autojump_clock: MockClock
) -> None:
    """The others are cancelled through another process, and stopped within moments."""
    log = MemoryBackend()
    names = [("gen_1", "conv_1"), ("gen_2", "conv_2"), ("gen_3", "conv_3")]
    slow = names[0 if stubborn == "first" else -1]
    async with owner(log.process()) as here, owner(log.process()) as there:
        for name in names:
            await here.request(*name)
            upstream = SlowClosingUpstream() if name == slow else FakeUpstream(("a",), FOREVER)
            here.supervisor.start(run_of(upstream, *name))
        await trio.sleep(1)
        for name in names:
            await there.cancel(*name)
        with trio.fail_after(3):
            for name in names:
                if name != slow:
                    await there.released(*name)
        assert [*here.supervisor.runs] == [slow[0]]
        assert not log.streams[slow[1]].writers[slow[0]].released
        await there.released(*slow)
        assert here.supervisor.runs == {}
