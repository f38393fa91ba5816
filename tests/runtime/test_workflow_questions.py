"""Questions of a workflow to people: each decision is in the log, and belongs to exactly one question."""

from typing import Any

import trio
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.generations.run_context import Run
from server.workflows import Workflow

from .run_commands import calls, decide, ended, kinds, play, snapshot, started
from .runtime_process import app, process


async def test_approve_returns_the_decision(autojump_clock: MockClock) -> None:
    decisions: list[Any] = []

    async def work(run: Run) -> None:
        for expires in (30.0, 30.0, None, 5.0):
            decisions.append(await run.approve("send\ud800", {"to": "Ada", "n": len(decisions)}, expires=expires))

    log = MemoryBackend()
    async with process(log.process(), registry=app(Workflow("w", work))) as here:
        run = await play(here)
        assert (await started(here, run, waiting=1)).status == "waiting"
        await decide(here, run, "approved")
        await started(here, run, waiting=1)
        await decide(here, run, "modified", {"to": "Bob"})
        await started(here, run, waiting=1)
        await trio.sleep(4_000)
        await decide(here, run, "rejected", reason="no")
        await ended(here, run)
        found = await snapshot(here, run)
    assert [(one.decision, one.arguments, one.reason, one.by, one.approved) for one in decisions] == [
        ("approved", {"to": "Ada", "n": 0}, None, "anonymous", True),
        ("modified", {"to": "Bob"}, None, "anonymous", True),
        ("rejected", {"to": "Ada", "n": 2}, "no", "anonymous", False),
        ("rejected", {"to": "Ada", "n": 3}, "expired", "tokentape", False),
    ]
    assert [call.name for call in found.tool_calls] == ["send\ufffd"] * 4
    assert found.tool_calls[2].expires_at is None


async def test_next_attempt_takes_decisions_from_the_log(autojump_clock: MockClock) -> None:
    """A decision given while no process drove the run counts, and nobody is asked twice."""

    async def work(run: Run) -> str:
        first = await run.approve("one", {"n": 1})
        second = await run.approve("two")
        if run.attempt == 2:
            await trio.sleep_forever()
        return f"{first.decision} {second.arguments}"

    log = MemoryBackend()
    registry = app(Workflow("w", work))
    async with process(log.process()) as other:
        async with process(log.process(), registry=registry) as lost:
            run = await play(lost)
            await started(lost, run, waiting=1)
        await decide(other, run, "approved")
        async with process(log.process(), registry=registry) as lost:
            await started(lost, run, waiting=1, attempt=2)
            await decide(other, run, "modified", {"m": 2})
            await trio.sleep(1)
        async with process(log.process(), registry=registry) as here:
            await ended(here, run)
            assert (await snapshot(here, run)).result == "approved {'m': 2}"
    assert kinds(log, run).count("tool.proposed") == 2


async def test_concurrent_questions_are_told_apart_by_their_arguments(autojump_clock: MockClock) -> None:
    """In whatever order their tasks run in a later attempt: the approval of one is never the other's."""
    acted: list[tuple[int, int]] = []

    async def ask(run: Run, n: int) -> None:
        decision = await run.approve("pay", {"n": n})
        if decision.approved:
            acted.append((n, decision.arguments["n"]))

    async def work(run: Run) -> None:
        asked = list(range(4))
        async with trio.open_nursery() as nursery:
            for n in asked if run.attempt % 2 else reversed(asked):
                nursery.start_soon(ask, run, n)
                await trio.sleep(0.1)  # the order is certain: this one asks first
        if run.attempt == 1:
            await trio.sleep_forever()

    log = MemoryBackend()
    registry = app(Workflow("w", work))
    async with process(log.process()) as other:
        async with process(log.process(), registry=registry) as lost:
            run = await play(lost)
            await started(lost, run, waiting=4)
            for call in (await snapshot(other, run)).tool_calls:
                await decide(other, run, "approved" if call.arguments["n"] == 1 else "rejected", call=call.call)
            await trio.sleep(1)
        assert acted == [(1, 1)]
        async with process(log.process(), registry=registry) as here:
            await ended(here, run)
    assert acted == [(1, 1)] * 2
    assert len(calls(log, run)) == 4


async def test_repeated_question_is_asked_again(autojump_clock: MockClock) -> None:
    async def work(run: Run) -> list[str]:
        return [(await run.approve("pay", {"n": 1})).decision for _ in range(2)]

    log = MemoryBackend()
    async with process(log.process(), registry=app(Workflow("w", work))) as here:
        run = await play(here)
        for decision in ("approved", "rejected"):
            await started(here, run, waiting=1)
            await decide(here, run, decision)
        await ended(here, run)
        assert (await snapshot(here, run)).result == ["approved", "rejected"]
