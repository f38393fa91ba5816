"""What a crash leaves of a tool call: decided and not started it runs, started it may not run again."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.generations.run_context import Run
from server.problem import Problem
from server.workflows import Workflow, tool

from .playing import calls, decide, ended, kinds, play, started
from .tooling import ORDER, Till, told, wants
from .world import app, process, refused


@pytest.mark.parametrize("idempotent", [False, True])
async def test_a_tool_that_was_running_when_its_process_died(idempotent: bool, autojump_clock: MockClock) -> None:
    """Nobody knows how far it came: it runs again only where that does no harm."""
    log, agent, till = MemoryBackend(), wants(ORDER), Till(seconds=5.0, idempotent=idempotent)
    registry = app(till.tool)
    async with process(log.process(), agent, registry=registry):
        async with process(log.process(), agent, registry=registry) as lost:
            run = await play(lost, model="fake", tools=("refund",))
            await started(lost, run, text="so ", waiting=1)
            await decide(lost, run, "modified", {"order": 8})
            await trio.sleep(1)
        async with process(log.process(), agent, registry=registry) as here:
            found = await ended(here, run)
    assert till.done == [8] * (2 if idempotent else 1)
    assert (found.attempt, found.text, len(agent.asked)) == (2, "so done", 2)
    assert kinds(log, run).count("tool.started") == 1
    (call,) = found.tool_calls
    if idempotent:
        assert call.result == "refunded 8"
    else:
        assert call.error is not None
        assert call.error["code"] == "outcome_unknown"
        assert "outcome_unknown" in told(agent)[0]


async def test_one_that_was_decided_and_not_started_runs(autojump_clock: MockClock) -> None:
    """Decided while no process drove the run at all."""
    log, agent, till = MemoryBackend(), wants(ORDER), Till()
    registry = app(till.tool)
    async with process(log.process()) as other:
        async with process(log.process(), agent, registry=registry) as lost:
            run = await play(lost, model="fake", tools=("refund",))
            await started(lost, run, text="so ", waiting=1)
        await decide(other, run, "modified", {"order": 9})
        async with process(log.process(), agent, registry=registry) as here:
            await ended(here, run)
    assert till.done == [9]
    assert told(agent) == ["refunded 9"]


async def test_one_whose_time_was_over_while_nobody_drove_it(autojump_clock: MockClock) -> None:
    log, agent, till = MemoryBackend(), wants(ORDER), Till(expires=20.0)
    registry = app(till.tool)
    async with process(log.process()) as other:
        async with process(log.process(), agent, registry=registry) as lost:
            run = await play(lost, model="fake", tools=("refund",))
            await started(lost, run, text="so ", waiting=1)
        await trio.sleep(30)
        with pytest.raises(Problem) as caught:
            await decide(other, run, "approved")
        assert refused(caught) == (409, "decision_expired")
        async with process(log.process(), agent, registry=registry) as here:
            await ended(here, run)
    assert till.done == []
    assert calls(log, run)[0].reason == "expired"


async def test_a_ghost_executes_nothing(autojump_clock: MockClock) -> None:
    """It was taken for dead while it waited for the decision, and hears it: but its start is refused."""
    log, agent, till = MemoryBackend(), wants(ORDER), Till()
    registry = app(till.tool)
    async with process(log.process(), agent, registry=registry) as ghost:
        run = await play(ghost, model="fake", tools=("refund",))
        await started(ghost, run, text="so ", waiting=1)
        hear = log.living.pop(ghost.store.owner)
        async with process(log.process(), agent, registry=registry) as here:
            await started(here, run, text="so ", waiting=1, attempt=2)
            await decide(here, run, "approved")
            await ended(here, run)
        log.living[ghost.store.owner] = hear
        await trio.sleep(10)
        assert ghost.supervisor.runs == {}
    assert till.done == [7]
    assert kinds(log, run).count("tool.started") == 1


async def test_a_tool_that_is_gone_when_its_turn_comes(autojump_clock: MockClock) -> None:
    """Approved, and then another version of the app takes the run over: it is told, and the log stays whole."""
    till, other_tool = Till(), Till(approval="never")

    async def work(run: Run) -> Any:
        return (await run.generate("fake", "go", tools=[till.tool] if run.attempt == 1 else [])).text

    log, agent = MemoryBackend(), wants(ORDER)
    before, after = app(Workflow("w", work), till.tool), app(Workflow("w", work), other_tool.tool)
    async with process(log.process()) as other:
        async with process(log.process(), agent, registry=before) as lost:
            run = await play(lost)
            await started(lost, run, text="so ", waiting=1)
        await decide(other, run, "approved")
        async with process(log.process(), agent, registry=after) as here:
            found = await ended(here, run)
    assert (found.status, found.result) == ("completed", "so done")
    assert found.tool_calls[0].error == {
        "code": "unknown_tool",
        "message": "this server has no tool refund any more",
    }
    assert till.done == []


async def test_questions_of_a_tool_are_its_own_calls(autojump_clock: MockClock) -> None:
    """Two calls ask the same; one is over when the process dies: the other never takes its approval."""
    log, agent = MemoryBackend(), wants(("pay", '{"n": 1}'), ("pay", '{"n": 2}'))
    paid: list[int] = []

    @tool(approval="never", idempotent=True)
    async def pay(n: int, run: Run) -> str:
        """Pays when a person says so."""
        await run.step("prepare", lambda: prepare(n))
        decision = await run.approve("sure?")
        if decision.approved:
            paid.append(n)
        return f"{n} {decision.decision}"

    async def prepare(n: int) -> int:
        return n

    registry = app(pay)
    async with process(log.process()) as other:
        async with process(log.process(), agent, registry=registry) as lost:
            run = await play(lost, model="fake", tools=("pay",))
            await started(lost, run, text="so ", waiting=2)
            asked = {call.step.rpartition(" ")[2]: call.call for call in calls(log, run) if call.name == "sure?"}
            first, second = (call.call for call in calls(log, run) if call.name == "pay")
            await decide(other, run, "approved", call=asked[first])
            with trio.fail_after(60):
                while "tool.finished" not in kinds(log, run):
                    await trio.sleep(0.1)
        assert paid == [1]
        async with process(log.process(), agent, registry=registry) as here:
            await started(here, run, text="so ", waiting=1, attempt=2)
            await trio.sleep(100)
            assert paid == [1]
            await decide(here, run, "rejected", call=asked[second])
            await ended(here, run)
    assert told(agent) == ["1 approved", "2 rejected"]
    assert paid == [1]
