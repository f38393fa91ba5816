"""A run that is ended from outside, at every quarter of a second of a life in which each stage takes one.

Whoever ends it, and whenever: when that returns the upstream is closed, the log holds exactly one end, and
nothing of that generation ever comes after it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.providers import Answer, Prompt

from .fake_upstream import FOREVER, FakeUpstream, Step
from .owning import Owner, fields, owner, run_of, the_end, told, types
from .wrapped_log import Mute, Slow

LIFE = 8.0
"""start, open, wait, append, wait, append, close, end: one second each."""
MOMENTS = [0.0, *(quarter / 4 + 0.125 for quarter in range(round(LIFE * 4) + 2))]
"""Before its task has run at all, then every quarter of a second until after its end."""


def upstream_of_seconds() -> FakeUpstream:
    """An upstream each of whose stages takes one second."""
    return FakeUpstream(1.0, ("a",), 1.0, ("b", "c"), opening=1.0, closing=1.0)


@asynccontextmanager
async def running(log: MemoryBackend, upstream: FakeUpstream, moment: float) -> AsyncIterator[Owner]:
    """A process whose run has gone on for `moment` seconds; 0 is before its task has run at all."""
    async with owner(Slow(log.process(), 1.0)) as here:
        await here.request()
        here.supervisor.start(run_of(upstream))
        if moment:
            await trio.sleep(moment)
        yield here


async def test_the_life_is_as_long_as_it_says(autojump_clock: MockClock) -> None:
    log, upstream = MemoryBackend(), upstream_of_seconds()
    async with running(log, upstream, LIFE - 0.1) as here:
        assert here.supervisor.runs
        await trio.sleep(0.2)
        assert not here.supervisor.runs


async def quiet_after(log: MemoryBackend, upstream: FakeUpstream) -> None:
    """Nothing comes any more, nothing is open."""
    before = told(log)
    the_end(before)
    await trio.sleep(60)
    assert told(log) == before
    assert upstream.open_now == 0


@pytest.mark.parametrize("moment", MOMENTS)
async def test_the_server_is_stopped(moment: float, autojump_clock: MockClock) -> None:
    log, upstream = MemoryBackend(), upstream_of_seconds()
    async with running(log, upstream, moment) as here:
        await here.supervisor.finish(0)
        assert upstream.open_now == 0
        assert here.supervisor.runs == {}
        await quiet_after(log, upstream)
    end = the_end(told(log))
    if end.type == "generation.failed":
        assert fields(end)["error"]["code"] == "server_stopped"
        assert fields(end)["retryable"] is True
    # While its upstream closes either end may be the faster; after that its own is on its way.
    if not LIFE - 2 < moment < LIFE - 1:
        assert (end.type == "generation.completed") is (moment > LIFE - 1)


@pytest.mark.parametrize("moment", MOMENTS)
async def test_it_is_cancelled_here(moment: float, autojump_clock: MockClock) -> None:
    log, upstream = MemoryBackend(), upstream_of_seconds()
    async with running(log, upstream, moment) as here:
        ended_by_us = await here.cancel()
        await here.supervisor.stop("gen_1")
        assert upstream.open_now == 0
        await quiet_after(log, upstream)
    end = the_end(told(log))
    assert end.type == ("generation.cancelled" if ended_by_us else "generation.completed")


@pytest.mark.parametrize("mute", [False, True])
@pytest.mark.parametrize("moment", MOMENTS)
async def test_it_is_cancelled_by_another_process(moment: float, mute: bool, autojump_clock: MockClock) -> None:
    """Also one from which no notification arrives: the owner looks by itself, and releases the writer."""
    log, upstream = MemoryBackend(), upstream_of_seconds()
    async with running(log, upstream, moment) as here:
        view = log.process()
        async with owner(Mute(view) if mute else view) as there:
            ended_by_it = await there.cancel()
            with trio.fail_after(5):  # what a cancellation waits for the owner
                await there.released()
            assert upstream.open_now == 0
            await quiet_after(log, upstream)
        assert here.supervisor.runs == {}
    end = the_end(told(log))
    assert end.type == ("generation.cancelled" if ended_by_it else "generation.completed")


async def test_a_cancelled_run_stops_reading_at_once(autojump_clock: MockClock) -> None:
    """Without the wait for its next token: the watch hears of it."""
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


async def test_a_run_that_finds_out_by_itself_is_released_too(autojump_clock: MockClock) -> None:
    """No notification arrives, and its next token tells it before the watch has looked."""
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


async def test_what_breaks_while_it_is_stopped_breaks_alone(autojump_clock: MockClock) -> None:
    """An upstream's own tasks may fail just as they are cancelled: that run ends, the others go on."""
    log, upstream, other = MemoryBackend(), Torn(FOREVER), FakeUpstream(10.0, ("b",))
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


class Torn(FakeUpstream):
    """Its answer has a task beside it, which fails when it is cancelled."""

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


async def test_runs_get_their_time_to_end_by_themselves(autojump_clock: MockClock) -> None:
    log, upstream = MemoryBackend(), upstream_of_seconds()
    async with running(log, upstream, 1) as here:
        start = trio.current_time()
        await here.supervisor.finish(30)
        assert trio.current_time() - start == pytest.approx(LIFE - 1)
    assert types(log)[-1] == "generation.completed"


async def test_one_that_starts_when_all_were_told_to_end(autojump_clock: MockClock) -> None:
    """Its request was on its way to the log when the server stopped: it is not left for a sweep to find."""
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


async def test_and_no_more_than_that(autojump_clock: MockClock) -> None:
    """The long and the short one: each ends as it can within the bound."""
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


class Stubborn(FakeUpstream):
    """Takes its time to close, and lets nobody hurry it."""

    def __init__(self) -> None:
        super().__init__(("a",), FOREVER, closing=20.0)


@pytest.mark.parametrize("stubborn", ["first", "last"])
async def test_one_that_will_not_end_holds_up_no_other(stubborn: str, autojump_clock: MockClock) -> None:
    """Others that are cancelled at another process are stopped, and said to be, within moments."""
    log = MemoryBackend()
    names = [("gen_1", "conv_1"), ("gen_2", "conv_2"), ("gen_3", "conv_3")]
    slow = names[0 if stubborn == "first" else -1]
    async with owner(log.process()) as here, owner(log.process()) as there:
        for name in names:
            await here.request(*name)
            upstream = Stubborn() if name == slow else FakeUpstream(("a",), FOREVER)
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
