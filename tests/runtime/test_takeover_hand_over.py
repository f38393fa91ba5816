"""How often a run may change its process: with every deploy. Only attempts that achieved
nothing count as losses."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.conversations.conversation_state import MAX_ATTEMPTS
from server.generations.run_context import Run
from server.workflows import Workflow
from tests.generations.fake_upstream import FakeUpstream
from tests.generations.run_owner import fields, the_end

from .run_commands import At, decide, ended, events, play, snapshot, started
from .runtime_process import app, of, process
from .tool_examples import ORDER, RefundTool, wants

HAND_OVERS = 50


async def _ask_somebody(run: Run) -> str:
    return (await run.approve("send it?", expires=None)).decision


async def _linger(run: Run) -> None:
    await run.token(f"{run.attempt}")
    await trio.sleep_forever()


async def _kinds_of_waiting(run: Run) -> str:
    """Asks a person, does a step, and asks again."""
    await run.approve("first?", expires=None)
    await run.step("pay", lambda: 1)
    return (await run.approve("second?", expires=None)).decision


@pytest.mark.parametrize("kind", ["workflow", "agent", "queued"])
async def test_waiting_run_survives_any_number_of_deploys(kind: str, autojump_clock: MockClock) -> None:
    """Each process is told to stop, and the next one takes its runs over."""
    log, refund_tool = MemoryBackend(), RefundTool(approval="always", expires=None)
    registry = app(Workflow("w", _ask_somebody), refund_tool.tool)
    agent = wants(ORDER) if kind == "agent" else FakeUpstream(("done",))
    for number in range(HAND_OVERS):
        async with process(log.process(), agent, registry=registry) as here:
            if not number:
                if kind == "agent":
                    first = await play(here, model="fake", tools=("refund",))
                else:
                    first = await play(here)
                run = await play(here, first[0], model="fake", if_running="queue") if kind == "queued" else first
            await started(here, first, waiting=1, text="so " if kind == "agent" else "", attempt=number + 1)
            await here.supervisor.finish(0)
    async with process(log.process(), agent, registry=registry) as here:
        await started(here, first, waiting=1, text="so " if kind == "agent" else "", attempt=HAND_OVERS + 1)
        await decide(here, first, "approved")
        found = await ended(here, run)
    assert found.status == "completed"
    assert found.attempt == (1 if kind == "queued" else HAND_OVERS + 1)
    assert refund_tool.done == ([7] if kind == "agent" else [])
    reasons = {fields(event)["reason"] for event in events(log, first, "generation.interrupted")}
    assert reasons == {"server_stopped"}


async def _lose(log: MemoryBackend, registry: Any, times: int, then: Callable[[Any, At], Awaitable[None]]) -> At:
    """Runs a workflow whose process dies `times` times; `then` acts on the run before each death."""
    run: At | None = None
    for _ in range(times):
        async with process(log.process(), registry=registry) as lost:
            if run is None:
                run = await play(lost)
            await then(lost, run)
    assert run is not None
    return run


async def test_crashes_with_progress_in_between_do_not_add_up(autojump_clock: MockClock) -> None:
    """A finished step, decision or tool is not done again, so the attempt achieved something."""
    log = MemoryBackend()
    registry = app(Workflow("w", _kinds_of_waiting))
    calls = 0

    async def then(here: Any, run: At) -> None:
        nonlocal calls
        calls += 1
        await started(here, run, attempt=calls, waiting=1)
        if calls == MAX_ATTEMPTS - 1:
            await decide(here, run, "approved")
            await started(here, run, attempt=calls, waiting=1)

    run = await _lose(log, registry, 2 * MAX_ATTEMPTS - 3, then)
    async with process(log.process(), registry=registry) as here:
        await started(here, run, attempt=2 * MAX_ATTEMPTS - 2, waiting=1)
        assert (await snapshot(here, run)).losses == MAX_ATTEMPTS - 1
        await decide(here, run, "approved")
        assert (await ended(here, run)).result == "approved"
    assert fields(the_end(of(log, *run)))["finish_reason"] == "stop"


async def test_crashes_without_progress_add_up_across_hand_overs(autojump_clock: MockClock) -> None:
    """A run that kills its processes is ended, however many deploys come in between."""
    log = MemoryBackend()
    registry = app(Workflow("w", _linger))
    attempt = 0

    async def then(here: Any, run: At) -> None:
        nonlocal attempt
        attempt += 1
        await started(here, run, text=f"{attempt}", attempt=attempt)
        if attempt % 2:
            await here.supervisor.finish(0)

    run = await _lose(log, registry, 2 * MAX_ATTEMPTS, then)
    async with process(log.process(), registry=registry) as here:
        found = await ended(here, run)
    assert (found.attempt, found.losses) == (2 * MAX_ATTEMPTS, MAX_ATTEMPTS - 1)
    assert found.error is not None
    assert found.error["code"] == "worker_lost"


async def test_stopping_process_takes_no_run_over(autojump_clock: MockClock) -> None:
    """It would have to hand it over a moment later."""
    log = MemoryBackend()
    registry = app(Workflow("w", _ask_somebody))
    async with process(log.process(), registry=registry) as stopping:
        async with process(log.process(), registry=registry) as lost:
            run = await play(lost)
            await started(lost, run, waiting=1)
        stopping.drain.begin(60)
        await trio.sleep(60)
        assert stopping.supervisor.metrics.taken_over == 0
        async with process(log.process(), registry=registry) as here:
            await started(here, run, waiting=1, attempt=2)
            assert here.supervisor.metrics.taken_over == 1
