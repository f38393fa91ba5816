"""Commands to a running generation: steering, decisions and client results, through any process and as the run
ends.
"""

from collections.abc import Sequence

import pytest
import trio
from pydantic import BaseModel, Field
from trio.testing import MockClock

from eventstore import Append, Appended, Fenced, StoreError
from eventstore.backend import Outcome
from eventstore.memory_backend import MemoryBackend
from server.generations.run_context import Run
from server.ids import new_id
from server.problem import Problem
from server.runtime.conversation_service import ConversationService
from server.workflows import Workflow, tool
from tests.generations.fake_agent import FakeAgent, Say
from tests.generations.run_owner import fields
from tests.generations.unreliable_logs import Forgetful, Slow, Wrapped

from .run_commands import calls, decide, ended, events, finish, kinds, play, started, steer
from .runtime_process import app, cancel, key, process, refused


class SteeringParameters(BaseModel):
    strictness: int = Field(5, ge=0, le=10)


async def _grade(run: Run) -> int:
    for _ in range(100):
        await run.token(".")
        await trio.sleep(0.5)
    value: int = run.steering.strictness
    return value


GRADE = app(Workflow("w", _grade, steering=SteeringParameters))


async def test_steering_through_any_process_has_one_order(autojump_clock: MockClock) -> None:
    """Also through a process that has loaded the workflow and does not run it; each change has its position."""
    log = MemoryBackend()
    async with process(log.process(), registry=GRADE) as here, process(log.process(), registry=GRADE) as there:
        run = await play(here)
        places = [(await steer((here, there)[n % 2], run, "strictness", n)).last for n in range(8)]
        assert places == sorted(places)
        for place, event in zip(places, events(log, run, "steering.changed"), strict=True):
            assert event.position == place
        found = await ended(there, run)
    assert (found.result, found.steering) == (7, {"strictness": 7})


async def test_invalid_steering_is_refused(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with process(log.process(), registry=GRADE) as here, process(log.process()) as bare:
        run = await play(here)
        for runtime, name, value, code in [
            (here, "strictness", 11, "invalid_value"),
            (here, "speed", 1, "unknown_parameter"),
            (bare, "strictness", 1, "not_steerable"),
        ]:
            with pytest.raises(Problem) as caught:
                await steer(runtime, run, name, value)
            assert refused(caught) == (422, code)
        with pytest.raises(Problem) as caught:
            await steer(here, (run[0], new_id("gen")), "strictness", 1)
        assert refused(caught) == (404, "not_found")
        with pytest.raises(Problem) as caught:
            await steer(here, (new_id("conv"), run[1]), "strictness", 1)
        assert refused(caught) == (404, "not_found")
        await cancel(here, *run)
        with pytest.raises(Problem) as caught:
            await steer(here, run, "strictness", 1)
        assert refused(caught) == (409, "generation_ended")
    assert events(log, run, "steering.changed") == []


@pytest.mark.parametrize("delay", [number / 8 for number in range(16)])
async def test_steering_with_one_key_acts_once(delay: float, autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    every = ("append", "read", "find_key")
    async with (
        process(Slow(log.process(), 0.5, only=every), registry=GRADE) as here,
        process(Slow(log.process(), 0.5, only=every), registry=GRADE) as there,
    ):
        run = await play(here)
        answers: list[Appended] = []

        async def attempt(runtime: ConversationService, pause: float) -> None:
            await trio.sleep(pause)
            answers.append(await steer(runtime, run, "strictness", 3, key("k")))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(attempt, here, 0.0)
            nursery.start_soon(attempt, there, delay)
        assert len({one.last for one in answers}) == 1
        with pytest.raises(Problem) as caught:
            await steer(there, run, "strictness", 4, key("k", b"other"))
        assert refused(caught) == (422, "key_reused")
        await cancel(here, *run)
        # What was answered once is answered so again, though the run is over.
        assert (await steer(there, run, "strictness", 3, key("k"))).last == answers[0].last
    assert len(events(log, run, "steering.changed")) == 1


async def test_command_with_a_lost_answer_acts_once(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    view = Forgetful(log.process())
    async with process(log.process(), registry=GRADE) as here, process(view, registry=GRADE) as there:
        run = await play(here)
        for name in (None, key("k")):
            view.losing = 2
            await steer(there, run, "strictness", 3, name)
    assert len(events(log, run, "steering.changed")) == 2


async def test_steering_never_lands_after_the_end_of_the_run(autojump_clock: MockClock) -> None:
    """Sent at any moment around the end: the change is accepted before it, or refused."""

    async def short(run: Run) -> None:
        await trio.sleep(2)

    for moment in range(16):
        log, registry = MemoryBackend(), app(Workflow("w", short, steering=SteeringParameters))
        async with (
            process(Slow(log.process(), 1.0), registry=registry) as here,
            process(Slow(log.process(), 1.0, only=("append", "read")), registry=registry) as there,
        ):
            run = await play(here)
            await trio.sleep(moment / 4)
            try:
                await steer(there, run, "strictness", 1)
            except Problem as problem:
                code = problem.code
            else:
                code = ""
            await ended(here, run)
        assert code in ("", "generation_ended")
        assert kinds(log, run)[-1] == "generation.completed"
        assert len(events(log, run, "steering.changed")) == (not code)


async def test_client_can_only_finish_its_own_calls(autojump_clock: MockClock) -> None:
    @tool(approval="never")
    async def slow() -> None:
        """Takes its time."""
        await trio.sleep(50)

    log, agent = MemoryBackend(), FakeAgent(Say((("so ",),), [("slow", "{}")]), Say())
    async with process(log.process(), agent, registry=app(slow)) as here:
        run = await play(here, model="fake", tools=("slow",))
        await trio.sleep(10)
        for name, code in ((calls(log, run)[0].call, "not_started"), (new_id("call"), "not_found")):
            with pytest.raises(Problem) as caught:
                await finish(here, run, {"result": 1}, call=name)
            assert caught.value.code == code
        await ended(here, run)
    assert fields(events(log, run, "tool.finished")[0]) == {"call": calls(log, run)[0].call, "result": None}


async def test_modified_arguments_of_a_question_have_no_schema(autojump_clock: MockClock) -> None:
    """Not even where a tool has the same name as the workflow's question."""

    @tool
    async def refund(order: int) -> None:
        """Gives money back."""

    async def work(run: Run) -> object:
        return dict((await run.approve("refund", {"order": 7})).arguments)

    log = MemoryBackend()
    async with process(log.process(), registry=app(refund, Workflow("w", work))) as here:
        run = await play(here)
        await started(here, run, waiting=1)
        await decide(here, run, "modified", {"note": ["anything"]})
        assert (await ended(here, run)).result == {"note": ["anything"]}


async def test_each_question_gets_its_own_decision(autojump_clock: MockClock) -> None:
    """Two people decide through two processes on many questions at once."""

    async def work(run: Run) -> dict[str, str]:
        answers: dict[str, str] = {}

        async def one(n: int) -> None:
            answers[f"{n}"] = (await run.approve("q", {"n": n})).decision

        async with trio.open_nursery() as nursery:
            for n in range(20):
                nursery.start_soon(one, n)
        return answers

    log, registry = MemoryBackend(), app(Workflow("w", work))
    async with process(log.process(), registry=registry) as here, process(log.process()) as there:
        run = await play(here)
        await started(here, run, waiting=20)
        async with trio.open_nursery() as nursery:
            for number, call in enumerate(calls(log, run)):
                how = "approved" if call.arguments["n"] % 3 else "rejected"

                async def one(runtime: ConversationService, how: str, name: str) -> None:
                    await decide(runtime, run, how, call=name)

                nursery.start_soon(one, (here, there)[number % 2], how, call.call)
        found = await ended(there, run)
    assert found.result == {f"{n}": "approved" if n % 3 else "rejected" for n in range(20)}


class AlwaysConflicting(Wrapped):
    """A log that refuses every append to a run with a conflict, as if another writer were always first."""

    async def append(self, batch: Sequence[Append]) -> Sequence[Outcome | StoreError]:
        if any(append.during is not None for append in batch):
            return [Fenced(append.stream, append.during or "", "closed") for append in batch]
        return await super().append(batch)


async def test_command_gives_up_after_endless_conflicts(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    async with (
        process(log.process(), registry=GRADE) as here,
        process(AlwaysConflicting(log.process()), registry=GRADE) as odd,
    ):
        run = await play(here)
        with pytest.raises(Problem) as caught:
            await steer(odd, run, "strictness", 1)
        assert refused(caught) == (503, "unavailable")
        assert caught.value.retry_after
