"""The database is away for longer than anybody waits: what can go on goes on afterwards, in whatever state it was.

Every state a run can be in, and outages of half a minute to an hour. A run that may be followed by another attempt
is interrupted at most, and completes; only a plain answer whose upstream was cut off by the outage has to fail.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from eventstore import StoreUnavailable
from eventstore.memory_backend import MemoryBackend
from server.conversations.conversation_state import MOST_ATTEMPTS, Generation
from server.event_types import generation_started as started_event
from server.generations.executors import Attempt, run_attempt
from server.generations.run_context import Run, RunResources
from server.generations.run_log import FencedWriter
from server.problem import Problem
from server.runtime.conversation_service import ConversationService
from server.workflows import Workflow
from tests.generations.fake_upstream import FakeUpstream
from tests.generations.owning import fields, the_end

from .playing import At, decide, ended, events, finish, kinds, play, snapshot
from .tooling import ORDER, SHIP, Till, wants
from .world import app, cancel, of, process

LONG = [pytest.param(600.0, marks=pytest.mark.soak), pytest.param(3600.0, marks=pytest.mark.soak)]
"""Virtual seconds cost real ones, for who waits asks twice a second. `test_every_state_at_once` is the short
way."""
AWAY = [31.0, *LONG]


async def talk(run: Run) -> int:
    """A token each second."""
    for _ in range(5):
        await run.token("x")
        await trio.sleep(1)
    return run.attempt


async def wait(run: Run) -> str:
    """People have longer than any outage here."""
    return (await run.approve("go on?", expires=86_400)).decision


async def wait_for_ever(run: Run) -> str:
    """Or as long as they like."""
    return (await run.approve("go on?", expires=None)).decision


async def hurry(run: Run) -> str:
    """Their time is over while the log is away."""
    return (await run.approve("go on?", expires=20)).decision


async def end(run: Run) -> int:
    """Returns while the log is away."""
    await trio.sleep(2)
    return run.attempt


class World:
    """A log, and what the apps of its processes did."""

    def __init__(self) -> None:
        self.log = MemoryBackend()
        self.till = Till(1.8, approval="never", idempotent=True)
        self.paid: list[str] = []

    def _pay(self) -> Workflow:
        """A step that takes a while."""

        async def slow(key: str) -> str:
            await trio.sleep(1.8)
            self.paid.append(key)
            return "paid"

        async def pay(run: Run) -> str:
            return str(await run.step("pay", slow))

        return Workflow("pay", pay)

    @asynccontextmanager
    async def open(self, upstream: Any = None) -> AsyncIterator[ConversationService]:
        """One process."""
        plain = (talk, wait, wait_for_ever, hurry, end)
        registry = app(self.till.tool, self._pay(), *(Workflow(one.__name__, one) for one in plain))
        async with process(self.log.process(), upstream or FakeUpstream(("a",)), registry=registry) as here:
            yield here

    async def away(self, seconds: float) -> None:
        """The outage."""
        self.log.available = False
        await trio.sleep(seconds)
        self.log.available = True


def completed(world: World, run: At, found: Generation, *, attempts: int) -> None:
    """It ended well, and no more attempts were made than had to be."""
    assert (found.status, found.error) == ("completed", None)
    assert found.attempt == attempts, kinds(world.log, run)
    reasons = [fields(event)["reason"] for event in events(world.log, run, "generation.interrupted")]
    assert reasons == ["store_unavailable"] * (attempts - 1)
    assert found.losses == 0


@pytest.mark.parametrize("away", AWAY)
@pytest.mark.parametrize(("workflow", "attempts"), [("talk", 2), ("pay", 2), ("end", 1), ("hurry", 1)])
async def test_a_workflow_that_writes_meanwhile(
    workflow: str, attempts: int, away: float, autojump_clock: MockClock
) -> None:
    """It is interrupted where what it wrote cannot be known to stand, and its end alone is waited for."""
    world = World()
    async with world.open() as here:
        run = await play(here, workflow=workflow)
        await trio.sleep(1.5)
        await world.away(away)
        found = await ended(here, run)
        await trio.sleep(2)
        assert here.supervisor.orphans == {}
        assert here.supervisor.runs == {}
    completed(world, run, found, attempts=attempts)
    if workflow == "pay":
        assert found.result == "paid"
        assert len(set(world.paid)) == 1, "the same key both times"


@pytest.mark.parametrize("away", AWAY)
@pytest.mark.parametrize("workflow", ["wait", "wait_for_ever"])
async def test_one_that_waits_for_people(workflow: str, away: float, autojump_clock: MockClock) -> None:
    """It does not notice, though the clock of the database is what tells how much time they have left."""
    world = World()
    async with world.open() as here:
        run = await play(here, workflow=workflow)
        await trio.sleep(1)
        await world.away(away)
        await decide(here, run, "approved")
        completed(world, run, await ended(here, run), attempts=1)


async def test_one_that_looks_at_its_conversation(autojump_clock: MockClock) -> None:
    """It only reads: it waits for the log, also where no other attempt may follow."""

    async def look(run: Run) -> int:
        await trio.sleep(2)
        return len(await run.context())

    log = MemoryBackend()
    async with process(log.process(), registry=app(Workflow("look", look, on_crash="fail"))) as here:
        run = await play(here, workflow="look")
        await trio.sleep(1)
        log.available = False
        await trio.sleep(100)
        log.available = True
        found = await ended(here, run)
    assert (found.status, found.error, found.attempt) == ("completed", None, 1)


@pytest.mark.parametrize("away", AWAY)
async def test_a_queue(away: float, autojump_clock: MockClock) -> None:
    """The first is interrupted, the plain answers behind it keep their places, and were not asked for yet."""
    world, upstream = World(), FakeUpstream(("a",))
    async with world.open(upstream) as here:
        first = await play(here, workflow="talk")
        behind = [await play(here, first[0], model="fake", if_running="queue") for _ in range(2)]
        await trio.sleep(1.5)
        await world.away(away)
        for run in behind:
            found = await ended(here, run)
            assert (found.status, found.attempt, found.text) == ("completed", 1, "a")
        completed(world, first, await snapshot(here, first), attempts=2)
    assert upstream.opened == 2


@pytest.mark.parametrize("away", AWAY)
async def test_one_whose_turn_comes_meanwhile(away: float, autojump_clock: MockClock) -> None:
    """A plain answer that had not begun: it asks when the log is back, and nothing of it is lost."""
    world, upstream = World(), FakeUpstream(("a",))
    async with world.open(upstream) as here:
        world.log.available = False
        with pytest.raises((Problem, StoreUnavailable)):
            await play(here, model="fake")
        world.log.available = True
        run = await play(here, model="fake")
        world.log.available = False
        await trio.sleep(away)
        world.log.available = True
        found = await ended(here, run)
    assert (found.status, found.text, upstream.opened) == ("completed", "a", 1)


@pytest.mark.parametrize("away", AWAY)
@pytest.mark.parametrize("state", ["asking", "speaking", "tool", "client tool", "approval"])
async def test_a_model_with_tools(state: str, away: float, autojump_clock: MockClock) -> None:
    """Cut off while it is asked or speaks, it is asked anew; what its calls came to is not lost."""
    world = World()
    agent: FakeUpstream = wants(ORDER)
    tools: tuple[Any, ...] = ("refund",)
    if state in ("asking", "speaking"):
        agent = FakeUpstream(("a",), 2.0, ("b",), opening=2.0 if state == "asking" else 0.0)
    elif state == "approval":
        world.till = Till(approval="always", expires=86_400)
    elif state == "client tool":
        agent, tools = wants(("ship", "{}")), (SHIP,)
    async with world.open(agent) as here:
        run = await play(here, model="fake", tools=tools)
        await trio.sleep(1.5)
        await world.away(away)
        if state == "approval":
            await decide(here, run, "approved")
        if state == "client tool" and away < 3600:
            await finish(here, run, {"result": "shipped"})
        found = await ended(here, run)
    completed(world, run, found, attempts=2 if state in ("asking", "speaking", "tool") else 1)
    assert found.text == ("ab" if state in ("asking", "speaking") else "so done")
    assert set(world.till.done) == (set() if state in ("asking", "speaking", "client tool") else {7})


@pytest.mark.parametrize("away", AWAY)
@pytest.mark.parametrize("workflow", ["talk", "wait_for_ever", "pay"])
async def test_one_that_is_cancelled_meanwhile(workflow: str, away: float, autojump_clock: MockClock) -> None:
    """Whoever asks for that is told that it may not have been done, and asks again."""
    world = World()
    async with world.open() as here:
        run = await play(here, workflow=workflow)
        await trio.sleep(1.5)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.away, away)
            await trio.sleep(0.1)
            with pytest.raises((Problem, StoreUnavailable)):
                await cancel(here, *run)
        assert await cancel(here, *run)
        await trio.sleep(100)
        assert here.supervisor.runs == {}
        assert here.supervisor.orphans == {}
    assert the_end(of(world.log, *run)).type == "generation.cancelled"


@pytest.mark.parametrize("away", AWAY)
async def test_a_plain_answer_that_was_being_written(away: float, autojump_clock: MockClock) -> None:
    """Its upstream's words came while nobody could keep them: it fails, once, and may be asked for again."""
    world, upstream = World(), FakeUpstream(("a",), 2.0, ("b",), 2.0, ("c",))
    async with world.open(upstream) as here:
        run = await play(here, model="fake")
        await trio.sleep(1)
        await world.away(away)
        found = await ended(here, run)
    assert found.error is not None
    assert (found.error["code"], found.retryable, found.attempt) == ("store_unavailable", True, 1)
    assert (upstream.opened, upstream.open_now) == (1, 0)


async def test_every_state_at_once(autojump_clock: MockClock) -> None:
    """Ten minutes, and one process for all of them."""
    world, upstream = World(), FakeUpstream(("a",), 2.0, ("b",))
    async with world.open(upstream) as here:
        talking, *busy = [await play(here, workflow=name) for name in ("talk", "pay", "end", "hurry")]
        people = [await play(here, workflow=name) for name in ("wait", "wait_for_ever")]
        models = [
            await play(here, model="fake", tools=("refund",)),
            await play(here, talking[0], model="fake", if_running="queue"),
            await play(here, model="fake", on_crash="restart"),
        ]
        plain = await play(here, model="fake")
        await trio.sleep(1.5)
        await world.away(600)
        for run in people:
            await decide(here, run, "approved")
        for run in (talking, *busy, *people, *models):
            found = await ended(here, run)
            assert (found.status, found.losses, found.attempt < 3) == ("completed", 0, True)
        assert (await ended(here, plain)).status == "failed"
        await trio.sleep(2)
        assert here.supervisor.orphans == {}


async def test_one_outage_after_the_other(autojump_clock: MockClock) -> None:
    """Twenty of them: none counts as a loss."""
    world = World()
    async with world.open() as here:
        run = await play(here, workflow="talk")
        for _ in range(20):
            await trio.sleep(0.2)
            await world.away(40)
        found = await ended(here, run)
    assert found.status == "completed"
    assert found.losses == 0
    assert found.attempt > 5


async def test_a_process_that_is_stopped_while_the_log_is_away(autojump_clock: MockClock) -> None:
    """What it could not write, another process goes on with."""
    world = World()
    async with world.open() as here:
        runs = [await play(here, workflow=name) for name in ("talk", "pay", "wait_for_ever")]
        await trio.sleep(1.5)
        world.log.available = False
        await trio.sleep(100)
        await here.supervisor.finish(0)
        assert here.supervisor.runs == {}
    world.log.available = True
    async with world.open() as there:
        await trio.sleep(60)
        await decide(there, runs[2], "approved")
        for run in runs:
            assert (await ended(there, run)).status == "completed"


@pytest.mark.parametrize("times", [1, MOST_ATTEMPTS - 1, 100])
async def test_a_fault_of_ours(times: int, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that may be gone on with is gone on with, after a pause; one that always fails so is ended."""
    left = times

    async def broken(attempt: Attempt, writer: FencedWriter, worker: str, resources: RunResources) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            await run_attempt(attempt, writer, worker, resources)
            return
        if not attempt.begun:
            await writer.write([started_event(attempt.generation, attempt.number, worker)])
            attempt.begun = True
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("server.generations.supervisor.run_attempt", broken)
    world = World()
    async with world.open() as here:
        run = await play(here, workflow="end")
        found = await ended(here, run)
    if times < MOST_ATTEMPTS:
        assert (found.status, found.attempt) == ("completed", times + 1)
    else:
        assert found.error is not None
        assert (found.error["code"], found.attempt) == ("internal_error", MOST_ATTEMPTS)
