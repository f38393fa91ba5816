"""What a workflow has through its `Run`: models, the conversation, and parameters that clients steer."""

from typing import Any

import pytest
import trio
from pydantic import BaseModel, Field
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.generations.run_context import Run
from server.providers import UpstreamError
from server.workflows import Workflow
from tests.generations.fake_agent import FakeAgent, Say
from tests.generations.fake_upstream import FakeUpstream
from tests.generations.run_owner import fields, the_end

from .run_commands import cause, ended, outcome, play, snapshot, started, steer
from .runtime_process import app, of, process, say


async def test_generate(autojump_clock: MockClock) -> None:
    agent = FakeAgent(Say((("a", "b"), 1.0, ("c",))))

    async def work(run: Run) -> list[Any]:
        said = [
            await run.generate("fake", "hi"),
            await run.generate("fake", [{"role": "system", "content": "be kind"}], parameters={"t": 1}),
            await run.generate("fake"),
            await run.generate("fake", await run.context()),
        ]
        assert said[0].usage == {"input_tokens": 1, "output_tokens": 2}
        return [one.text for one in said]

    log = MemoryBackend()
    async with process(log.process(), agent, registry=app(Workflow("w", work))) as here:
        run = await play(here, said="hello")
        await ended(here, run)
        assert (await snapshot(here, run)).result == ["abc"] * 4
    told = [[(one.role, one.content) for one in prompt.messages] for prompt in agent.asked]
    assert told == [[("user", "hi")], [("system", "be kind")], [("user", "hello")], [("user", "hello")]]
    assert agent.asked[1].parameters == {"t": 1}
    assert fields(the_end(of(log, *run)))["usage"] == {"input_tokens": 4, "output_tokens": 8}


async def test_generate_is_not_repeated_by_the_next_attempt(autojump_clock: MockClock) -> None:
    """The next attempt writes its text again, and its usage counts once."""
    agent = FakeAgent(Say((("a", "b"),)))

    async def work(run: Run) -> str:
        said = (await run.generate("fake", "hi")).text
        if run.attempt == 1:
            await trio.sleep_forever()
        return said + (await run.generate("fake", "and?")).text

    log = MemoryBackend()
    registry = app(Workflow("w", work))
    async with process(log.process(), agent, registry=registry):
        async with process(log.process(), agent, registry=registry) as lost:
            run = await play(lost)
            await started(lost, run, text="ab")
            await trio.sleep(1)
        async with process(log.process(), agent, registry=registry) as here:
            await ended(here, run)
            found = await snapshot(here, run)
    assert len(agent.asked) == 2
    assert (found.result, found.text) == ("abab", "abab")
    assert found.usage == {"input_tokens": 2, "output_tokens": 4}


@pytest.mark.parametrize(
    ("model", "more", "told"),
    [
        ("nobody/x", {}, "nobody/x"),
        ("fake", {"parameters": {"bad": 1}}, "parameters.bad"),
        ("fake", {"tools": ["nothing"]}, "there is no tool 'nothing'"),
    ],
)
async def test_generate_with_an_unknown_model_or_parameter_fails(
    model: str, more: dict[str, Any], told: str, lines: list[dict[str, Any]], autojump_clock: MockClock
) -> None:
    async def work(run: Run) -> None:
        await run.generate(model, "hi", **more)

    error = (await outcome(work))["error"]
    assert error["code"] in ("workflow_failed", "invalid_parameters")
    assert told in (cause(lines) if "reference" in error else error["message"])


async def test_workflow_can_catch_an_upstream_error(autojump_clock: MockClock) -> None:
    async def work(run: Run) -> str:
        with pytest.raises(UpstreamError):
            await run.generate("fake", "hi")
        return "without it"

    log, upstream = MemoryBackend(), FakeUpstream(("a",), UpstreamError("upstream_cut", "cut"))
    async with process(log.process(), upstream, registry=app(Workflow("w", work))) as here:
        run = await play(here)
        await ended(here, run)
        assert (await snapshot(here, run)).result == "without it"


class SteeringParameters(BaseModel):
    strictness: int = Field(5, ge=0, le=10)


async def test_steering_takes_effect_at_the_next_token(autojump_clock: MockClock) -> None:
    """From the position at which readers see it; the next attempt starts with it, too."""

    async def work(run: Run) -> None:
        for _ in range(4):
            await run.token(f"{run.steering.strictness} ")
            await trio.sleep(1)
        if run.attempt == 1:
            await trio.sleep_forever()

    log = MemoryBackend()
    registry = app(Workflow("w", work, steering=SteeringParameters))
    async with process(log.process()) as other:
        async with process(log.process(), registry=registry) as lost:
            run = await play(lost)
            await started(lost, run, text="5 5 ")
            await steer(lost, run, "strictness", 9)
            found = await started(lost, run, text="5 5 5 9 ")
            assert found.steering == {"strictness": 9}
        async with process(log.process(), registry=registry) as here:
            await ended(here, run)
        assert (await snapshot(other, run)).text == "9 9 9 9 "


async def test_context_holds_messages_posted_during_the_run(autojump_clock: MockClock) -> None:
    async def work(run: Run) -> list[list[str]]:
        seen = []
        for _ in range(3):
            await run.token("x")
            seen.append([turn.text for turn in await run.context()])
            await trio.sleep(1)
        return seen

    log = MemoryBackend()
    async with process(log.process(), registry=app(Workflow("w", work))) as here, process(log.process()) as there:
        run = await play(here, said="hello")
        await trio.sleep(0.5)
        await say(there, run[0], "wait")
        await trio.sleep(1)
        await say(here, run[0], "what?")
        await ended(here, run)
        found = await snapshot(here, run)
    assert found.result == [["hello"], ["hello", "wait"], ["hello", "wait", "what?"]]


async def test_undeclared_steering_raises(autojump_clock: MockClock) -> None:
    async def work(run: Run) -> Any:
        return run.steering

    assert "usage" in await outcome(work)
