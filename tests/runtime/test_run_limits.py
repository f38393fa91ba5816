"""MAX_RUNS bounds the runs that work: a run that waits for people, or for its turn, takes no place."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.generations.run_context import Run
from server.generations.supervisor import MAX_WAITING_RATIO
from server.problem import Problem
from server.runtime.conversation_service import ConversationService
from server.workflows import Workflow
from tests.generations.fake_upstream import FOREVER, FakeUpstream

from .run_commands import At, decide, ended, finish, play, started
from .runtime_process import app, process, refused
from .tool_examples import ORDER, SHIP, RefundTool, wants

PLACES = 3


async def ask_somebody(run: Run) -> str:
    return (await run.approve("go on?", expires=None)).decision


async def work(run: Run) -> None:
    await run.token("x")
    await trio.sleep_forever()


async def ask_and_work(run: Run) -> None:
    """Waits for a person, and works meanwhile."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run.approve, "go on?")
        nursery.start_soon(run.step, "slow", _slow)


async def ask_and_speak(run: Run) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run.approve, "go on?")
        nursery.start_soon(run.generate, "fake")


async def _slow() -> None:
    await trio.sleep(100)


REGISTRY = app(*(Workflow(one.__name__, one) for one in (ask_somebody, work, ask_and_work, ask_and_speak)))


async def _is_full(here: ConversationService) -> bool:
    """Whether the server refuses another run."""
    with suppress(Problem):
        await play(here, workflow="ask_somebody")
        return False
    return True


@pytest.mark.parametrize(
    ("workflow", "waits"),
    [("ask_somebody", True), ("work", False), ("ask_and_work", False), ("ask_and_speak", False)],
)
async def test_waiting_workflow_takes_no_place(workflow: str, waits: bool, autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with process(log.process(), FakeUpstream(FOREVER), max_runs=PLACES, registry=REGISTRY) as here:
        for _ in range(PLACES):
            await play(here, workflow=workflow)
            await trio.sleep(1)
        assert here.supervisor.load == (0 if waits else PLACES)
        assert await _is_full(here) is not waits


@pytest.mark.parametrize("kind", ["approval", "client", "tool", "speaking"])
async def test_waiting_agent_takes_no_place(kind: str, autojump_clock: MockClock) -> None:
    """It takes one while it streams and while its tools run here, and none while it waits for
    people or clients."""
    refund_tool = RefundTool(100, approval="always" if kind == "approval" else "never")
    agent: FakeUpstream = wants(ORDER)
    tools: tuple[str | Mapping[str, Any], ...] = ("refund",)
    if kind == "client":
        agent, tools = wants(("ship", "{}")), (SHIP,)
    elif kind == "speaking":
        agent = FakeUpstream(("a",), FOREVER)
    log = MemoryBackend()
    registry = app(refund_tool.tool, *REGISTRY.workflows.values())
    async with process(log.process(), agent, max_runs=PLACES, registry=registry) as here:
        runs: list[At] = []
        for _ in range(PLACES):
            runs.append(await play(here, model="fake", tools=tools))
            await trio.sleep(1)
        waits = kind in ("approval", "client")
        assert here.supervisor.load == (0 if waits else PLACES)
        assert await _is_full(here) is not waits
        if kind == "approval":
            await decide(here, runs[0], "approved")
            await trio.sleep(1)
            assert here.supervisor.load == 1, "it has been woken"
        if kind == "client":
            await finish(here, runs[0], {"result": 1})
            assert (await ended(here, runs[0])).status == "completed"


async def test_queued_runs_take_no_place(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with process(log.process(), FakeUpstream(("a",)), max_runs=PLACES, registry=REGISTRY) as here:
        first = await play(here, workflow="work")
        behind = [await play(here, first[0], model="fake", if_running="queue") for _ in range(PLACES + 2)]
        await trio.sleep(1)
        assert here.supervisor.load == 1
        await here.supervisor.stop(first[1])  # leaves no word: whoever is behind waits on
        assert here.supervisor.load == 0
        assert len(here.supervisor.runs) == len(behind)


async def test_waiting_runs_are_bounded(autojump_clock: MockClock) -> None:
    """Each of them takes memory."""
    log = MemoryBackend()
    async with process(log.process(), max_runs=1, registry=REGISTRY) as here:
        for _ in range(1 + MAX_WAITING_RATIO):
            run = await play(here, workflow="ask_somebody")
            await started(here, run, waiting=1)
        with pytest.raises(Problem) as caught:
            await play(here, workflow="ask_somebody")
        assert refused(caught) == (503, "overloaded")
        await decide(here, run, "approved")
        await ended(here, run)
        await play(here, workflow="ask_somebody")
