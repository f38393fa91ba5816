"""Tool calls of a model and the decisions on them: by whom, in time or too late; what runs is what was decided,
once.
"""

from datetime import timedelta
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.problem import Problem
from server.workflows import digest
from tests.generations.run_owner import fields, the_end
from tests.generations.unreliable_logs import Mute, Slow

from .run_commands import calls, decide, ended, events, kinds, play, started
from .runtime_process import app, of, process, refused
from .tool_examples import ORDER, RefundTool, told, wants


async def test_call_without_approval_runs(autojump_clock: MockClock) -> None:
    log, agent, refund_tool = MemoryBackend(), wants(ORDER), RefundTool(approval="never")
    async with process(log.process(), agent, registry=app(refund_tool.tool)) as here:
        run = await play(here, model="fake", tools=("refund",), said="hi")
        found = await ended(here, run)
    assert kinds(log, run) == [
        *("generation.requested", "generation.started", "token", "step.finished"),
        *("tool.proposed", "tool.started", "tool.finished", "token", "step.finished", "generation.completed"),
    ]
    assert (refund_tool.done, found.text) == ([7], "so done")
    assert found.usage == {"input_tokens": 2, "output_tokens": 4}
    assert told(agent) == ["refunded 7"]
    roles = [message.role for message in agent.asked[-1].messages]
    assert roles == ["user", "assistant", "tool"]
    (call,) = agent.asked[-1].messages[1].calls
    assert (call.name, call.arguments, call.id) == ("refund", '{"order":7}', calls(log, run)[0].call)
    assert agent.asked[-1].messages[2].call == call.id


REJECTED = (
    '{"error":{"code":"rejected","message":"A person rejected this call; do not make it again with the same '
    'arguments. The reason: too much"}}'
)


@pytest.mark.parametrize(
    ("decision", "arguments", "done", "heard"),
    [
        ("approved", None, [7], ["refunded 7"]),
        ("modified", {"order": 8}, [8], ["refunded 8"]),
        ("rejected", None, [], [REJECTED]),
    ],
)
async def test_call_waits_for_a_decision(
    decision: str, arguments: Any, done: list[int], heard: list[str], autojump_clock: MockClock
) -> None:
    """The wait holds no upstream connection, and does not count as a gap between tokens."""
    log, agent, refund_tool = MemoryBackend(), wants(ORDER), RefundTool()
    async with (
        process(log.process(), agent, registry=app(refund_tool.tool)) as here,
        process(log.process()) as there,
    ):
        run = await play(here, model="fake", tools=("refund",))
        found = await started(here, run, text="so ", waiting=1)
        assert (found.status, agent.open_now, refund_tool.done) == ("waiting", 0, [])
        await trio.sleep(1_000)
        await decide(there, run, decision, arguments, reason="too much" if decision == "rejected" else None)
        found = await ended(here, run)
    assert (refund_tool.done, told(agent)) == (done, heard)
    (call,) = calls(log, run)
    assert call.arguments == (arguments or {"order": 7})
    assert call.arguments_digest == digest(call.arguments)
    assert agent.asked[-1].messages[-2].calls[0].arguments == msgspec.json.encode(call.arguments).decode()
    for earlier, later in [("tool.decided", "tool.started"), ("tool.started", "tool.finished")]:
        if done:
            assert kinds(log, run).index(earlier) < kinds(log, run).index(later)
    assert ("tool.started" in kinds(log, run)) is bool(done)
    assert fields(the_end(of(log, *run)))["finish_reason"] == "stop"


async def test_call_expires_without_a_decision(autojump_clock: MockClock) -> None:
    """By the database's clock, exactly; a later decision is refused."""
    log, agent, refund_tool = MemoryBackend(), wants(ORDER), RefundTool(expires=60.0)
    async with process(log.process(), agent, registry=app(refund_tool.tool)) as here:
        run = await play(here, model="fake", tools=("refund",))
        await started(here, run, text="so ", waiting=1)
        await ended(here, run)
        with pytest.raises(Problem) as caught:
            await decide(here, run, "approved", call=calls(log, run)[0].call)
        assert refused(caught) == (409, "generation_ended")
    (call,) = calls(log, run)
    (event,) = events(log, run, "tool.decided")
    (proposal,) = events(log, run, "tool.proposed")
    assert (call.status, call.reason, call.by) == ("rejected", "expired", "tokentape")
    assert event.at - proposal.at == timedelta(seconds=60)
    assert refund_tool.done == []
    assert told(agent) == ['{"error":{"code":"expired","message":"expired"}}']


async def test_expiry_follows_the_databases_clock(autojump_clock: MockClock) -> None:
    """The process's clock has passed the expiry, the database's has not: a decision is still accepted."""
    log, agent, refund_tool = MemoryBackend(), wants(ORDER), RefundTool(expires=60.0)
    async with process(log.process(), agent, registry=app(refund_tool.tool)) as here:
        run = await play(here, model="fake", tools=("refund",))
        await started(here, run, text="so ", waiting=1)
        honest = log.now
        log.now = lambda: honest() - timedelta(seconds=100)  # type: ignore[method-assign]
        await trio.sleep(90)
        assert events(log, run, "tool.decided") == []
        await decide(here, run, "approved")
        await ended(here, run)
    assert refund_tool.done == [7]


@pytest.mark.parametrize("before", [0.75, 0.5, 0.25, 0.0])
async def test_decision_races_with_the_expiry(before: float, autojump_clock: MockClock) -> None:
    """Both are on their way to the log at once: one of them stands, and the run follows it."""
    log, agent, refund_tool = MemoryBackend(), wants(ORDER), RefundTool(expires=60.0)
    async with (
        process(Slow(log.process(), 1.0), agent, registry=app(refund_tool.tool)) as here,
        process(Mute(Slow(log.process(), 1.0))) as there,
    ):
        run = await play(here, model="fake", tools=("refund",))
        await started(here, run, text="so ", waiting=1)
        (call,) = calls(log, run)
        assert call.expires_at is not None
        await trio.sleep((call.expires_at - log.now()).total_seconds() - before)
        refusals: list[str] = []
        try:
            await decide(there, run, "approved")
        except Problem as problem:
            refusals.append(problem.code)
        await ended(here, run)
    (event,) = events(log, run, "tool.decided")
    approved = fields(event)["decision"] == "approved"
    assert refund_tool.done == ([7] if approved else [])
    assert refusals == ([] if approved else ["decision_expired" if before == 0.0 else "already_decided"])


async def test_one_of_many_concurrent_decisions_wins(autojump_clock: MockClock) -> None:
    """Through two processes, with different decisions: the other clients are told that they came second."""
    log, agent, refund_tool = MemoryBackend(), wants(ORDER), RefundTool()
    every = ("append", "read", "find_key")
    async with (
        process(Slow(log.process(), 0.3, only=every), agent, registry=app(refund_tool.tool)) as here,
        process(Slow(log.process(), 0.2, only=every), registry=app(refund_tool.tool)) as there,
    ):
        run = await play(here, model="fake", tools=("refund",))
        await started(here, run, text="so ", waiting=1)
        (call,) = calls(log, run)
        answers: list[str] = []

        async def attempt(number: int) -> None:
            runtime = there if number % 2 else here
            how = ("approved", "rejected", "modified")[number % 3]
            try:
                await decide(
                    runtime,
                    run,
                    how,
                    {"order": number} if number % 3 == 2 else None,
                    call=call.call,
                    by=f"{number}",
                )
            except Problem as problem:
                answers.append(problem.code)
            else:
                answers.append(f"{number}")

        async with trio.open_nursery() as nursery:
            for number in range(9):
                nursery.start_soon(attempt, number)
        await ended(here, run)
    (event,) = events(log, run, "tool.decided")
    assert sorted(answers) == [fields(event)["by"], *["already_decided"] * 8]
    wanted = fields(event)["arguments"]["order"]
    assert refund_tool.done == ([] if fields(event)["decision"] == "rejected" else [wanted])


async def test_modified_arguments_must_fit_the_tool(autojump_clock: MockClock) -> None:
    log, agent, refund_tool = MemoryBackend(), wants(ORDER), RefundTool()
    async with process(log.process(), agent, registry=app(refund_tool.tool)) as here:
        run = await play(here, model="fake", tools=("refund",))
        await started(here, run, text="so ", waiting=1)
        for arguments in ({"order": "8"}, {}, {"order": 8, "x": 1}):
            with pytest.raises(Problem) as caught:
                await decide(here, run, "modified", arguments)
            assert refused(caught) == (422, "invalid_arguments")
        await decide(here, run, "modified", {"order": 9})
        await ended(here, run)
    assert refund_tool.done == [9]


async def test_calls_of_one_answer_run_concurrently(autojump_clock: MockClock) -> None:
    """A person may decide on the last one first; the model gets all results in the order of its calls."""
    agent = wants(*((("refund", f'{{"order": {n}}}')) for n in range(4)), ("nothing", "{}"))
    log, refund_tool = MemoryBackend(), RefundTool(seconds=10.0)
    async with process(log.process(), agent, registry=app(refund_tool.tool)) as here:
        run = await play(here, model="fake", tools=("refund",))
        await started(here, run, text="so ", waiting=4)
        made = calls(log, run)
        begun = trio.current_time()
        for call in reversed(made[:4]):
            await decide(here, run, "approved" if call is not made[1] else "rejected", call=call.call)
            await trio.sleep(1)
        await ended(here, run)
        assert trio.current_time() - begun < 20, "they ran at once"
    assert refund_tool.done == [3, 2, 0]
    heard = told(agent)
    assert [heard[n] for n in (0, 2, 3)] == ["refunded 0", "refunded 2", "refunded 3"]
    assert "rejected" in heard[1]
    assert "unknown_tool" in heard[4]
