"""Requests for answers, one at a time and several at once: which one runs, and what the other clients are told."""

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from eventstore import Append, StoreError
from eventstore.backend import Outcome
from eventstore.memory_backend import MemoryBackend
from server.conversations.command_types import CancelGeneration
from server.problem import Problem
from server.providers import Message
from server.runtime.conversation_service import ConversationService
from tests.generations.fake_upstream import FOREVER, FakeUpstream
from tests.generations.run_owner import the_end
from tests.generations.unreliable_logs import Slow, Wrapped, events_of

from .runtime_process import ask, asking, folded, key, of, process, refused, say, start


async def test_request_starts_its_own_conversation(autojump_clock: MockClock) -> None:
    log, upstream = MemoryBackend(), FakeUpstream(("a", "b"))
    async with process(log.process(), upstream) as here:
        command = asking("hi", "there", temperature=0)
        done = await here.commands.request_generation(None, command, None)
        assert (done.first, done.last) == (1, 4)
        state, found = await here.generation(command.generation)
        assert state.id == done.stream
        assert (await here.place(command.generation)).last == found.requested_position == 4
        await trio.sleep(1)
        assert (await here.generation(command.generation))[1].text == "ab"
    kinds = [event.type for event in events_of(log, done.stream)]
    assert kinds[:4] == ["conversation.started", "message.posted", "message.posted", "generation.requested"]
    assert [message.content for message in upstream.asked[0].messages] == ["hi", "there"]
    assert upstream.asked[0].parameters == {"temperature": 0}


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("latency", [0.0, 0.1])
async def test_one_of_many_concurrent_requests_runs(
    processes: int, latency: float, autojump_clock: MockClock
) -> None:
    """The other clients are told that a generation is running; its id they may learn from the log."""
    log, upstream = MemoryBackend(), FakeUpstream(10.0, ("a",))
    every = ("append", "read", "find_key")
    async with (
        process(Slow(log.process(), latency, only=every), upstream) as here,
        process(Slow(log.process(), latency, only=every), upstream) as there,
    ):
        conversation = await start(here)
        won: list[str] = []
        refusals: list[Problem] = []

        async def attempt(number: int) -> None:
            try:
                won.append((await ask(there if number % processes else here, conversation))[1])
            except Problem as problem:
                refusals.append(problem)

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(attempt, number)
        assert len(won) == 1
        assert {(one.status, one.code) for one in refusals} == {(409, "generation_running")}
        assert {one.extra["generation"] for one in refusals} == {won[0]}
        await trio.sleep(60)
    assert upstream.opened == 1
    assert [event.type for event in events_of(log, conversation)].count("generation.requested") == 1


@pytest.mark.parametrize("delay", [number / 10 for number in range(16)])
async def test_concurrent_requests_with_one_key_get_one_answer(delay: float, autojump_clock: MockClock) -> None:
    """However the two overlap: neither is told that "a generation is running", for that one is its own."""
    log, upstream = MemoryBackend(), FakeUpstream(10.0, ("a",))
    every = ("append", "read", "find_key")
    async with (
        process(Slow(log.process(), 0.5, only=every), upstream) as here,
        process(Slow(log.process(), 0.5, only=every), upstream) as there,
    ):
        conversation = await start(here)
        places: list[int] = []

        async def attempt(runtime: ConversationService, pause: float) -> None:
            await trio.sleep(pause)
            places.append((await runtime.commands.request_generation(conversation, asking(), key("k"))).last)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(attempt, here, 0.0)
            nursery.start_soon(attempt, there, delay)
        assert places == [2, 2]
        await trio.sleep(60)
    assert upstream.opened == 1


async def test_prompt_holds_a_message_posted_during_the_request(autojump_clock: MockClock) -> None:
    """The prompt is the conversation just before the request event, not as the handler first read it."""
    log, upstream = MemoryBackend(), FakeUpstream(("a",))
    async with (
        process(Slow(log.process(), 1.0), upstream) as here,
        process(log.process()) as there,
    ):
        conversation = await start(there)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, here, conversation)
            await trio.sleep(0.25)
            await say(there, conversation, "wait for me")
        await trio.sleep(10)
    (prompt,) = upstream.asked
    assert prompt.messages == (Message("user", "wait for me"),)
    assert [event.type for event in events_of(log, conversation)][:3] == [
        "conversation.started",
        "message.posted",
        "generation.requested",
    ]


class CrowdedBackend(Wrapped):
    """A log in which a message always arrives just before the request."""

    def __init__(self, log: MemoryBackend) -> None:
        super().__init__(log.process())
        self.log = log
        self.crowd = False

    async def append(self, batch: Sequence[Append]) -> Sequence[Outcome | StoreError]:
        if self.crowd:
            stream = self.log.streams[batch[0].stream]
            last = stream.events[-1]
            stream.events.append(type(last)(last.position + 1, "noise", last.at, None, "{}"))
        return await super().append(batch)


async def test_request_gives_up_when_messages_always_come_first(autojump_clock: MockClock) -> None:
    """The client may send the request again."""
    log = MemoryBackend()
    view = CrowdedBackend(log)
    async with process(view) as here:
        conversation = await start(here)
        view.crowd = True
        with pytest.raises(Problem) as caught:
            await ask(here, conversation)
        assert refused(caught) == (503, "unavailable")
        assert caught.value.retry_after
        view.crowd = False
        await ask(here, conversation)


@pytest.mark.parametrize(
    ("model", "parameters", "code", "field"),
    [
        ("nobody/x", {}, "unknown_model", None),
        ("fake", {"bad": 1}, "invalid_parameters", "parameters.bad"),
        ("demo", {"tokens": 0}, "invalid_parameters", "parameters.tokens"),
    ],
)
async def test_request_for_an_unknown_model_or_parameter_appends_nothing(
    model: str, parameters: dict[str, int], code: str, field: str | None, autojump_clock: MockClock
) -> None:
    """Not even the conversation is started."""
    log = MemoryBackend()
    async with process(log.process()) as here:
        with pytest.raises(Problem) as caught:
            await here.commands.request_generation(None, asking(model=model, **parameters), None)
        assert refused(caught) == (422, code)
        assert caught.value.extra.get("field") == field
    assert log.streams == {}


async def test_draining_server_refuses_new_requests(autojump_clock: MockClock) -> None:
    """Repeats of earlier requests, messages and cancellations are answered as before."""
    log, upstream = MemoryBackend(), FakeUpstream(("a",), FOREVER)
    async with process(log.process(), upstream) as here:
        conversation, generation = await ask(here, None, key("k"))
        here.drain.begin(1.0)
        for where in (None, await start(here)):
            with pytest.raises(Problem) as caught:
                await ask(here, where)
            assert refused(caught) == (503, "draining")
            assert caught.value.retry_after
        assert (await ask(here, None, key("k")))[0] == conversation
        await say(here, conversation, "still here?")
        command = CancelGeneration(generation, None, "anonymous")
        assert await here.commands.cancel_generation(conversation, command, None)
    the_end(of(log, conversation, generation))


async def test_full_server_refuses_with_overloaded(autojump_clock: MockClock) -> None:
    """And takes more when one has ended."""
    log, upstream = MemoryBackend(), FakeUpstream(10.0, ("a",))
    async with process(log.process(), upstream, max_runs=2) as here:
        first = await ask(here, None, key("k"))
        await ask(here)
        with pytest.raises(Problem) as caught:
            await ask(here)
        assert refused(caught) == (503, "overloaded")
        assert caught.value.extra == {"limit": 2}
        assert caught.value.retry_after
        assert (await ask(here, None, key("k")))[0] == first[0]
        await trio.sleep(11)
        await ask(here)
    assert len(log.streams) == 3
    assert folded(log, first[0]).generations[0].text == "a"


async def test_requests_being_appended_count_as_running(autojump_clock: MockClock) -> None:
    """Ten requests come at once for three places, while the log is slow to append them."""
    log, upstream = MemoryBackend(), FakeUpstream(FOREVER)
    async with process(Slow(log.process(), 1.0), upstream, max_runs=3) as here:
        answers: list[str] = []

        async def attempt() -> None:
            try:
                await ask(here)
            except Problem as problem:
                answers.append(problem.code)
            else:
                answers.append("accepted")

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(attempt)
        assert sorted(answers) == ["accepted"] * 3 + ["overloaded"] * 7
    assert len(log.streams) == 3
