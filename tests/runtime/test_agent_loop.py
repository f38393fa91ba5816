"""Turns of a model that calls tools: several of them, over restarts, and how many there may be."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.generations import agent_loop as module
from server.providers import UpstreamError
from server.workflows import tool
from tests.generations.fake_agent import FakeAgent, Say
from tests.generations.owning import fields, the_end
from tests.generations.wrapped_log import Slow

from .playing import decide, ended, events, kinds, play, snapshot, started
from .world import app, of, process, say


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


async def test_several_turns(autojump_clock: MockClock) -> None:
    """Each is told all that was said and done before it."""
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


async def test_a_turns_end_and_its_calls_are_one_append(autojump_clock: MockClock) -> None:
    """A process that dies cannot leave one without the other: the turn would be paid for twice, or calls lost."""
    log, agent = MemoryBackend(), FakeAgent(*THREE)
    async with process(log.process(), agent, registry=REGISTRY) as here:
        run = await play(here, model="fake", tools=TOOLS)
        await ended(here, run)
    (step, *_), (proposal, second, *_) = events(log, run, "step.finished"), events(log, run, "tool.proposed")
    assert (proposal.position, second.position) == (step.position + 1, step.position + 2)
    assert step.at == proposal.at == second.at


@pytest.mark.parametrize("moment", [number / 4 + 0.1 for number in range(44)])
async def test_restarted_at_any_moment(moment: float, autojump_clock: MockClock) -> None:
    """Every stage takes its time. What it comes to is the same, and no finished turn is asked for again."""
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


async def test_restarted_while_it_waits(autojump_clock: MockClock) -> None:
    """In the first turn and in the second; the text is said again, once."""
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


async def test_what_was_said_before_its_turn_counts_and_later_words_do_not(autojump_clock: MockClock) -> None:
    """The prompt of a turn is that of the request and of the turns before it."""
    agent = FakeAgent(Say((("one ",),), [("sure", "{}")]), Say((("two",),)))
    log = MemoryBackend()
    async with process(log.process(), agent, registry=REGISTRY) as here:
        run = await play(here, model="fake", tools=TOOLS, said="hi")
        await started(here, run, text="one ", waiting=1)
        await say(here, run[0], "meanwhile")
        await decide(here, run, "approved")
        await ended(here, run)
    assert [one.content for one in agent.asked[1].messages] == ["hi", "one ", "yes"]


async def test_too_many_turns(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
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


async def test_too_many_calls_at_once(autojump_clock: MockClock) -> None:
    """They are refused before any is proposed; the most are not."""
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


async def test_an_upstream_that_fails_in_a_later_turn(autojump_clock: MockClock) -> None:
    broken = Say((("two",), UpstreamError("upstream_cut", "cut")))
    log, agent = MemoryBackend(), FakeAgent(THREE[0], broken)
    async with process(log.process(), agent, registry=REGISTRY) as here:
        run = await play(here, model="fake", tools=TOOLS)
        found = await ended(here, run)
        assert here.supervisor.metrics.failures.counts["fake", "upstream_cut"] == 1
    assert fields(the_end(of(log, *run)))["error"]["code"] == "upstream_cut"
    assert found.text == "one two"


async def test_a_tools_process_that_is_fenced_off_in_mid_call(autojump_clock: MockClock) -> None:
    """Two tools at once find out together: the run ends quietly, as any that was overtaken."""
    log = MemoryBackend()
    agent = FakeAgent(Say((("so ",),), [("slow", "{}"), ("slow", "{}")]), Say((("done",),)))

    @tool(approval="never", idempotent=True)
    async def slow() -> None:
        """Takes its time."""
        await trio.sleep(20)

    registry = app(slow)
    async with process(log.process(), agent, registry=registry) as ghost:
        run = await play(ghost, model="fake", tools=("slow",))
        await started(ghost, run, text="so ")
        hear = log.living.pop(ghost.store.owner)
        async with process(log.process(), agent, registry=registry) as here:
            found = await ended(here, run)
        log.living[ghost.store.owner] = hear
        assert ghost.supervisor.runs == {}
        assert ghost.supervisor.metrics.failures.counts["fake", "internal_error"] == 0
    assert (found.status, found.attempt, found.text) == ("completed", 2, "so done")


async def test_a_call_that_was_never_wanted_costs_no_look_at_the_clock(autojump_clock: MockClock) -> None:
    """One answer without calls is one turn, asked for once."""
    log, agent = MemoryBackend(), FakeAgent(Say((("hi", " there"),)))
    async with process(log.process(), agent, registry=REGISTRY) as here:
        run = await play(here, model="fake", tools=TOOLS)
        found: Any = await ended(here, run)
        assert (await snapshot(here, run)) == found
    assert kinds(log, run)[1:] == ["generation.started", "token", "token", "step.finished", "generation.completed"]
    assert found.tool_calls == ()
