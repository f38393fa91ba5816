"""The agent loop: several turns of a model that calls tools, its limits, and restarts at any moment."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.generations import agent_loop as module
from server.providers import UpstreamError
from server.workflows import tool
from tests.generations.fake_agent import FakeAgent, Say
from tests.generations.run_owner import fields, the_end
from tests.generations.unreliable_logs import Slow

from .run_commands import decide, ended, events, kinds, play, snapshot, started
from .runtime_process import app, of, process, say


@tool(approval="never")
async def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


@tool
async def sure() -> str:
    """Makes sure."""
    return "yes"


REGISTRY = app(add, sure)
TOOLS = ("add", "sure")


def adding(a: int, b: int) -> tuple[str, str]:
    """A call."""
    return "add", f'{{"a": {a}, "b": {b}}}'


THREE = (
    Say((("one ",),), [adding(1, 1), adding(2, 2)]),
    Say((("two ", "and "),), [adding(3, 3)]),
    Say((("three",),)),
)


async def test_each_turn_gets_everything_before_it(autojump_clock: MockClock) -> None:
    """The prompt of each turn holds all earlier text, calls and results."""
    log, agent = MemoryBackend(), FakeAgent(*THREE)
    async with process(log.process(), agent, registry=REGISTRY) as here:
        run = await play(here, model="fake", tools=TOOLS, said="hi", temperature=0)
        found = await ended(here, run)
    assert found.text == "one two and three"
    assert found.usage == {"input_tokens": 3, "output_tokens": 6}
    told = [[(one.role, one.content) for one in prompt.messages] for prompt in agent.asked]
    first = [("user", "hi")]
    second = [*first, ("assistant", "one "), ("tool", "2"), ("tool", "4")]
    assert told == [first, second, [*second, ("assistant", "two and "), ("tool", "6")]]
    assert all(prompt.parameters == {"temperature": 0} for prompt in agent.asked)
    assert all([spec.name for spec in prompt.tools] == ["add", "sure"] for prompt in agent.asked)
    steps = [fields(event)["step"] for event in events(log, run, "step.finished")]
    assert steps == ["answer/1", "answer/2", "answer/3"]
    assert [call.step for call in found.tool_calls] == ["answer/1", "answer/1", "answer/2"]


async def test_step_end_and_its_calls_are_one_append(autojump_clock: MockClock) -> None:
    """Were they two appends, a process dying between them would lose the calls, or pay for the turn twice."""
    log, agent = MemoryBackend(), FakeAgent(*THREE)
    async with process(log.process(), agent, registry=REGISTRY) as here:
        run = await play(here, model="fake", tools=TOOLS)
        await ended(here, run)
    (step, *_), (proposal, second, *_) = events(log, run, "step.finished"), events(log, run, "tool.proposed")
    assert (proposal.position, second.position) == (step.position + 1, step.position + 2)
    assert step.at == proposal.at == second.at


@pytest.mark.parametrize("moment", [number / 4 + 0.1 for number in range(44)])
async def test_restart_at_any_moment_gives_the_same_result(moment: float, autojump_clock: MockClock) -> None:
    """Whatever stage the process dies in, the result is the same, and no finished turn is requested again."""
    slow = [Say((1.0, *say.steps), say.calls) for say in THREE]
    log, agent = MemoryBackend(), FakeAgent(*slow)
    async with process(log.process(), agent, registry=REGISTRY):
        async with process(Slow(log.process(), 0.5), agent, registry=REGISTRY) as lost:
            run = await play(lost, model="fake", tools=TOOLS, said="hi")
            await trio.sleep(moment)
            paid = len(events(log, run, "step.finished"))
            asked = len(agent.asked)
        async with process(log.process(), agent, registry=REGISTRY) as here:
            found = await ended(here, run)
    assert (found.status, found.text) == ("completed", "one two and three")
    outcomes = [call.result if call.error is None else call.error["code"] for call in found.tool_calls]
    assert len(outcomes) == 3
    for outcome, sum_ in zip(outcomes, (2, 4, 6), strict=True):
        assert outcome in (sum_, "outcome_unknown")
    assert len(agent.asked) - asked <= 3 - paid
    assert kinds(log, run).count("step.finished") == 3
    assert found.usage == {"input_tokens": 3, "output_tokens": 6}


async def test_restart_while_a_call_waits_for_approval(autojump_clock: MockClock) -> None:
    """The process dies in the first and in the second turn; the text already paid for is written again, once."""
    agent = FakeAgent(Say((("one ",),), [("sure", "{}")]), Say((("two ",),), [("sure", "{}")]), Say((("three",),)))
    log = MemoryBackend()
    async with process(log.process()) as other:
        for attempt, text in ((1, "one "), (2, "one two ")):
            async with process(log.process(), agent, registry=REGISTRY) as lost:
                if attempt == 1:
                    run = await play(lost, model="fake", tools=TOOLS)
                await started(lost, run, text="one ", waiting=1, attempt=attempt)
                if attempt == 2:
                    await decide(other, run, "approved")
                    await started(lost, run, text=text, waiting=1, attempt=attempt)
        async with process(log.process(), agent, registry=REGISTRY) as here:
            await started(here, run, text="one two ", waiting=1, attempt=3)
            await decide(here, run, "approved")
            found = await ended(here, run)
    assert found.text == "one two three"
    assert (len(agent.asked), found.attempt) == (3, 3)


async def test_prompt_ignores_messages_posted_after_the_request(autojump_clock: MockClock) -> None:
    """The prompt of a turn holds the conversation up to the request and the earlier turns, and
    no later message."""
    agent = FakeAgent(Say((("one ",),), [("sure", "{}")]), Say((("two",),)))
    log = MemoryBackend()
    async with process(log.process(), agent, registry=REGISTRY) as here:
        run = await play(here, model="fake", tools=TOOLS, said="hi")
        await started(here, run, text="one ", waiting=1)
        await say(here, run[0], "meanwhile")
        await decide(here, run, "approved")
        await ended(here, run)
    assert [one.content for one in agent.asked[1].messages] == ["hi", "one ", "yes"]


async def test_run_fails_after_max_rounds(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ROUNDS", 3)
    log, agent = MemoryBackend(), FakeAgent(Say((("again ",),), [adding(1, 1)]))
    async with process(log.process(), agent, registry=REGISTRY) as here:
        run = await play(here, model="fake", tools=TOOLS)
        found = await ended(here, run)
    assert len(agent.asked) == 3
    assert found.error is not None
    assert found.error["code"] == "too_many_turns"
    assert found.retryable is False
    assert found.text == "again again again "


async def test_run_fails_above_max_calls_in_one_answer(autojump_clock: MockClock) -> None:
    """MAX_CALLS calls in one answer run; one more, and none is even proposed."""
    for count, code in ((module.MAX_CALLS, None), (module.MAX_CALLS + 1, "too_many_calls")):
        log, agent = (
            MemoryBackend(),
            FakeAgent(Say((("x",),), [adding(n, n) for n in range(count)]), Say((("y",),))),
        )
        async with process(log.process(), agent, registry=REGISTRY) as here:
            run = await play(here, model="fake", tools=TOOLS)
            found = await ended(here, run)
        assert (found.error or {}).get("code") == code
        assert len(found.tool_calls) == (count if code is None else 0)


async def test_upstream_error_in_a_later_turn_keeps_the_text(autojump_clock: MockClock) -> None:
    broken = Say((("two",), UpstreamError("upstream_cut", "cut")))
    log, agent = MemoryBackend(), FakeAgent(THREE[0], broken)
    async with process(log.process(), agent, registry=REGISTRY) as here:
        run = await play(here, model="fake", tools=TOOLS)
        found = await ended(here, run)
        assert here.supervisor.metrics.failures.counts["fake", "upstream_cut"] == 1
    assert fields(the_end(of(log, *run)))["error"]["code"] == "upstream_cut"
    assert found.text == "one two"


async def test_run_ends_quietly_when_fenced_during_two_tool_calls(autojump_clock: MockClock) -> None:
    """Both tool tasks find out at once that another process has taken the run over: no error is logged twice."""
    log = MemoryBackend()
    agent = FakeAgent(Say((("so ",),), [("slow", "{}"), ("slow", "{}")]), Say((("done",),)))

    @tool(approval="never", idempotent=True)
    async def slow() -> None:
        """Takes its time."""
        await trio.sleep(20)

    registry = app(slow)
    async with process(log.process(), agent, registry=registry) as old_process:
        run = await play(old_process, model="fake", tools=("slow",))
        await started(old_process, run, text="so ")
        hear = log.living.pop(old_process.store.owner)
        async with process(log.process(), agent, registry=registry) as here:
            found = await ended(here, run)
        log.living[old_process.store.owner] = hear
        assert old_process.supervisor.runs == {}
        assert old_process.supervisor.metrics.failures.counts["fake", "internal_error"] == 0
    assert (found.status, found.attempt, found.text) == ("completed", 2, "so done")


async def test_answer_without_calls_is_one_turn(autojump_clock: MockClock) -> None:
    """An answer without tool calls is one turn, requested from the model once."""
    log, agent = MemoryBackend(), FakeAgent(Say((("hi", " there"),)))
    async with process(log.process(), agent, registry=REGISTRY) as here:
        run = await play(here, model="fake", tools=TOOLS)
        found: Any = await ended(here, run)
        assert (await snapshot(here, run)) == found
    assert kinds(log, run)[1:] == ["generation.started", "token", "token", "step.finished", "generation.completed"]
    assert found.tool_calls == ()
