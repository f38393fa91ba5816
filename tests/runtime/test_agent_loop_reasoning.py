"""What a model says besides its text: reasoning, and the arguments of calls while they are written."""

from typing import Any

import trio
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.conversations.conversation_state import Conversation
from server.conversations.fold import fold
from server.providers import ArgumentsDelta, Finish, Reasoning
from tests.generations.fake_agent import FakeAgent, Say
from tests.generations.fake_upstream import FakeUpstream
from tests.generations.owning import fields, the_end
from tests.generations.wrapped_log import events_of

from .playing import At, ended, kinds, play, snapshot, started
from .tooling import Till
from .world import app, of, process

WRITTEN = [ArgumentsDelta(0, "refund", '{"ord'), ArgumentsDelta(0, "refund", 'er": 7}')]
ORDER = ("refund", '{"order": 7}')


def said(log: MemoryBackend, run: At) -> list[tuple[Any, ...]]:
    """What its model said, in order: the type of each event, and its words."""
    kept = ("token", "reasoning", "tool.arguments")
    return [(event.type, fields(event)["delta"]) for event in of(log, *run) if event.type in kept]


async def test_each_piece_is_an_event_in_its_order(autojump_clock: MockClock) -> None:
    log, till = MemoryBackend(), Till(approval="never")
    first = Say([[Reasoning("let me "), "so "], [Reasoning("see"), WRITTEN[0]], ["now "], WRITTEN[1:]], [ORDER])
    agent = FakeAgent(first, Say([[Reasoning("fine"), "done"]]))
    async with process(log.process(), agent, registry=app(till.tool)) as here:
        run = await play(here, model="fake", tools=("refund",))
        found = await ended(here, run)
    assert said(log, run) == [
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
    assert till.done == [7]
    # Every position of the log, whatever stands there, is one that a snapshot can be of.
    events = events_of(log, run[0])
    state = Conversation(run[0])
    for position in range(1, len(events) + 1):
        state = fold(state, events[position - 1 : position])
        assert state == fold(Conversation(run[0]), events[:position])


async def test_reasoning_is_no_first_token(autojump_clock: MockClock) -> None:
    """Nor is a call; and an answer without tools has none."""
    log, fake = MemoryBackend(), FakeUpstream([Reasoning("hm")], 3.0, [WRITTEN[0]], 4.0, ["a"])
    async with process(log.process(), fake) as here:
        run = await play(here, model="fake")
        found = await ended(here, run)
    assert found.ttft_ms == 7_000
    assert said(log, run) == [("reasoning", "hm"), ("token", "a")]
    assert kinds(log, run)[-1] == "generation.completed"


async def test_the_words_of_a_refusal(autojump_clock: MockClock) -> None:
    """Of an answer, and of one that may call tools."""
    end = Finish("refusal", None, refusal="I will not.")
    for fake in (FakeUpstream(finish=end), FakeAgent(Say((), finish=end))):
        log = MemoryBackend()
        tools = ("refund",) if isinstance(fake, FakeAgent) else ()
        async with process(log.process(), fake, registry=app(Till().tool)) as here:
            run = await play(here, model="fake", tools=tools)
            found = await ended(here, run)
        assert (found.status, found.text, found.refusal) == ("completed", "", "I will not.")
        assert fields(the_end(of(log, *run))) == {
            "finish_reason": "refusal",
            "usage": {},
            "ttft_ms": None,
            "refusal": "I will not.",
        }


async def test_an_attempt_thinks_anew_and_says_again_what_was_paid_for(autojump_clock: MockClock) -> None:
    """Half-written arguments are those of no call: the next attempt writes its own, under another id."""
    log, till = MemoryBackend(), Till(approval="never")
    turns = [
        Say([[Reasoning("one ")], ["a "]], [ORDER]),
        Say([[Reasoning("two ")], WRITTEN[:1], 5.0, WRITTEN[1:], ["b "]], [ORDER]),
        Say([[Reasoning("three")], ["c"]]),
    ]
    agent = FakeAgent(*turns)
    async with process(log.process()) as other:
        async with process(log.process(), agent, registry=app(till.tool)) as lost:
            run = await play(lost, model="fake", tools=("refund",), on_crash="restart")
            await started(lost, run, text="a ")
            await trio.sleep(2)
            (half,) = [fields(event)["call"] for event in of(log, *run) if event.type == "tool.arguments"]
            assert (await snapshot(other, run)).reasoning == "one two "
        async with process(log.process(), agent, registry=app(till.tool)) as here:
            again = await started(here, run, text="a ", attempt=2)
            assert again.reasoning in ("one ", "one two ")
            found = await ended(here, run)
    assert (found.text, found.reasoning, found.attempt) == ("a b c", "one two three", 2)
    assert half not in [call.call for call in found.tool_calls]
    assert len({fields(event)["call"] for event in of(log, *run) if event.type == "tool.arguments"}) == 2
    assert till.done == [7, 7]
