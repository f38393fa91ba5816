"""When an answer takes messages that are put into it: how soon, how often, never in the middle of a call."""

from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.conversations.budget import Budget
from server.generations.run import message_inbox
from server.providers import ArgumentsDelta, Finish
from tests.generations.fake_agent import Say
from tests.generations.fake_upstream import FOREVER, Step
from tests.generations.unreliable_logs import Mute, Slow, T, Wrapped, events_of

from .run_commands import ended, kinds, play, started
from .running_answers import (
    REGISTRY,
    USAGE,
    Agent,
    Model,
    asked,
    call,
    check_pairs,
    delivery,
    put,
    written,
)
from .runtime_process import cancel, folded, key, process, say


async def test_a_tool_call_that_is_being_written_is_not_cut(autojump_clock: MockClock) -> None:
    """The round ends, its call gets its result, and then the model is told."""
    pieces: list[Step] = [
        ["one "],
        [ArgumentsDelta(0, "work", '{"what"')],
        5.0,
        [ArgumentsDelta(0, "work", ': "it"}')],
    ]
    log, model = MemoryBackend(), Agent(Say(pieces, [call("work")]), Say([["two"]]))
    async with process(log.process(), model, registry=REGISTRY) as here:
        run = await play(here, model="fake", tools=("work",), said="hi")
        await written(log, run, "tool.arguments")
        await put(here, run, "stop that")
        found = await ended(here, run)
    assert (found.status, found.text) == ("completed", "one two")
    assert [one.status for one in found.tool_calls] == ["finished"]
    assert [message.role for message in model.asked[-1].messages] == ["user", "assistant", "tool", "user"]
    check_pairs(model.asked)


@pytest.mark.parametrize("tools", [(), ("work",)], ids=["plain", "agent"])
async def test_at_the_end_of_an_answer_it_goes_on(
    tools: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """The message comes too late to cut the answer, and before its end is in the log: the answer is a round
    then."""
    monkeypatch.setattr(message_inbox, "MAX_CUTS", 0)
    log = MemoryBackend()
    model = Agent(Say([["one "]]), Say([["two"]])) if tools else Model([["one "]], [["two"]])
    slow = Slow(log.process(), 4.0)
    async with process(log.process()) as other, process(slow, model, registry=REGISTRY) as here:
        run = await play(here, model="fake", tools=tools, said="hi")
        await written(log, run, "token")
        message = await put(other, run, "more")
        found = await ended(other, run)
    assert (found.status, found.text) == ("completed", "one two")
    assert delivery(folded(log, run[0]), message) == ("applied", run[1])
    assert asked(model.asked[-1]) == [("user", "hi"), ("assistant", "one "), ("user", "more")]


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_an_answer_that_did_not_end_well_takes_no_more(
    reason: str, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """Asked again, the model would meet the same limit. The message is for the next answer."""
    monkeypatch.setattr(message_inbox, "MAX_CUTS", 0)
    log, model = MemoryBackend(), Model([["one "]], finish=Finish(reason, USAGE))
    async with process(log.process()) as other, process(Slow(log.process(), 4.0), model) as here:
        run = await play(here, model="fake", said="hi")
        await written(log, run, "token")
        message = await put(other, run, "more")
        found = await ended(other, run)
    assert (found.finish_reason, model.opened) == (reason, 1)
    assert delivery(folded(log, run[0]), message) == ("returned", run[1])


@pytest.mark.parametrize("tools", [(), ("work",)], ids=["plain", "agent"])
async def test_an_answer_is_not_cut_for_ever(tools: tuple[str, ...], autojump_clock: MockClock) -> None:
    """Somebody who posts all the time gets a whole answer after so many cuts, and all messages are taken."""
    cuts = message_inbox.MAX_CUTS
    steps: list[Step] = [["w "], 20.0, ["x "], 20.0, ["end "]]
    log = MemoryBackend()
    model = Agent(Say(steps)) if tools else Model(steps)
    async with process(log.process(), model, registry=REGISTRY) as here:
        run = await play(here, model="fake", tools=tools, said="hi")
        for number in range(cuts + 2):
            await started(here, run, text="w " * (number + 1 if number <= cuts else cuts + 1))
            await put(here, run, f"m{number}")
        found = await ended(here, run)
    assert found.text == "w " * cuts + "w x end " * 2
    assert len(found.applied) == cuts + 2
    assert model.opened == cuts + 2
    said = [text for role, text in asked(model.asked[-1]) if role == "user"]
    assert said == ["hi", *(f"m{number}" for number in range(cuts + 2))]


async def test_several_messages_at_once_cut_once(autojump_clock: MockClock) -> None:
    log, model = MemoryBackend(), Model([["one "], FOREVER], [["two"]])
    async with process(log.process()) as other, process(log.process(), model) as here:
        run = await play(here, model="fake", said="hi")
        await started(here, run, text="one ")
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(put, (here, other)[number % 2], run, f"m{number}")
        found = await ended(here, run)
    assert len(found.applied) == 20
    assert model.opened <= 3
    posted = [one.content for one in folded(log, run[0]).messages]
    assert [text for role, text in asked(model.asked[-1]) if role == "user"] == posted, "in the order of the log"


async def test_a_lost_notification_delays_it_by_a_second(autojump_clock: MockClock) -> None:
    """The model is silent, and nothing says that another server has appended a message."""
    log, model = MemoryBackend(), Model([["one "], FOREVER], [["two"]])
    async with process(Mute(log.process())) as other, process(log.process(), model) as here:
        run = await play(here, model="fake", said="hi")
        await started(here, run, text="one ")
        await put(other, run, "stop that")
        began = trio.current_time()
        found = await ended(here, run)
    assert found.text == "one two"
    assert trio.current_time() - began < 3


@pytest.mark.parametrize("tools", [(), ("work",)], ids=["plain", "agent"])
async def test_while_tokens_flow_no_notification_is_needed(
    tools: tuple[str, ...], autojump_clock: MockClock
) -> None:
    """The next token tells that somebody has written in between."""
    steps: list[Step] = [["w "], 2.0]
    for _ in range(50):
        steps += [0.1, ["x "]]
    log, model = MemoryBackend(), Agent(Say(steps), Say([["two"]])) if tools else Model(steps, [["two"]])
    async with (
        process(Mute(log.process())) as other,
        process(log.process(), model, registry=REGISTRY, safety_poll=1_000.0) as here,
    ):
        run = await play(here, model="fake", tools=tools, said="hi")
        await started(here, run, text="w ")
        await put(other, run, "stop that")
        await ended(here, run)
    types = [event.type for event in events_of(log, run[0])]
    between = types[types.index("message.posted", 2) : types.index("message.applied")]
    assert between == ["message.posted", "token", "step.finished"]


async def test_the_same_key_puts_it_in_once(autojump_clock: MockClock) -> None:
    log, model = MemoryBackend(), Model([["one "], FOREVER], [["two"], FOREVER], [["three"]])
    async with process(log.process()) as other, process(log.process(), model) as here:
        run = await play(here, model="fake", said="hi")
        await started(here, run, text="one ")
        first = await put(here, run, "stop that", key("mine"))
        await started(here, run, text="one two")
        assert await put(other, run, "stop that", key("mine")) == first
        await put(other, run, "and that")
        assert (await ended(here, run)).text == "one twothree"
        assert await put(here, run, "stop that", key("mine")) == first, "also when the answer has ended"
    assert [one.content for one in folded(log, run[0]).messages] == ["hi", "stop that", "and that"]


async def test_an_ordinary_message_cuts_nothing(autojump_clock: MockClock) -> None:
    log, model = MemoryBackend(), Model([["one "], 5.0, ["two"]])
    async with process(log.process()) as other, process(log.process(), model) as here:
        run = await play(here, model="fake", said="hi")
        await started(here, run, text="one ")
        await say(here, run[0], "hm")
        await say(other, run[0], "hm")
        found = await ended(here, run)
    assert (found.text, model.opened) == ("one two", 1)
    assert "step.finished" not in kinds(log, run)


@pytest.mark.parametrize("budget", [None, Budget(1_000_000)], ids=["without a budget", "with one"])
async def test_the_log_is_not_read_for_tokens(budget: Budget | None, autojump_clock: MockClock) -> None:
    """An answer that gets no message costs its appends, and not one read while its tokens come."""
    log, counted = MemoryBackend(), Counter[str]()

    class Counting(Wrapped):
        async def around(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
            counted[name] += 1
            return await call()

    model = Model([["one "], 0.2, *([f"{n} "] for n in range(500))])
    async with process(Counting(log.process()), model) as here:
        run = await play(here, model="fake", said="hi", budget=budget)
        await trio.sleep(0.1)
        before = counted.copy()
        await trio.sleep(0.3)
        assert kinds(log, run)[-1] == "generation.completed"
        spent = counted - before
    assert spent["append"] == 501
    assert spent["read"] == 0


@pytest.mark.parametrize("tools", [(), ("work",)], ids=["plain", "agent"])
async def test_between_the_request_and_the_start(tools: tuple[str, ...], autojump_clock: MockClock) -> None:
    """The prompt is made of the state at the request; the message is in the log before the answer has started."""
    log = MemoryBackend()
    model = Agent(Say([["one"], FOREVER])) if tools else Model([["one"], FOREVER])
    async with (
        process(log.process()) as other,
        process(Slow(log.process(), 4.0), model, registry=REGISTRY) as here,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(play, here, model="fake", tools=tools, said="hi"))
            await trio.sleep(0.1)
            while True:
                (conversation,) = log.streams or ("",)
                names = [event.tag for event in events_of(log, conversation) if event.tag] if conversation else []
                if names:
                    break
                await trio.sleep(0.1)
            run = conversation, str(names[0])
            message = await put(other, run, "stop that")
            assert "generation.started" not in kinds(log, run)
        await started(here, run, text="one")
        await cancel(here, *run)
    assert delivery(folded(log, run[0]), message) == ("applied", run[1])
    assert [asked(prompt) for prompt in model.asked] == [[("user", "hi"), ("user", "stop that")]]
