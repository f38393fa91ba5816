"""Decisions on tool calls that come late, in another order, after another message, or are "no" again and again."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import pytest
import trio
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.generations import agent_loop
from server.problem import Problem
from server.providers import Prompt
from server.workflows import Tool, tool
from tests.generations.fake_agent import FakeAgent, Say

from .run_commands import At, calls, decide, ended, kinds, play, snapshot, started
from .runtime_process import app, cancel, key, process, refused, say
from .tool_examples import told

RAN: list[tuple[str, str]] = []


@pytest.fixture(autouse=True)
def _clear_executions() -> None:
    """Forgets what the tools of an earlier test did."""
    RAN.clear()


@tool(approval="never", idempotent=True)
async def free(what: str) -> str:
    """A tool that needs no approval."""
    RAN.append(("free", what))
    return f"did {what}"


@tool
async def ask(what: str) -> str:
    """A tool that needs approval."""
    RAN.append(("ask", what))
    return f"did {what}"


REGISTRY = app(free, ask)
NAMES = ("free", "ask")


def call(one: Tool, what: str) -> tuple[str, str]:
    return one.name, msgspec.json.encode({"what": what}).decode()


def assert_paired(prompts: Sequence[Prompt]) -> None:
    """No call without its result, no result without its call: providers refuse both."""
    for prompt in prompts:
        made = [call.id for message in prompt.messages for call in message.calls]
        assert made == [message.call for message in prompt.messages if message.role == "tool"]


@pytest.mark.parametrize("if_running", ["reject", "queue", "interrupt"])
async def test_message_posted_instead_of_a_decision(
    if_running: Literal["reject", "queue", "interrupt"], autojump_clock: MockClock
) -> None:
    """By `if_running` the run waits on, is ended with its text kept, or goes first; a late decision is refused."""
    log, agent = MemoryBackend(), FakeAgent(Say([["so "]], [call(ask, "a")]), Say([["done"]]))
    async with process(log.process(), agent, registry=REGISTRY) as here:
        run = await play(here, model="fake", tools=NAMES, said="hi")
        await started(here, run, text="so ", waiting=1)
        await say(here, run[0], "never mind, tell me a story")
        if if_running == "reject":
            with pytest.raises(Problem) as caught:
                await play(here, run[0], model="fake", if_running=if_running)
            assert refused(caught) == (409, "generation_running")
            assert (await snapshot(here, run)).status == "waiting"
            await cancel(here, *run)
        other = await play(here, run[0], model="fake", tools=NAMES, if_running=if_running)
        if if_running == "queue":
            await trio.sleep(100)
            assert (await snapshot(here, other)).status == "queued"
            await decide(here, run, "approved")
        else:
            with pytest.raises(Problem) as caught:
                await decide(here, run, "approved")
            assert refused(caught) == (409, "generation_ended")
        await ended(here, run)
        await started(here, other, text="so ", waiting=1)
        await cancel(here, *other)
        first = await snapshot(here, run)
    assert first.text == ("so done" if if_running == "queue" else "so ")
    assert [("ask", "a")] * (if_running == "queue") == RAN
    assert_paired(agent.asked)
    assert "so" in "".join(message.text for message in agent.asked[-1].messages), "people saw it"


async def test_calls_are_decided_in_any_order(autojump_clock: MockClock) -> None:
    """Two calls have equal arguments: each is decided by its id and runs once, also after a crash."""
    wanted = [call(free, "a"), call(ask, "b"), call(ask, "b"), call(free, "c")]
    log, agent = MemoryBackend(), FakeAgent(Say([["so "]], wanted), Say([["done"]]))
    async with process(log.process()) as other:
        async with process(log.process(), agent, registry=REGISTRY) as lost:
            run = await play(lost, model="fake", tools=NAMES, on_crash="restart")
            await started(lost, run, text="so ", waiting=2)
            while sum(one.status == "finished" for one in (await snapshot(lost, run)).tool_calls) < 2:
                await trio.sleep(0.1)
            second, third = (one.call for one in (await snapshot(lost, run)).tool_calls[1:3])
        async with process(log.process(), agent, registry=REGISTRY) as here:
            await started(here, run, text="so ", waiting=2, attempt=2)
            mine = key("decide", b"third")
            positions = {(await decide(at, run, "approved", call=third, key=mine)).first for at in (here, other)}
            assert len(positions) == 1, "sent twice: the same answer"
            for at in (here, other):
                with pytest.raises(Problem) as caught:
                    await decide(at, run, "rejected", call=third)
                assert refused(caught) == (409, "already_decided")
            await decide(other, run, "rejected", call=second, reason="not twice")
            found = await ended(here, run)
    assert sorted(RAN) == [("ask", "b"), ("free", "a"), ("free", "c")]
    assert kinds(log, run).count("tool.finished") == 3
    assert [one.status for one in found.tool_calls] == ["finished", "rejected", "finished", "finished"]
    did_a, rejected, did_b, did_c = told(agent)
    assert (did_a, did_b, did_c) == ("did a", "did b", "did c"), "in the order of the calls"
    assert "not twice" in rejected
    assert_paired(agent.asked)


class InsistingModel(FakeAgent):
    """A model that makes the next of its calls in each turn whatever became of the earlier one, and repeats the
    last.
    """

    def __init__(self, *wanted: tuple[str, str]) -> None:
        super().__init__(*(Say([["so "]], [one]) for one in wanted))


async def reject_calls(here: Any, run: At, times: int, how: str = "rejected") -> None:
    for number in range(times):
        await started(here, run, text="so " * (number + 1), waiting=1)
        await decide(here, run, how, reason="it is too much")


async def test_rejected_call_is_not_proposed_to_a_person_again(autojump_clock: MockClock) -> None:
    """The model is told the reason, and that a person gave it; when it only repeats the call, the run ends."""
    log, agent = MemoryBackend(), InsistingModel(call(ask, "a"))
    async with process(log.process(), agent, registry=REGISTRY) as here:
        run = await play(here, model="fake", tools=NAMES)
        await reject_calls(here, run, 1)
        found = await ended(here, run)
    assert (found.status, found.retryable) == ("failed", False)
    assert found.error is not None
    assert found.error["code"] == "rejected_call_repeated"
    assert len(agent.asked) == agent_loop.MAX_REPEATS + 2
    assert [one.needs_approval for one in found.tool_calls] == [True] + [False] * (agent_loop.MAX_REPEATS + 1)
    assert RAN == []
    first, *others = told(agent)
    assert "A person rejected this call" in first
    assert all("rejected_before" in one and "A person has rejected this call" in one for one in others)
    assert all("it is too much" in one for one in (first, *others))
    assert_paired(agent.asked)


async def test_different_call_is_proposed_to_a_person(autojump_clock: MockClock) -> None:
    """Other arguments, another tool with the same ones, or a call that nobody decided on in time."""
    log = MemoryBackend()

    @tool(name="other", expires=50.0)
    async def other(what: str) -> str:
        """Asks, too."""
        return what

    wanted = [call(ask, "a"), call(ask, "b"), call(other, "a"), call(other, "a")]
    agent = FakeAgent(*(Say([["so "]], [one]) for one in wanted), Say([["done"]]))
    async with process(log.process(), agent, registry=app(ask, other)) as here:
        run = await play(here, model="fake", tools=("ask", "other"))
        await reject_calls(here, run, 2)
        await started(here, run, text="so so so ", waiting=1)
        await trio.sleep(60)  # its time is over
        await started(here, run, text="so so so so ", waiting=1)
        await decide(here, run, "approved")
        found = await ended(here, run)
    assert (found.status, found.text) == ("completed", "so so so so done")
    assert [one.decision for one in calls(log, run)] == ["rejected", "rejected", "rejected", "approved"]


async def test_rejection_does_not_bind_the_next_run(autojump_clock: MockClock) -> None:
    log = MemoryBackend()
    agent = FakeAgent(Say([["so "]], [call(ask, "a")]), Say([["done"]]))
    async with process(log.process(), agent, registry=REGISTRY) as here:
        first = await play(here, model="fake", tools=NAMES, said="hi")
        await started(here, first, text="so ", waiting=1)
        await decide(here, first, "rejected")
        await ended(here, first)
        await say(here, first[0], "well, do it")
        second = await play(here, first[0], model="fake", tools=NAMES)
        await started(here, second, text="so ", waiting=1)
        await decide(here, second, "approved")
        await ended(here, second)
    assert RAN == [("ask", "a")]
