"""A decision that is sent again, sent during an outage, or written past the server, acts once or not at all."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from eventstore import Append, Appended, StoreUnavailable
from eventstore.memory_backend import MemoryBackend
from server.problem import Problem
from tests.conversations.event_builders import decided
from tests.generations.unreliable_logs import Slow

from .run_commands import calls, decide, ended, kinds, play, snapshot, started
from .runtime_process import app, cancel, key, process, refused
from .tool_examples import ORDER, RefundTool, wants


@pytest.mark.parametrize("delay", [number / 8 for number in range(20)])
async def test_decision_sent_twice_acts_once(delay: float, autojump_clock: MockClock) -> None:
    """With one key, through two processes, however the two overlap: both clients get the same answer."""
    log, agent, refund_tool = MemoryBackend(), wants(ORDER), RefundTool(seconds=0.5)
    every = ("append", "read", "find_key")
    async with (
        process(Slow(log.process(), 0.5, only=every), agent, registry=app(refund_tool.tool)) as here,
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
    assert refund_tool.done == [7]
    assert kinds(log, run).count("tool.decided") == 1


async def test_decision_lost_in_an_outage_can_be_sent_again(autojump_clock: MockClock) -> None:
    """The log was unavailable for the first one; the same command sent again succeeds."""
    log, agent, refund_tool = MemoryBackend(), wants(ORDER), RefundTool(expires=None)
    async with process(log.process(), agent, registry=app(refund_tool.tool), patience=5.0) as here:
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
    assert refund_tool.done == [7]


async def test_forged_decision_ends_the_run_without_the_tool(autojump_clock: MockClock) -> None:
    """Somebody writes a decision past the server, with arguments that were not proposed."""
    log, agent, refund_tool = MemoryBackend(), wants(ORDER), RefundTool()
    async with process(log.process(), agent, registry=app(refund_tool.tool)) as here:
        run = await play(here, model="fake", tools=("refund",))
        await started(here, run, text="so ", waiting=1)
        (call,) = calls(log, run)
        forged = decided(run[1], call.call, seen={"order": 8})
        await here.store.append(Append(run[0], (forged,), during=run[1]))
        await trio.sleep(10)
    assert refund_tool.done == []


async def test_tool_of_a_cancelled_run_never_runs(autojump_clock: MockClock) -> None:
    log, agent, refund_tool = MemoryBackend(), wants(ORDER), RefundTool()
    async with (
        process(log.process(), agent, registry=app(refund_tool.tool)) as here,
        process(log.process()) as there,
    ):
        run = await play(here, model="fake", tools=("refund",))
        await started(here, run, text="so ", waiting=1)
        (call,) = calls(log, run)
        assert await cancel(there, *run)
        with pytest.raises(Problem) as caught:
            await decide(there, run, "approved", call=call.call)
        assert refused(caught) == (409, "generation_ended")
        await trio.sleep(10)
        assert here.supervisor.runs == {}
    assert refund_tool.done == []
