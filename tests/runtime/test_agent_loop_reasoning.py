"""Reasoning, refusals and half-written call arguments of a model, as events in the log."""

from typing import Any

import trio
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.conversations.conversation_state import Conversation
from server.conversations.fold import fold
from server.providers import ArgumentsDelta, Finish, Reasoning
from tests.generations.fake_agent import FakeAgent, Say
from tests.generations.fake_upstream import FakeUpstream
from tests.generations.run_owner import fields, the_end
from tests.generations.unreliable_logs import events_of

from .run_commands import At, ended, kinds, play, snapshot, started
from .runtime_process import app, of, process
from .tool_examples import RefundTool

WRITTEN = [ArgumentsDelta(0, "refund", '{"ord'), ArgumentsDelta(0, "refund", 'er": 7}')]
ORDER = ("refund", '{"order": 7}')


def model_events(log: MemoryBackend, run: At) -> list[tuple[Any, ...]]:
    """The type and text of each event of the model, in order."""
    kept = ("token", "reasoning", "tool.arguments")
    return [(event.type, fields(event)["delta"]) for event in of(log, *run) if event.type in kept]


async def test_reasoning_text_and_arguments_are_events_in_order(autojump_clock: MockClock) -> None:
    log, refund_tool = MemoryBackend(), RefundTool(approval="never")
    first = Say([[Reasoning("let me "), "so "], [Reasoning("see"), WRITTEN[0]], ["now "], WRITTEN[1:]], [ORDER])
    agent = FakeAgent(first, Say([[Reasoning("fine"), "done"]]))
    async with process(log.process(), agent, registry=app(refund_tool.tool)) as here:
        run = await play(here, model="fake", tools=("refund",))
        found = await ended(here, run)
    assert model_events(log, run) == [
        ("reasoning", "let me "),
        ("token", "so "),
        ("reasoning", "see"),
        ("tool.arguments", '{"ord'),
        ("token", "now "),
        ("tool.arguments", 'er": 7}'),
        ("reasoning", "fine"),
        ("token", "done"),
    ]
    assert (found.text, found.reasoning, found.tokens) == ("so now done", "let me seefine", 3)
    pieces = [fields(event) for event in of(log, *run) if event.type == "tool.arguments"]
    (call,) = found.tool_calls
    assert [(piece["call"], piece.get("name")) for piece in pieces] == [(call.call, "refund"), (call.call, None)]
    assert refund_tool.done == [7]
    # Every position of the log, whatever stands there, is one that a snapshot can be of.
    events = events_of(log, run[0])
    state = Conversation(run[0])
    for position in range(1, len(events) + 1):
        state = fold(state, events[position - 1 : position])
        assert state == fold(Conversation(run[0]), events[:position])


async def test_time_to_first_token_ignores_reasoning_and_calls(autojump_clock: MockClock) -> None:
    """An answer of reasoning and calls alone has no first token."""
    log, fake = MemoryBackend(), FakeUpstream([Reasoning("hm")], 3.0, [WRITTEN[0]], 4.0, ["a"])
    async with process(log.process(), fake) as here:
        run = await play(here, model="fake")
        found = await ended(here, run)
    assert found.ttft_ms == 7_000
    assert model_events(log, run) == [("reasoning", "hm"), ("token", "a")]
    assert kinds(log, run)[-1] == "generation.completed"


async def test_refusal_text_is_recorded(autojump_clock: MockClock) -> None:
    """Both of a plain answer and of an answer that may call tools."""
    end = Finish("refusal", None, refusal="I will not.")
    for fake in (FakeUpstream(finish=end), FakeAgent(Say((), finish=end))):
        log = MemoryBackend()
        tools = ("refund",) if isinstance(fake, FakeAgent) else ()
        async with process(log.process(), fake, registry=app(RefundTool().tool)) as here:
            run = await play(here, model="fake", tools=tools)
            found = await ended(here, run)
        assert (found.status, found.text, found.refusal) == ("completed", "", "I will not.")
        assert fields(the_end(of(log, *run))) == {
            "finish_reason": "refusal",
            "usage": {},
            "ttft_ms": None,
            "refusal": "I will not.",
        }


async def test_next_attempt_repeats_finished_turns_and_reasons_anew(autojump_clock: MockClock) -> None:
    """Half-written arguments belong to no call: the next attempt writes its own, under another call id."""
    log, refund_tool = MemoryBackend(), RefundTool(approval="never")
    turns = [
        Say([[Reasoning("one ")], ["a "]], [ORDER]),
        Say([[Reasoning("two ")], WRITTEN[:1], 5.0, WRITTEN[1:], ["b "]], [ORDER]),
        Say([[Reasoning("three")], ["c"]]),
    ]
    agent = FakeAgent(*turns)
    async with process(log.process()) as other:
        async with process(log.process(), agent, registry=app(refund_tool.tool)) as lost:
            run = await play(lost, model="fake", tools=("refund",), on_crash="restart")
            await started(lost, run, text="a ")
            await trio.sleep(2)
            (half,) = [fields(event)["call"] for event in of(log, *run) if event.type == "tool.arguments"]
            assert (await snapshot(other, run)).reasoning == "one two "
        async with process(log.process(), agent, registry=app(refund_tool.tool)) as here:
            again = await started(here, run, text="a ", attempt=2)
            assert again.reasoning in ("one ", "one two ")
            found = await ended(here, run)
    assert (found.text, found.reasoning, found.attempt) == ("a b c", "one two three", 2)
    assert half not in [call.call for call in found.tool_calls]
    assert len({fields(event)["call"] for event in of(log, *run) if event.type == "tool.arguments"}) == 2
    assert refund_tool.done == [7, 7]
