"""No message that is put into an answer is lost, taken twice or told out of place, whatever is posted, applied,
ended, cancelled or killed, in any order.

Hypothesis makes the plans. Each runs in virtual time, with two processes on one log whose calls take random times
and sometimes lose their answers. The checks read the log and what the model was asked, and nothing that the server
says.
"""

import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import trio
from hypothesis import Phase, given, note, seed, settings
from hypothesis import strategies as st
from trio._core import _run
from trio.testing import MockClock

from eventstore import Event, StoreError
from eventstore.memory_backend import MemoryBackend
from server.conversations.command_types import PostMessage, RequestGeneration
from server.conversations.prompt import transcript
from server.event_types import TERMINAL
from server.generations.run import message_inbox
from server.ids import new_id
from server.problem import Problem
from server.providers import Answer, Finish, Prompt, ToolCall
from server.runtime.conversation_service import ConversationService
from server.workflows import tool
from tests.generations.fake_upstream import FakeUpstream
from tests.generations.run_owner import the_end
from tests.generations.unreliable_logs import Jittery, events_of

from .decision_simulation import ProcessSlot
from .runtime_process import app, cancel, folded, key, process, thought_dead

Act = Literal["put", "say", "repeat", "crash", "hide", "stop", "cancel"]


@dataclass(frozen=True)
class Plan:
    """`acts`: what happens after so many seconds, in which of both processes, with a number for what it takes."""

    seed: int
    tools: bool
    rounds: int
    acts: Sequence[tuple[float, Act, int, int]]


PLANS = st.builds(
    Plan,
    st.integers(0, 10_000),
    st.booleans(),
    st.integers(0, 3),
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.05, 0.3, 0.3, 1.0, 2.5]),
            st.sampled_from(["put"] * 6 + ["crash"] * 4 + ["say", "say", "repeat", "hide", "stop", "cancel"]),
            st.integers(0, 1),
            st.sampled_from([1, 3, 10, 30, 100, 300]),
        ),
        min_size=2,
        max_size=12,
    ),
)
PLAYED = 120
NOTICE_SECONDS = 3.0
"""Within so many seconds an answer has noticed a message: the safety poll comes each second."""


@dataclass(frozen=True)
class Asked:
    """What the model was asked, and how long the log was then."""

    prompt: Prompt
    head: int


class TalkingModel(FakeUpstream):
    """Says some words at its own pace; for the first rounds it calls a tool at the end. It keeps what it was
    asked."""

    def __init__(self, simulation: "Simulation") -> None:
        super().__init__()
        self._simulation = simulation

    @asynccontextmanager
    async def open(self, prompt: Prompt) -> AsyncIterator[Answer]:
        simulation, plan = self._simulation, self._simulation.plan
        simulation.asked.append(Asked(prompt, len(simulation.events)))
        turns = sum(bool(message.calls) for message in prompt.messages)
        number = len(simulation.asked)
        wanted = (ToolCall(f"its_{number}", "work", "{}"),) if plan.tools and turns < plan.rounds else ()
        pauses = [simulation.chance.choice([0.0, 0.2, 1.0]) for _ in range(3)]
        self._script = tuple(step for n, pause in enumerate(pauses) for step in ([f"{number}.{n} "], pause))
        self._finish = Finish("tool_calls" if wanted else "stop", None, wanted)
        async with super().open(prompt) as answer:
            yield answer


@dataclass
class Simulation:
    """One plan carried out. `asked`: what the model was asked, in order, by whichever process."""

    plan: Plan
    log: MemoryBackend = field(default_factory=MemoryBackend)
    asked: list[Asked] = field(default_factory=list)
    commands: list[tuple[PostMessage, str]] = field(default_factory=list)
    generation: str = ""

    async def play(self) -> None:
        self.chance = random.Random(self.plan.seed)

        @tool(approval="never", idempotent=True)
        async def work() -> str:
            """Takes a while."""
            await trio.sleep(self.chance.choice([0.0, 0.5, 2.0]))
            return "done"

        def make() -> Any:
            log = Jittery(self.log.process(), self.chance, 0.01)
            return process(log, TalkingModel(self), registry=app(work))

        self.slots = [ProcessSlot(make), ProcessSlot(make)]
        async with trio.open_nursery() as nursery:
            for slot in self.slots:
                nursery.start_soon(slot.serve)
            await self._request()
            for pause, act, place, number in self.plan.acts:
                await trio.sleep(pause)
                self._begin(act, self._some(place), number)
            while True:
                await trio.sleep(5.0)  # then what is on its way has arrived, too
                if any(event.type in TERMINAL for event in self.events):
                    break
            nursery.cancel_scope.cancel()

    @property
    def conversation(self) -> str:
        """The only stream of the log."""
        (name,) = self.log.streams
        return name

    @property
    def events(self) -> list[Event]:
        return events_of(self.log, self.conversation)

    async def _request(self) -> None:
        tools = ("work",) if self.plan.tools else ()
        command = RequestGeneration(new_id("gen"), {}, "anonymous", model="fake", tools=tools, on_crash="restart")
        while True:
            await trio.sleep(0.1)
            runtime = self.slots[0].runtime
            if runtime is not None:
                with suppress(Problem, StoreError):
                    await runtime.commands.request_generation(None, command, key("the request"))
                    break
        self.generation = next(event.tag or "" for event in self.events if event.tag)

    def _some(self, number: int) -> ProcessSlot:
        slot = self.slots[number]
        return slot if slot.clients is not None else self.slots[1 - number]

    def _begin(self, act: Act, slot: ProcessSlot, number: int) -> None:
        if slot.runtime is None or slot.clients is None:
            return
        start = slot.clients.start_soon
        match act:
            case "put" | "say":
                deliver: Literal["now"] | None = "now" if act == "put" else None
                text = f"m{len(self.commands)}"
                command = PostMessage(new_id("msg"), "user", text, None, "Ada", deliver=deliver)
                self.commands.append((command, text))
                start(self._post, slot.runtime, command, text)
            case "repeat" if self.commands:
                start(self._post, slot.runtime, *self.commands[number % len(self.commands)])
            case "crash":
                slot.kill_after(number)
            case "hide":
                start(self._hide, slot.runtime)
            case "stop":
                start(self._stop, slot)
            case "cancel" if number == 100:
                start(self._cancel, slot.runtime)

    async def _post(self, runtime: ConversationService, command: PostMessage, text: str) -> None:
        with suppress(Problem, StoreError):
            await runtime.commands.post_message(self.conversation, command, key(text, text.encode()))

    async def _hide(self, runtime: ConversationService) -> None:
        if runtime.store.owner in self.log.living:
            with thought_dead(self.log, runtime):
                await trio.sleep(4.0)

    async def _stop(self, slot: ProcessSlot) -> None:
        if slot.runtime is not None:
            await slot.runtime.supervisor.finish(0)
        slot.kill()

    async def _cancel(self, runtime: ConversationService) -> None:
        with suppress(Problem, StoreError):
            await cancel(runtime, self.conversation, self.generation)


def fields(event: Event) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(event.data)
    return found


def check(simulation: Simulation) -> Counter[str]:
    """The laws, and which cases the plan went through."""
    events = simulation.events
    state = folded(simulation.log, simulation.conversation)  # every event was possible where it stands
    own = [event for event in events if event.tag == simulation.generation]
    end = the_end(own)
    applied = [(event.position, fields(event)["message"]) for event in own if event.type == "message.applied"]
    order = [message for _, message in applied]
    assert len(set(order)) == len(order), "taken twice"
    posted = {fields(event)["message"]: event for event in events if event.type == "message.posted"}
    assert len({fields(event)["content"] for event in posted.values()}) == len(posted), "posted twice"
    seen: Counter[str] = Counter()
    for message in state.messages:
        told, position = state.delivery_of(message), message.position
        if message.deliver is None:
            assert told is None
            assert message.id not in order
            continue
        assert told is not None
        seen[told.status] += 1
        assert told.status == ("applied" if message.id in order else "returned"), "nothing stays in the queue"
        if message.into is not None:
            assert own[0].position < position < end.position, "it names an answer that was open"
        else:
            assert position > end.position
        if told.status == "returned" and end.type == "generation.completed":
            assert (end.at - message.at).total_seconds() < NOTICE_SECONDS, "it came in time and was not taken"
        if told.status == "applied":
            assert told.applied_position == {one: at for at, one in applied}[message.id] > position
    check_pairs(own, applied)
    check_asked(simulation, state.generation(simulation.generation), own, applied, posted)
    check_transcript(simulation, state)
    check_lengths(own, state.generation(simulation.generation))
    seen[end.type] += 1
    seen["attempts"] += sum(event.type == "generation.started" for event in own) - 1
    seen["cuts"] += sum(
        event.type == "step.finished" and fields(event)["result"]["reason"] == "message" for event in own
    )
    seen["tools"] += sum(event.type == "tool.finished" for event in own)
    return seen


def check_pairs(own: Sequence[Event], applied: Sequence[tuple[int, str]]) -> None:
    """A message is never taken between a call and its result."""
    for position, _ in applied:
        before = [event for event in own if event.position < position]
        proposed = {fields(event)["call"] for event in before if event.type == "tool.proposed"}
        finished = {fields(event)["call"] for event in before if event.type == "tool.finished"}
        assert proposed == finished


def check_lengths(own: Sequence[Event], found: Any) -> None:
    """Each message knows how much of the attempt's text was written before it."""
    for applied in found.applied:
        before = [event for event in own if event.position < applied.position]
        begun = max(n for n, event in enumerate(before) if event.type == "generation.started")
        assert applied.text_length == sum(
            len(fields(event)["delta"]) for event in before[begun:] if event.type == "token"
        )


def check_asked(
    simulation: Simulation,
    found: Any,
    own: Sequence[Event],
    applied: Sequence[tuple[int, str]],
    posted: dict[str, Event],
) -> None:
    """The model was told of every message that was taken before it was asked, in order, and of no other."""
    texts = {message: fields(event)["content"] for message, event in posted.items()}
    into = {texts[message] for message, event in posted.items() if "into" in fields(event)}
    prompts: dict[tuple[int, int], Prompt] = {}
    for asked in simulation.asked:
        told = [one.content for one in asked.prompt.messages if one.content in into]
        durable = [texts[message] for position, message in applied if position <= asked.head]
        assert told == durable[: len(told)], "a message that was not taken, or in another order"
        # A process that lost the run may ask once more, with what it knew. Whoever goes on knows all.
        rounds = sum(event.type == "step.finished" and event.position <= asked.head for event in own)
        if len(told) == len(durable) and rounds:
            same = prompts.setdefault((rounds, len(told)), asked.prompt)
            assert asked.prompt == same, "another attempt asks something else"
    if found.status == "completed":
        everything = [texts[message] for _, message in applied]
        assert [one.content for one in simulation.asked[-1].prompt.messages if one.content in into] == everything


def check_transcript(simulation: Simulation, state: Any) -> None:
    """The next answer is told the whole text, with each message where it was taken, and every message once."""
    found = state.generation(simulation.generation)
    told = transcript(state)
    assert sorted(one.content for one in told if one.role == "user") == sorted(
        message.content for message in state.messages
    )
    if found.status in ("completed", "cancelled"):
        assert "".join(str(one.content) for one in told if one.role == "assistant") == found.text
        written = 0
        lengths = {}
        for one in told:
            if one.role == "assistant":
                written += len(str(one.content))
            lengths[one.position] = written
        for applied in found.applied:
            (message,) = (one for one in state.messages if one.id == applied.message)
            assert lengths[message.position] == min(applied.text_length, len(found.text))


WAYS = ("applied", "returned", "cuts", "attempts", "tools", "generation.completed", "generation.cancelled")


def test_no_message_is_lost(monkeypatch: Any) -> None:
    monkeypatch.setattr(message_inbox, "MAX_CUTS", 3)
    seen: Counter[str] = Counter()

    @seed(7)  # the same plans each time, also when the names in this function change
    @settings(max_examples=PLAYED, deadline=None, database=None, phases=[Phase.generate])
    @given(plan=PLANS)
    def play(plan: Plan) -> None:
        simulation = Simulation(plan)
        _run._r.seed(plan.seed)  # trio's order among those that may run
        trio.run(simulation.play, clock=MockClock(autojump_threshold=0))
        for event in simulation.events:
            note(f"{event.position} {event.at:%M:%S.%f} {event.tag} {event.type} {event.data}")
        for asked in simulation.asked:
            note(f"asked at {asked.head}: {[(one.role, one.content) for one in asked.prompt.messages]}")
        seen.update(check(simulation))

    play()
    # Nothing of that was for show.
    for way in (
        "applied",
        "returned",
        "cuts",
        "attempts",
        "tools",
        "generation.completed",
        "generation.cancelled",
    ):
        assert seen[way] >= 3, f"{way} {sorted(seen.items())}"
