"""Runs one plan in which people decide on tool calls while processes die, and records what the tools did.

Two processes share one log. Its calls take random times, and sometimes the answer is lost. A model or a workflow
wants tools run. The plan's steps decide on the calls rightly, wrongly, twice, too late or again with the same key,
and kill, hide and stop processes in between. Each tool records the arguments it ran with: the test judges only
these records and the log.
"""

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
import trio

from eventstore import Appended, Event, Key, StoreError
from eventstore.memory_backend import MemoryBackend
from server.conversations.command_types import DecideCall, FinishCall, RequestGeneration
from server.event_types import TERMINAL
from server.generations.run_context import Run
from server.ids import new_id
from server.problem import Problem
from server.runtime.conversation_service import ConversationService
from server.workflows import Workflow, digest, tool
from tests.generations.fake_agent import FakeAgent, Say
from tests.generations.unreliable_logs import Jittery

from .decision_plan import Act, AppearDead, Cancel, Crash, Decide, Plan, RepeatCommand, Stop
from .runtime_process import app, cancel, key, process, thought_dead
from .step_cancellation import CancelAfter

EXPIRES = 6.0
"""Seconds that people have for a decision."""
SHIP = {"name": "ship", "description": "Sends a parcel.", "approval": "always", "expires": EXPIRES}
"""A tool that the client runs."""
NON_IDEMPOTENT = ("refund", "mail")


@dataclass(frozen=True)
class Execution:
    """One run of a tool: its arguments, and the length of the log at that moment."""

    name: str
    arguments: dict[str, Any]
    head: int


class ProcessSlot:
    """A place for one process at a time: after a death the next process takes it."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._scope = trio.CancelScope()
        self.runtime: ConversationService | None = None
        self.clients: trio.Nursery | None = None

    async def serve(self) -> None:
        """For ever."""
        while True:
            with trio.CancelScope() as self._scope:
                async with self._make() as self.runtime, trio.open_nursery() as self.clients:
                    try:
                        await trio.sleep_forever()
                    finally:
                        self.runtime = self.clients = None
            await trio.sleep(0.5)

    def kill(self) -> None:
        """Nothing of it goes on from here, and who had asked it something hears nothing."""
        self._scope.cancel()

    def kill_after(self, steps: int) -> None:
        """The same, so many steps from now."""
        trio.lowlevel.add_instrument(CancelAfter(steps, self._scope))


@dataclass
class DecisionSimulation:
    """One plan carried out. `executions` are what the tools did, `answers` what the deciding clients were told."""

    plan: Plan
    log: MemoryBackend = field(default_factory=MemoryBackend)
    executions: list[Execution] = field(default_factory=list)
    answers: list[tuple[DecideCall, Key | None, Appended]] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    commands: list[tuple[DecideCall, Key | None]] = field(default_factory=list)
    conversation: str = ""
    generation: str = ""

    async def play(self) -> None:
        """From the request to long after its end."""
        self.chance = random.Random(self.plan.seed)
        registry = app(*self._tools(), self._workflow())

        def make() -> Any:
            return process(Jittery(self.log.process(), self.chance, 0.01), self._model(), registry=registry)

        self.slots = [ProcessSlot(make), ProcessSlot(make)]
        async with trio.open_nursery() as nursery:
            for slot in self.slots:
                nursery.start_soon(slot.serve)
            await self._request()
            nursery.start_soon(self._run_client_tools)
            while not self._events("tool.proposed", *TERMINAL):
                await trio.sleep(0.1)
            for pause, act in self.plan.acts:
                await trio.sleep(pause)
                self._begin(act)
            while not self._events(*TERMINAL):
                await trio.sleep(1.0)
            await trio.sleep(EXPIRES)  # whatever still wants to happen
            nursery.cancel_scope.cancel()

    # -- what is run

    def _ran(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        self.executions.append(Execution(name, arguments, self.log.streams[self.conversation].head))
        return arguments

    def _tools(self) -> list[Any]:
        @tool(expires=EXPIRES)
        async def refund(n: int, amount: int) -> dict[str, Any]:
            """Gives money back: always asked for, and never to be done twice."""
            done = self._ran("refund", {"n": n, "amount": amount})
            await trio.sleep(self.chance.choice([0.0, 0.5, 3.0]))
            return done

        @tool(approval=lambda n, amount: amount > 50, expires=EXPIRES, idempotent=True)
        async def book(n: int, amount: int) -> dict[str, Any]:
            """Asked for where it is much; may be done twice."""
            done = self._ran("book", {"n": n, "amount": amount})
            await trio.sleep(self.chance.choice([0.0, 0.5, 3.0]))
            return done

        @tool(approval="never")
        async def mail(n: int, amount: int) -> dict[str, Any]:
            """Nobody is asked; not to be done twice."""
            return self._ran("mail", {"n": n, "amount": amount})

        return [refund, book, mail]

    def _turns(self) -> list[list[tuple[str, dict[str, int]]]]:
        number = iter(range(100))
        return [
            [(name, {"n": next(number), "amount": amount}) for name, amount in turn] for turn in self.plan.turns
        ]

    def _model(self) -> FakeAgent:
        turns = [
            Say(
                (("so ",), 0.3), tuple((name, msgspec.json.encode(arguments).decode()) for name, arguments in turn)
            )
            for turn in self._turns()
        ]
        return FakeAgent(*(turns if self.plan.kind == "model" else []), Say((("done",),)))

    def _workflow(self) -> Workflow:
        async def ask(run: Run, name: str, arguments: dict[str, int]) -> None:
            decision = await run.approve(name, arguments, expires=EXPIRES)

            async def act() -> dict[str, Any]:
                return self._ran(name, dict(decision.arguments))

            if decision.approved:
                await run.step(f"{name} {arguments['n']}", act)

        async def plan(run: Run) -> None:
            for turn in self._turns():
                async with trio.open_nursery() as nursery:
                    for name, arguments in turn:
                        nursery.start_soon(ask, run, name, arguments)

        return Workflow("plan", plan)

    async def _run_client_tools(self) -> None:
        """A client that runs each call once, as the snapshot shows it, and says so until it is heard."""
        done: set[str] = set()
        while True:
            await trio.sleep(0.7)
            runtime = self._some(self.chance.randrange(2)).runtime
            if runtime is None:
                continue
            with suppress(Problem, StoreError):
                found = (await runtime.conversation(self.conversation)).generation(self.generation)
                for call in found.tool_calls if found else ():
                    if not (call.client and call.status == "started"):
                        continue
                    if call.call not in done:
                        done.add(call.call)
                        self._ran(call.name, call.arguments)
                    outcome = {"result": call.arguments}
                    command = FinishCall(self.generation, call.call, outcome, "client")
                    await runtime.commands.finish_call(self.conversation, command, None)

    # -- what people do

    async def _request(self) -> None:
        command = RequestGeneration(
            new_id("gen"),
            {},
            "anonymous",
            model="fake" if self.plan.kind == "model" else None,
            workflow="plan" if self.plan.kind == "workflow" else None,
            tools=("refund", "book", "mail", SHIP) if self.plan.kind == "model" else (),
        )
        while True:
            await trio.sleep(0.1)
            runtime = self.slots[0].runtime
            if runtime is not None:
                with suppress(Problem, StoreError):
                    done = await runtime.commands.request_generation(None, command, key("the request"))
                    break
        self.conversation = done.stream
        (asked,) = (
            event for event in self.log.streams[done.stream].events if event.type == "generation.requested"
        )
        self.generation = asked.tag or ""

    def _some(self, number: int) -> ProcessSlot:
        """That slot, or the other one where no process is."""
        slot = self.slots[number]
        return slot if slot.clients is not None else self.slots[1 - number]

    def _begin(self, act: Act) -> None:
        slot = self._some(act.slot)
        if slot.runtime is None or slot.clients is None:
            return
        match act:
            case Crash(steps=steps):
                slot.kill_after(steps)
            case AppearDead():
                slot.clients.start_soon(self._hide, slot.runtime)
            case Stop():
                slot.clients.start_soon(self._stop, slot)
            case Cancel():
                slot.clients.start_soon(self._cancel, slot.runtime)
            case RepeatCommand(which=which) if self.commands:
                slot.clients.start_soon(self._send, slot.runtime, *self.commands[which % len(self.commands)])
            case Decide():
                self.commands.append(self._command(act))
                slot.clients.start_soon(self._send, slot.runtime, *self.commands[-1])

    async def _hide(self, runtime: ConversationService) -> None:
        if runtime.store.owner not in self.log.living:
            return
        with thought_dead(self.log, runtime):
            await trio.sleep(4.0)

    async def _stop(self, slot: ProcessSlot) -> None:
        if slot.runtime is not None:
            await slot.runtime.supervisor.finish(0)
        slot.kill()

    async def _cancel(self, runtime: ConversationService) -> None:
        with suppress(Problem, StoreError):
            await cancel(runtime, self.conversation, self.generation)

    def _command(self, act: Decide) -> tuple[DecideCall, Key | None]:
        decided = {_fields(event)["call"] for event in self._events("tool.decided")}
        proposals = [_fields(event) for event in self._events("tool.proposed")]
        proposals.sort(key=lambda call: not call["needs_approval"] or call["call"] in decided)  # who waits, first
        call = proposals[act.call % len(proposals)]
        arguments = {**call["arguments"], "amount": act.amount} if act.decision == "modified" else None
        seen = {
            "right": call["arguments_digest"],
            "wrong": "0" * 64,
            "another's": proposals[(act.call + 1) % len(proposals)]["arguments_digest"],
            "his own": digest({**call["arguments"], "amount": act.amount}),
        }[act.seen]
        command = DecideCall(self.generation, call["call"], act.decision, seen, arguments, None, "somebody")
        return command, self._key(act, command) if act.key else None

    def _key(self, act: Decide, command: DecideCall) -> Key:
        return key(f"command {act.key}", msgspec.json.encode(command))

    async def _send(self, runtime: ConversationService, command: DecideCall, key: Key | None) -> None:
        try:
            done = await runtime.commands.decide_call(self.conversation, command, key)
        except Problem as problem:
            self.refusals.append(problem.code)
        except StoreError:
            self.refusals.append("store")
        else:
            self.answers.append((command, key, done))

    def _events(self, *types: str) -> list[Event]:
        return [event for event in self.log.streams[self.conversation].events if event.type in types]


def _fields(event: Event) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.json.decode(event.data)
    return fields
