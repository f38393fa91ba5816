"""A decision that is sent again, comes in an outage, or past the server: it acts once, or not at all."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from eventstore import Append, Appended, StoreUnavailable
from eventstore.memory_backend import MemoryBackend
from server.problem import Problem
from tests.conversations.event_builders import decided
from tests.generations.wrapped_log import Slow

from .playing import calls, decide, ended, kinds, play, snapshot, started
from .tooling import ORDER, Till, wants
from .world import app, cancel, key, process, refused


@pytest.mark.parametrize("delay", [number / 8 for number in range(20)])
async def test_a_decision_sent_twice_acts_once(delay: float, autojump_clock: MockClock) -> None:
    """With one key, by two processes, however the two overlap: both are told the same."""
    log, agent, till = MemoryBackend(), wants(ORDER), Till(seconds=0.5)
    every = ("append", "read", "find_key")
    async with (
        process(Slow(log.process(), 0.5, only=every), agent, registry=app(till.tool)) as here,
        process(Slow(log.process(), 0.5, only=every)) as there,
    ):
        run = await play(here, model="fake", tools=("refund",))
        await started(here, run, text="so ", waiting=1)
        (call,) = calls(log, run)
        answers: list[Appended] = []

        async def attempt(runtime: Any, pause: float) -> None:
            await trio.sleep(pause)
            answers.append(await decide(runtime, run, "approved", call=call.call, key=key("k")))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(attempt, here, 0.0)
            nursery.start_soon(attempt, there, delay)
        await ended(here, run)
        again = await decide(there, run, "approved", call=call.call, key=key("k"))
        assert {(one.first, one.last) for one in (*answers, again)} == {(again.first, again.last)}
        assert again.repeated
        with pytest.raises(Problem) as caught:
            await decide(there, run, "rejected", call=call.call, key=key("k", b"other"))
        assert refused(caught) == (422, "key_reused")
    assert till.done == [7]
    assert kinds(log, run).count("tool.decided") == 1


async def test_a_decision_nobody_made_is_not_in_the_way(autojump_clock: MockClock) -> None:
    """The log is away just then; the same command is sent again, and stands."""
    log, agent, till = MemoryBackend(), wants(ORDER), Till(expires=None)
    async with process(log.process(), agent, registry=app(till.tool), patience=5.0) as here:
        run = await play(here, model="fake", tools=("refund",))
        await started(here, run, text="so ", waiting=1)
        (call,) = calls(log, run)
        found = await snapshot(here, run)
        assert found.status == "waiting"
        log.available = False
        with pytest.raises(StoreUnavailable):
            await decide(here, run, "approved", call=call.call, key=key("k"))
        log.available = True
        await decide(here, run, "approved", call=call.call, key=key("k"))
        await ended(here, run)
    assert till.done == [7]


async def test_a_forged_decision_runs_nothing(autojump_clock: MockClock) -> None:
    """Somebody writes past the server, of arguments that were not proposed: the run ends there."""
    log, agent, till = MemoryBackend(), wants(ORDER), Till()
    async with process(log.process(), agent, registry=app(till.tool)) as here:
        run = await play(here, model="fake", tools=("refund",))
        await started(here, run, text="so ", waiting=1)
        (call,) = calls(log, run)
        forged = decided(run[1], call.call, seen={"order": 8})
        await here.store.append(Append(run[0], (forged,), during=run[1]))
        await trio.sleep(10)
    assert till.done == []


async def test_a_cancelled_run_runs_nothing(autojump_clock: MockClock) -> None:
    log, agent, till = MemoryBackend(), wants(ORDER), Till()
    async with process(log.process(), agent, registry=app(till.tool)) as here, process(log.process()) as there:
        run = await play(here, model="fake", tools=("refund",))
        await started(here, run, text="so ", waiting=1)
        (call,) = calls(log, run)
        assert await cancel(there, *run)
        with pytest.raises(Problem) as caught:
            await decide(there, run, "approved", call=call.call)
        assert refused(caught) == (409, "generation_ended")
        await trio.sleep(10)
        assert here.supervisor.runs == {}
    assert till.done == []
