"""Messages that are put into a running answer: what the model is asked then, and what becomes of each of them.

The table: in which state the answer is when the message comes, and what happens next. The fake model keeps the
prompts that it was asked.
"""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from eventstore.memory_backend import MemoryBackend
from server.conversations.budget import Budget
from server.conversations.prompt import transcript
from server.runtime.conversation_service import ConversationService
from tests.generations.fake_agent import Say
from tests.generations.fake_upstream import FOREVER

from .run_commands import At, decide, ended, kinds, play, raise_budget, snapshot, started
from .running_answers import REGISTRY, Agent, Model, asked, call, check_pairs, delivery, put, taken_over
from .runtime_process import cancel, folded, process, say


async def test_a_message_is_put_into_a_plain_answer(autojump_clock: MockClock) -> None:
    """The provider's connection is closed, the same generation goes on, and the model is told both."""
    log, model = MemoryBackend(), Model([["one "], ["two "], FOREVER], [["drei "], ["vier"]])
    async with process(log.process(), model) as here:
        run = await play(here, model="fake", said="count")
        await started(here, run, text="one two ")
        message = await put(here, run, "in German")
        found = await ended(here, run)
    assert [asked(prompt) for prompt in model.asked] == [
        [("user", "count")],
        [("user", "count"), ("assistant", "one two "), ("user", "in German")],
    ]
    assert (found.status, found.text, model.open_now) == ("completed", "one two drei vier", 0)
    assert found.usage == {"input_tokens": 12, "output_tokens": 7}, "what was cut short is estimated"
    state = folded(log, run[0])
    assert delivery(state, message) == ("applied", run[1])
    assert kinds(log, run)[1:] == [
        *("generation.started", "token", "token", "step.finished", "message.applied"),
        *("token", "token", "generation.completed"),
    ]
    assert [(one.role, one.content) for one in transcript(state)] == [
        ("user", "count"),
        ("assistant", "one two "),
        ("user", "in German"),
        ("assistant", "drei vier"),
    ], "the next answer is told in this order"


class State:
    """A state in which an answer is when the message comes. `takes`: whether it takes messages."""

    takes = True
    tools: tuple[str, ...] = ()

    def model(self) -> Model | Agent:
        raise NotImplementedError

    async def begin(self, here: ConversationService, **more: Any) -> At:
        """Requests the answer, and returns when it is in the state."""
        run = await play(here, model="fake", tools=self.tools, said="hi", **more)
        await started(here, run, text="one ")
        return run

    async def go_on(self, here: ConversationService, run: At) -> None:
        """Has the answer go on to its end, where a person has to do that."""


class Plain(State):
    """A model without tools is silent in the middle of its answer."""

    def model(self) -> Model:
        return Model([["one "], 5.0, FOREVER], [["two"]])


class Streaming(State):
    """An agent is silent in the middle of its text."""

    tools = ("work",)

    def model(self) -> Agent:
        return Agent(Say([["one "], 5.0, FOREVER]), Say([["two"]]))


class Working(State):
    """A tool runs."""

    tools = ("work",)

    def model(self) -> Agent:
        return Agent(Say([["one "]], [call("work")]), Say([["two"]]))


class Asking(State):
    """A call waits for a person."""

    tools = ("ask",)

    def model(self) -> Agent:
        return Agent(Say([["one "]], [call("ask")]), Say([["two"]]))

    async def begin(self, here: ConversationService, **more: Any) -> At:
        run = await super().begin(here, **more)
        await started(here, run, text="one ", waiting=1)
        return run

    async def go_on(self, here: ConversationService, run: At) -> None:
        if any(one.waits for one in (await snapshot(here, run)).tool_calls):
            await decide(here, run, "approved")


class Silent(State):
    """The model has said nothing yet."""

    def model(self) -> Model:
        return Model([FOREVER], [["two"]])

    async def begin(self, here: ConversationService, **more: Any) -> At:
        run = await play(here, model="fake", said="hi", **more)
        await started(here, run)
        return run


class Flow(State):
    """A workflow runs."""

    takes = False

    def model(self) -> Model:
        return Model([["one "]])

    async def begin(self, here: ConversationService, **more: Any) -> At:
        run = await play(here, **more)
        await started(here, run, text="a flow ")
        return run


TAKING = [Plain, Silent, Streaming, Working, Asking]


@pytest.mark.parametrize("elsewhere", [False, True], ids=["posted here", "posted at another server"])
@pytest.mark.parametrize("state", TAKING)
async def test_it_is_applied(state: type[State], elsewhere: bool, autojump_clock: MockClock) -> None:
    """The next request to the model has the message last, once; the answer goes on in the same generation."""
    log, made = MemoryBackend(), state()
    model = made.model()
    async with process(log.process()) as other, process(log.process(), model, registry=REGISTRY) as here:
        run = await made.begin(here)
        began = trio.current_time()
        message = await put(other if elsewhere else here, run, "stop that")
        if state is Asking:
            await trio.sleep(30)
            assert delivery(folded(log, run[0]), message) == ("queued", run[1]), "never between a call and its end"
        await made.go_on(here, run)
        found = await ended(here, run)
        taken = 10 if state is Working else 30 if state is Asking else 0
        assert trio.current_time() - began < taken + 2
    assert found.status == "completed"
    assert found.text == ("two" if state is Silent else "one two")
    assert delivery(folded(log, run[0]), message) == ("applied", run[1])
    said = [[text for _, text in asked(prompt)].count("stop that") for prompt in model.asked]
    assert said == [0, 1]
    assert asked(model.asked[-1])[-1] == ("user", "stop that")
    check_pairs(model.asked)
    (applied,) = found.applied
    assert applied.text_length == len(found.text.removesuffix("two"))
    assert model.open_now == 0


@pytest.mark.parametrize("end", ["cancelled", "failed"])
@pytest.mark.parametrize("state", [Working, Asking])
async def test_it_is_returned_where_the_answer_ends_first(
    state: type[State], end: str, autojump_clock: MockClock
) -> None:
    """Nothing of it is lost: the next answer has it as a message like any other."""
    log, made = MemoryBackend(), state()
    async with process(log.process(), made.model(), registry=REGISTRY) as here:
        run = await made.begin(here, budget=Budget(1) if end == "failed" else None)
        message = await put(here, run, "stop that")
        assert delivery(folded(log, run[0]), message) == ("queued", run[1])
        await cancel(here, *run)
        found = await ended(here, run)
        assert delivery(folded(log, run[0]), message) == ("returned", run[1])
        assert found.applied == ()
    assert [one.content for one in transcript(folded(log, run[0]))] == ["hi", "one ", "stop that"]


@pytest.mark.parametrize("state", [Plain, Streaming, Working, Asking])
async def test_it_is_applied_by_the_attempt_that_takes_over(state: type[State], autojump_clock: MockClock) -> None:
    """The server is killed at the moment at which the message comes."""
    log, made = MemoryBackend(), state()
    model = Agent(Say([["two"]])) if made.tools else Model([["two"]])
    async with process(log.process()) as other:
        async with process(log.process(), made.model(), registry=REGISTRY) as lost:
            run = await made.begin(lost, on_crash="restart")
        message = await put(other, run, "stop that")
        async with process(log.process(), model, registry=REGISTRY) as here:
            await taken_over(here, run)
            await trio.sleep(5)
            await made.go_on(here, run)
            found = await ended(here, run)
    assert (found.status, found.attempt) == ("completed", 2)
    assert delivery(folded(log, run[0]), message) == ("applied", run[1])
    assert [asked(prompt)[-1] for prompt in model.asked] == [("user", "stop that")]
    check_pairs(model.asked)


@pytest.mark.parametrize("state", [Plain, Streaming, Working, Asking])
async def test_the_server_is_killed_after_it_was_applied(state: type[State], autojump_clock: MockClock) -> None:
    """The next attempt asks with the same prompt as the first, though others have spoken since."""
    log, made = MemoryBackend(), state()
    first, second = made.model(), made.model()
    if isinstance(first, Model):
        assert isinstance(second, Model)
        first._answers = (first._answers[0], [["two "], FOREVER])
        second._answers = ([["two"]],)
    else:
        assert isinstance(second, Agent)
        first._turns = (first._turns[0], Say([["two "], FOREVER]))
        second._turns = (Say([["two"]]),)
    async with process(log.process()) as other:
        async with process(log.process(), first, registry=REGISTRY) as lost:
            run = await made.begin(lost, on_crash="restart")
            message = await put(other, run, "stop that")
            await say(other, run[0], "said to the next answer")
            await made.go_on(lost, run)
            await started(lost, run, text="one two ")
        async with process(log.process(), second, registry=REGISTRY) as here:
            found = await ended(here, run)
    assert (found.status, found.attempt, found.text) == ("completed", 2, "one two")
    assert second.asked == [first.asked[-1]]
    assert kinds(log, run).count("message.applied") == 1
    state_ = folded(log, run[0])
    assert delivery(state_, message) == ("applied", run[1])
    assert [one.content for one in transcript(state_)] == [
        *("hi", "one ", "stop that", "two", "said to the next answer")
    ]


@pytest.mark.parametrize("state", [Plain, Streaming])
async def test_a_run_that_may_not_restart_returns_it(state: type[State], autojump_clock: MockClock) -> None:
    log, made = MemoryBackend(), state()
    async with process(log.process()) as other:
        async with process(log.process(), made.model(), registry=REGISTRY) as lost:
            run = await made.begin(lost, on_crash="fail")
        message = await put(other, run, "stop that")
        assert delivery(folded(log, run[0]), message) == ("queued", run[1])
        found = await ended(other, run)
    assert found.status == "failed"
    assert delivery(folded(log, run[0]), message) == ("returned", run[1])
    assert [one.content for one in transcript(folded(log, run[0]))] == ["hi", "stop that"]


@pytest.mark.parametrize("state", [Plain, Streaming, Working])
async def test_the_budget_is_reached_first(state: type[State], autojump_clock: MockClock) -> None:
    """The message waits with the answer. What was cut short counts, too."""
    log, made = MemoryBackend(), state()
    model = made.model()
    async with process(log.process(), model, registry=REGISTRY) as here:
        run = await play(here, model="fake", tools=made.tools, said="hi", budget=Budget(1))
        with trio.fail_after(1_000):
            while (found := await snapshot(here, run)).waiting_for != "budget":
                await trio.sleep(0.1)
                if found.text == "one " and state is Streaming:
                    break
        message = await put(here, run, "stop that")
        await trio.sleep(20)
        assert (await snapshot(here, run)).waiting_for == "budget"
        assert delivery(folded(log, run[0]), message)[0] == "queued"
        await raise_budget(here, run, 1_000)
        found = await ended(here, run)
    assert (found.status, found.text) == ("completed", "one two")
    assert delivery(folded(log, run[0]), message) == ("applied", run[1])
    assert found.usage is not None
    assert found.usage["output_tokens"] >= 2
    assert asked(model.asked[-1])[-1] == ("user", "stop that")


async def test_a_workflow_takes_none(autojump_clock: MockClock) -> None:
    """The message is one like any other; the workflow finds it in its context."""
    log, made = MemoryBackend(), Flow()
    async with process(log.process(), made.model(), registry=REGISTRY) as here:
        run = await made.begin(here)
        message = await put(here, run, "stop that")
        assert delivery(folded(log, run[0]), message) == ("returned", None)
        found = await ended(here, run)
    assert (found.status, found.result) == ("completed", "one ")
    assert "message.applied" not in kinds(log, run)


async def test_no_answer_runs(autojump_clock: MockClock) -> None:
    log, model = MemoryBackend(), Model([["two"]])
    async with process(log.process(), model) as here:
        run = await play(here, model="fake", said="hi")
        await ended(here, run)
        message = await put(here, run, "and?")
        assert delivery(folded(log, run[0]), message) == ("returned", None)
        await ended(here, await play(here, run[0], model="fake"))
    assert asked(model.asked[-1]) == [("user", "hi"), ("assistant", "two"), ("user", "and?")]


async def test_behind_another_answer_the_first_takes_it(autojump_clock: MockClock) -> None:
    """The one that waits in the queue sees it in its place."""
    log, model = MemoryBackend(), Model([["one "], FOREVER], [["two"]], [["three"]])
    async with process(log.process(), model) as here:
        run = await play(here, model="fake", said="hi")
        await started(here, run, text="one ")
        other = await play(here, run[0], model="fake", if_running="queue")
        message = await put(here, run, "stop that")
        await ended(here, run)
        await ended(here, other)
    assert delivery(folded(log, run[0]), message) == ("applied", run[1])
    assert asked(model.asked[2]) == [
        *(("user", "hi"), ("assistant", "one "), ("user", "stop that"), ("assistant", "two"))
    ]


async def test_an_answer_that_has_not_begun_takes_it(autojump_clock: MockClock) -> None:
    """Its server is gone before its turn came; the one that takes it up asks with the message at once."""
    log, model = MemoryBackend(), Model([["two"]])
    async with process(log.process()) as other:
        async with process(log.process(), Model([["one "], FOREVER])) as lost:
            first = await play(lost, model="fake", said="hi")
            await started(lost, first, text="one ")
            run = await play(lost, first[0], model="fake", if_running="queue")
        await cancel(other, *first)
        assert (await snapshot(other, run)).status == "queued"
        message = await put(other, run, "stop that")
        assert delivery(folded(log, run[0]), message) == ("queued", run[1])
        async with process(log.process(), model) as here:
            found = await ended(here, run)
    assert (found.status, found.text) == ("completed", "two")
    assert delivery(folded(log, run[0]), message) == ("applied", run[1])
    assert [asked(prompt) for prompt in model.asked] == [
        [("user", "hi"), ("assistant", "one "), ("user", "stop that")]
    ]
