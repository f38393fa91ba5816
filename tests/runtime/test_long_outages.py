"""Outages of the database of half a minute to an hour, in every state that a run can be in.

A run that may have another attempt is interrupted at most, and completes. Only a plain answer whose upstream was
cut off by the outage has to fail.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from eventstore import StoreUnavailable
from eventstore.memory_backend import MemoryBackend
from server.conversations.conversation_state import MAX_ATTEMPTS, Generation
from server.event_types import generation_started as started_event
from server.generations.executors import Attempt, run_attempt
from server.generations.run.run_log import FencedWriter
from server.generations.run_context import Run, RunResources
from server.problem import Problem
from server.runtime.conversation_service import ConversationService
from server.workflows import Workflow
from tests.generations.fake_upstream import FakeUpstream
from tests.generations.run_owner import fields, the_end

from .run_commands import At, decide, ended, events, finish, kinds, play, snapshot
from .runtime_process import app, cancel, of, process
from .tool_examples import ORDER, SHIP, RefundTool, wants

LONG = [pytest.param(600.0, marks=pytest.mark.soak), pytest.param(3600.0, marks=pytest.mark.soak)]
"""Virtual seconds cost real ones, for who waits asks twice a second.
`test_ten_minutes_with_runs_in_every_state` is the short
way."""
AWAY = [31.0, *LONG]


async def talk(run: Run) -> int:
    """Writes a token each second."""
    for _ in range(5):
        await run.token("x")
        await trio.sleep(1)
    return run.attempt


async def wait(run: Run) -> str:
    """Waits for a person, longer than any outage here."""
    return (await run.approve("go on?", expires=86_400)).decision


async def wait_for_ever(run: Run) -> str:
    """Waits for a person without a time limit."""
    return (await run.approve("go on?", expires=None)).decision


async def hurry(run: Run) -> str:
    """Waits for a person whose time is over during the outage."""
    return (await run.approve("go on?", expires=20)).decision


async def end(run: Run) -> int:
    """Returns during the outage."""
    await trio.sleep(2)
    return run.attempt


class OutageScenario:
    """A log, and what the apps of its processes did."""

    def __init__(self) -> None:
        self.log = MemoryBackend()
        self.till = RefundTool(1.8, approval="never", idempotent=True)
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


def assert_completed(scenario: OutageScenario, run: At, found: Generation, *, attempts: int) -> None:
    """Checks that the run completed with no more attempts than needed."""
    assert (found.status, found.error) == ("completed", None)
    assert found.attempt == attempts, kinds(scenario.log, run)
    reasons = [fields(event)["reason"] for event in events(scenario.log, run, "generation.interrupted")]
    assert reasons == ["store_unavailable"] * (attempts - 1)
    assert found.losses == 0


@pytest.mark.parametrize("away", AWAY)
@pytest.mark.parametrize(("workflow", "attempts"), [("talk", 2), ("pay", 2), ("end", 1), ("hurry", 1)])
async def test_writing_workflow_is_interrupted_and_completes(
    workflow: str, attempts: int, away: float, autojump_clock: MockClock
) -> None:
    """It is interrupted where its write may or may not stand; its end alone is waited for."""
    scenario = OutageScenario()
    async with scenario.open() as here:
        run = await play(here, workflow=workflow)
        await trio.sleep(1.5)
        await scenario.away(away)
        found = await ended(here, run)
        await trio.sleep(2)
        assert here.supervisor.orphans == {}
        assert here.supervisor.runs == {}
    assert_completed(scenario, run, found, attempts=attempts)
    if workflow == "pay":
        assert found.result == "paid"
        assert len(set(scenario.paid)) == 1, "the same key both times"


@pytest.mark.parametrize("away", AWAY)
@pytest.mark.parametrize("workflow", ["wait", "wait_for_ever"])
async def test_workflow_waiting_for_a_person_does_not_notice(
    workflow: str, away: float, autojump_clock: MockClock
) -> None:
    """Though the database's clock tells how much time the person has left."""
    scenario = OutageScenario()
    async with scenario.open() as here:
        run = await play(here, workflow=workflow)
        await trio.sleep(1)
        await scenario.away(away)
        await decide(here, run, "approved")
        assert_completed(scenario, run, await ended(here, run), attempts=1)


async def test_workflow_reading_its_context_waits(autojump_clock: MockClock) -> None:
    """It only reads, so it waits for the log, also where no other attempt may follow."""

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
async def test_queued_answers_keep_their_places(away: float, autojump_clock: MockClock) -> None:
    """The running workflow is interrupted.

    The plain answers behind it have not been requested from the model yet.
    """
    scenario, upstream = OutageScenario(), FakeUpstream(("a",))
    async with scenario.open(upstream) as here:
        first = await play(here, workflow="talk")
        behind = [await play(here, first[0], model="fake", if_running="queue") for _ in range(2)]
        await trio.sleep(1.5)
        await scenario.away(away)
        for run in behind:
            found = await ended(here, run)
            assert (found.status, found.attempt, found.text) == ("completed", 1, "a")
        assert_completed(scenario, first, await snapshot(here, first), attempts=2)
    assert upstream.opened == 2


@pytest.mark.parametrize("away", AWAY)
async def test_plain_answer_starts_after_the_outage(away: float, autojump_clock: MockClock) -> None:
    """An answer that had not begun asks its upstream when the log is back, and loses nothing."""
    scenario, upstream = OutageScenario(), FakeUpstream(("a",))
    async with scenario.open(upstream) as here:
        scenario.log.available = False
        with pytest.raises((Problem, StoreUnavailable)):
            await play(here, model="fake")
        scenario.log.available = True
        run = await play(here, model="fake")
        scenario.log.available = False
        await trio.sleep(away)
        scenario.log.available = True
        found = await ended(here, run)
    assert (found.status, found.text, upstream.opened) == ("completed", "a", 1)


@pytest.mark.parametrize("away", AWAY)
@pytest.mark.parametrize("state", ["asking", "speaking", "tool", "client tool", "approval"])
async def test_agent_asks_again_and_keeps_its_tool_results(
    state: str, away: float, autojump_clock: MockClock
) -> None:
    """Cut off while it is asked or streams, the model is asked anew; the results of its calls are not lost."""
    scenario = OutageScenario()
    agent: FakeUpstream = wants(ORDER)
    tools: tuple[Any, ...] = ("refund",)
    if state in ("asking", "speaking"):
        agent = FakeUpstream(("a",), 2.0, ("b",), opening=2.0 if state == "asking" else 0.0)
    elif state == "approval":
        scenario.till = RefundTool(approval="always", expires=86_400)
    elif state == "client tool":
        agent, tools = wants(("ship", "{}")), (SHIP,)
    async with scenario.open(agent) as here:
        run = await play(here, model="fake", tools=tools)
        await trio.sleep(1.5)
        await scenario.away(away)
        if state == "approval":
            await decide(here, run, "approved")
        if state == "client tool" and away < 3600:
            await finish(here, run, {"result": "shipped"})
        found = await ended(here, run)
    assert_completed(scenario, run, found, attempts=2 if state in ("asking", "speaking", "tool") else 1)
    assert found.text == ("ab" if state in ("asking", "speaking") else "so done")
    assert set(scenario.till.done) == (set() if state in ("asking", "speaking", "client tool") else {7})


@pytest.mark.parametrize("away", AWAY)
@pytest.mark.parametrize("workflow", ["talk", "wait_for_ever", "pay"])
async def test_cancel_during_the_outage_can_be_sent_again(
    workflow: str, away: float, autojump_clock: MockClock
) -> None:
    """The client is told that the cancellation may not have happened."""
    scenario = OutageScenario()
    async with scenario.open() as here:
        run = await play(here, workflow=workflow)
        await trio.sleep(1.5)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scenario.away, away)
            await trio.sleep(0.1)
            with pytest.raises((Problem, StoreUnavailable)):
                await cancel(here, *run)
        assert await cancel(here, *run)
        await trio.sleep(100)
        assert here.supervisor.runs == {}
        assert here.supervisor.orphans == {}
    assert the_end(of(scenario.log, *run)).type == "generation.cancelled"


@pytest.mark.parametrize("away", AWAY)
async def test_streaming_answer_fails_once(away: float, autojump_clock: MockClock) -> None:
    """Its upstream's tokens came while nobody could store them; the client may request it again."""
    scenario, upstream = OutageScenario(), FakeUpstream(("a",), 2.0, ("b",), 2.0, ("c",))
    async with scenario.open(upstream) as here:
        run = await play(here, model="fake")
        await trio.sleep(1)
        await scenario.away(away)
        found = await ended(here, run)
    assert found.error is not None
    assert (found.error["code"], found.retryable, found.attempt) == ("store_unavailable", True, 1)
    assert (upstream.opened, upstream.open_now) == (1, 0)


async def test_ten_minutes_with_runs_in_every_state(autojump_clock: MockClock) -> None:
    """One process has runs in every state, and the outage is ten minutes long."""
    scenario, upstream = OutageScenario(), FakeUpstream(("a",), 2.0, ("b",))
    async with scenario.open(upstream) as here:
        talking, *busy = [await play(here, workflow=name) for name in ("talk", "pay", "end", "hurry")]
        people = [await play(here, workflow=name) for name in ("wait", "wait_for_ever")]
        models = [
            await play(here, model="fake", tools=("refund",)),
            await play(here, talking[0], model="fake", if_running="queue"),
            await play(here, model="fake", on_crash="restart"),
        ]
        plain = await play(here, model="fake")
        await trio.sleep(1.5)
        await scenario.away(600)
        for run in people:
            await decide(here, run, "approved")
        for run in (talking, *busy, *people, *models):
            found = await ended(here, run)
            assert (found.status, found.losses, found.attempt < 3) == ("completed", 0, True)
        assert (await ended(here, plain)).status == "failed"
        await trio.sleep(2)
        assert here.supervisor.orphans == {}


async def test_twenty_outages_do_not_count_as_lost_workers(autojump_clock: MockClock) -> None:
    """None of them counts towards MAX_ATTEMPTS."""
    scenario = OutageScenario()
    async with scenario.open() as here:
        run = await play(here, workflow="talk")
        for _ in range(20):
            await trio.sleep(0.2)
            await scenario.away(40)
        found = await ended(here, run)
    assert found.status == "completed"
    assert found.losses == 0
    assert found.attempt > 5


async def test_process_stopped_during_the_outage_hands_over(autojump_clock: MockClock) -> None:
    """Another process goes on with what this one could not write."""
    scenario = OutageScenario()
    async with scenario.open() as here:
        runs = [await play(here, workflow=name) for name in ("talk", "pay", "wait_for_ever")]
        await trio.sleep(1.5)
        scenario.log.available = False
        await trio.sleep(100)
        await here.supervisor.finish(0)
        assert here.supervisor.runs == {}
    scenario.log.available = True
    async with scenario.open() as there:
        await trio.sleep(60)
        await decide(there, runs[2], "approved")
        for run in runs:
            assert (await ended(there, run)).status == "completed"


@pytest.mark.parametrize("times", [1, MAX_ATTEMPTS - 1, 100])
async def test_bug_in_the_server_is_retried_and_then_ends_the_run(
    times: int, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that may have another attempt gets one after a pause; one that always fails is ended."""
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
    scenario = OutageScenario()
    async with scenario.open() as here:
        run = await play(here, workflow="end")
        found = await ended(here, run)
    if times < MAX_ATTEMPTS:
        assert (found.status, found.attempt) == ("completed", times + 1)
    else:
        assert found.error is not None
        assert (found.error["code"], found.attempt) == ("internal_error", MAX_ATTEMPTS)
