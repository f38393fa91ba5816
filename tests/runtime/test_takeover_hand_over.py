"""How often a run may change its process: as often as servers are restarted. What counts are deaths in vain."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.conversations.conversation_state import MOST_ATTEMPTS
from server.generations.run_context import Run
from server.workflows import Workflow
from tests.generations.fake_upstream import FakeUpstream
from tests.generations.owning import fields, the_end

from .playing import At, decide, ended, events, play, snapshot, started
from .tooling import ORDER, Till, wants
from .world import app, of, process

HAND_OVERS = 50


async def _ask_somebody(run: Run) -> str:
    return (await run.approve("send it?", expires=None)).decision


async def _linger(run: Run) -> None:
    await run.token(f"{run.attempt}")
    await trio.sleep_forever()


async def _kinds_of_waiting(run: Run) -> str:
    """Asks, does what was agreed on, asks again."""
    await run.approve("first?", expires=None)
    await run.step("pay", lambda: 1)
    return (await run.approve("second?", expires=None)).decision


@pytest.mark.parametrize("kind", ["workflow", "agent", "queued"])
async def test_a_run_that_waits_survives_any_number_of_deploys(kind: str, autojump_clock: MockClock) -> None:
    """Each process is told to stop, and the next one takes its runs over."""
    log, till = MemoryBackend(), Till(approval="always", expires=None)
    registry = app(Workflow("w", _ask_somebody), till.tool)
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
    assert till.done == ([7] if kind == "agent" else [])
    reasons = {fields(event)["reason"] for event in events(log, first, "generation.interrupted")}
    assert reasons == {"server_stopped"}


async def _lose(log: MemoryBackend, registry: Any, times: int, then: Callable[[Any, At], Awaitable[None]]) -> At:
    """A run whose process dies so many times; `then` is done in each before its death."""
    run: At | None = None
    for _ in range(times):
        async with process(log.process(), registry=registry) as lost:
            if run is None:
                run = await play(lost)
            await then(lost, run)
    assert run is not None
    return run


async def test_deaths_with_something_done_in_between_do_not_add_up(autojump_clock: MockClock) -> None:
    """A step, a decision, a tool's end: what was done is not done again, so the attempts were not in vain."""
    log = MemoryBackend()
    registry = app(Workflow("w", _kinds_of_waiting))
    calls = 0

    async def then(here: Any, run: At) -> None:
        nonlocal calls
        calls += 1
        await started(here, run, attempt=calls, waiting=1)
        if calls == MOST_ATTEMPTS - 1:
            await decide(here, run, "approved")
            await started(here, run, attempt=calls, waiting=1)

    run = await _lose(log, registry, 2 * MOST_ATTEMPTS - 3, then)
    async with process(log.process(), registry=registry) as here:
        await started(here, run, attempt=2 * MOST_ATTEMPTS - 2, waiting=1)
        assert (await snapshot(here, run)).losses == MOST_ATTEMPTS - 1
        await decide(here, run, "approved")
        assert (await ended(here, run)).result == "approved"
    assert fields(the_end(of(log, *run)))["finish_reason"] == "stop"


async def test_deaths_in_vain_add_up_with_hand_overs_in_between(autojump_clock: MockClock) -> None:
    """A run that takes its processes down is ended all the same, however many deploys come in between."""
    log = MemoryBackend()
    registry = app(Workflow("w", _linger))
    attempt = 0

    async def then(here: Any, run: At) -> None:
        nonlocal attempt
        attempt += 1
        await started(here, run, text=f"{attempt}", attempt=attempt)
        if attempt % 2:
            await here.supervisor.finish(0)

    run = await _lose(log, registry, 2 * MOST_ATTEMPTS, then)
    async with process(log.process(), registry=registry) as here:
        found = await ended(here, run)
    assert (found.attempt, found.losses) == (2 * MOST_ATTEMPTS, MOST_ATTEMPTS - 1)
    assert found.error is not None
    assert found.error["code"] == "worker_lost"


async def test_a_process_that_stops_takes_nothing(autojump_clock: MockClock) -> None:
    """It would hand it over in a moment."""
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
