"""Tool calls after a crash: a call that was decided and not started runs; a started one runs again only if
idempotent.
"""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.generations.run_context import Run
from server.problem import Problem
from server.workflows import Workflow, tool

from .run_commands import calls, decide, ended, kinds, play, started
from .runtime_process import app, process, refused
from .tool_examples import ORDER, RefundTool, told, wants


@pytest.mark.parametrize("idempotent", [False, True])
async def test_running_tool_of_a_dead_process(idempotent: bool, autojump_clock: MockClock) -> None:
    """Nobody knows how far it came: it runs again only if it is declared idempotent."""
    log, agent, refund_tool = MemoryBackend(), wants(ORDER), RefundTool(seconds=5.0, idempotent=idempotent)
    registry = app(refund_tool.tool)
    async with process(log.process(), agent, registry=registry):
        async with process(log.process(), agent, registry=registry) as lost:
            run = await play(lost, model="fake", tools=("refund",))
            await started(lost, run, text="so ", waiting=1)
            await decide(lost, run, "modified", {"order": 8})
            await trio.sleep(1)
        async with process(log.process(), agent, registry=registry) as here:
            found = await ended(here, run)
    assert refund_tool.done == [8] * (2 if idempotent else 1)
    assert (found.attempt, found.text, len(agent.asked)) == (2, "so done", 2)
    assert kinds(log, run).count("tool.started") == 1
    (call,) = found.tool_calls
    if idempotent:
        assert call.result == "refunded 8"
    else:
        assert call.error is not None
        assert call.error["code"] == "outcome_unknown"
        assert "outcome_unknown" in told(agent)[0]


async def test_call_decided_but_not_started_runs_after_a_crash(autojump_clock: MockClock) -> None:
    """The decision came while no process drove the run."""
    log, agent, refund_tool = MemoryBackend(), wants(ORDER), RefundTool()
    registry = app(refund_tool.tool)
    async with process(log.process()) as other:
        async with process(log.process(), agent, registry=registry) as lost:
            run = await play(lost, model="fake", tools=("refund",))
            await started(lost, run, text="so ", waiting=1)
        await decide(other, run, "modified", {"order": 9})
        async with process(log.process(), agent, registry=registry) as here:
            await ended(here, run)
    assert refund_tool.done == [9]
    assert told(agent) == ["refunded 9"]


async def test_call_that_expired_while_no_process_drove_the_run(autojump_clock: MockClock) -> None:
    log, agent, refund_tool = MemoryBackend(), wants(ORDER), RefundTool(expires=20.0)
    registry = app(refund_tool.tool)
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
    assert refund_tool.done == []
    assert calls(log, run)[0].reason == "expired"


async def test_process_taken_for_dead_executes_nothing(autojump_clock: MockClock) -> None:
    """It hears the decision that it waited for, but its `tool.started` is refused."""
    log, agent, refund_tool = MemoryBackend(), wants(ORDER), RefundTool()
    registry = app(refund_tool.tool)
    async with process(log.process(), agent, registry=registry) as old_process:
        run = await play(old_process, model="fake", tools=("refund",))
        await started(old_process, run, text="so ", waiting=1)
        hear = log.living.pop(old_process.store.owner)
        async with process(log.process(), agent, registry=registry) as here:
            await started(here, run, text="so ", waiting=1, attempt=2)
            await decide(here, run, "approved")
            await ended(here, run)
        log.living[old_process.store.owner] = hear
        await trio.sleep(10)
        assert old_process.supervisor.runs == {}
    assert refund_tool.done == [7]
    assert kinds(log, run).count("tool.started") == 1


async def test_approved_tool_missing_in_the_next_version_fails(autojump_clock: MockClock) -> None:
    """The tool was approved, then another version of the app takes the run over.

    The model is told, the log stays valid.
    """
    refund_tool, other_tool = RefundTool(), RefundTool(approval="never")

    async def work(run: Run) -> Any:
        return (await run.generate("fake", "go", tools=[refund_tool.tool] if run.attempt == 1 else [])).text

    log, agent = MemoryBackend(), wants(ORDER)
    before, after = app(Workflow("w", work), refund_tool.tool), app(Workflow("w", work), other_tool.tool)
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
    assert refund_tool.done == []


async def test_question_of_a_tool_belongs_to_its_call(autojump_clock: MockClock) -> None:
    """Two calls ask the same question, and one ends before the process dies.

    The other never takes its approval.
    """
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
