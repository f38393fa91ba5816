"""From a request to an attempt: what there is to play, whether it may be asked for, and when its turn is.

Also how a run whose process is gone is taken over: with a new epoch, claimed by one process. It knows no HTTP.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import trio

from eventstore import (
    Append,
    EventStore,
    Fenced,
    Key,
    KeyReused,
    OpenWriter,
    Rewound,
    StoreUnavailable,
    Writer,
)
from server import events, logs
from server.errors import Problem
from server.events import TERMINAL
from server.generation.attempt import Attempt, at_once
from server.generation.commands import RequestGeneration
from server.generation.pace import Pace
from server.generation.prompt import prompt_for
from server.generation.run import Surroundings
from server.generation.scripts import Agent, Answer, Play, Script
from server.generation.state import Conversation, Generation
from server.generation.states import Status
from server.generation.supervisor import Supervisor
from server.runtime.state_cache import StateCache
from server.store_retry import insist
from server.upstream import BadParameters, Prompt, UnknownModel, Upstream, Upstreams
from server.workflows import AnyTool, BadInput, ClientTool, Registry

log = logs.get("starting")

ATTEMPT: str = "attempt"
"""The scope of the keys by which one process alone takes a run over."""


class Starting:
    """One process's knowledge of what it can run."""

    def __init__(self, store: EventStore, folds: StateCache, upstreams: Upstreams, registry: Registry) -> None:
        self._store = store
        self._folds = folds
        self._upstreams = upstreams
        self._registry = registry

    def settle(self, command: RequestGeneration) -> RequestGeneration:
        """The command with what its workflow or model decides: input checked, steering and `on_crash` begun with.

        `Problem` 422: `unknown_workflow`, `invalid_input`, `unknown_model`, `unknown_tool`.
        """
        if command.workflow is None:
            self._tools(command.tools)
            self._resolve(command.model or "")
            default = "restart" if command.tools else "fail"
            return replace(command, on_crash=command.on_crash or default)  # type: ignore[arg-type]
        workflow = self._registry.workflows.get(command.workflow)
        if workflow is None:
            known = ", ".join(sorted(self._registry.workflows)) or "none (start the server with --workflows)"
            detail = f"unknown workflow {command.workflow[:100]!a}; loaded: {known}"
            raise Problem(422, "unknown_workflow", detail, extra={"field": "workflow"})
        try:
            workflow.read_input(command.value)
        except BadInput as error:
            told = [{**one, "field": ".".join(filter(None, ("input", one["field"])))} for one in error.errors]
            detail = "; ".join(f"{one['field']}: {one['message']}" for one in told[:5])
            raise Problem(422, "invalid_input", detail + ".", extra={"errors": told[:20]}) from None
        return replace(
            command,
            steering=workflow.initial_steering(),
            on_crash=command.on_crash or workflow.on_crash,
        )

    def check(self, state: Conversation, command: RequestGeneration) -> None:
        """`Problem` 422 `invalid_parameters` where the model would refuse this prompt."""
        if command.model is None:
            return
        upstream, name = self._resolve(command.model)
        specs = tuple(tool.spec() for tool in self._tools(command.tools).values())
        try:
            upstream.check(prompt_for(state, name, command.parameters, more=command.input, tools=specs))
        except BadParameters as error:
            detail, extra = f"{error.field}: {error.message}", {"field": error.field}
            raise Problem(422, "invalid_parameters", detail, extra=extra) from None

    def attempt(self, found: Generation, state: Conversation | None = None) -> Attempt:
        """The first attempt at a request in the log. `state`: the conversation, where nothing runs before it."""
        turn = at_once if state is not None else partial(self._turn, found)
        return Attempt(found, self._script(found, state), turn, position=found.position)

    def knows(self, found: Generation) -> bool:
        """Whether this process has what it plays."""
        try:
            self._script(found, None)
        except Problem:
            return False
        return True

    async def take_over(
        self, supervisor: Supervisor, writer: OpenWriter, state: Conversation, reason: str = "worker_lost"
    ) -> bool:
        """Drives on what nobody drives any more. False if another process was faster.

        `state` is its conversation: the append stands only where nothing has come behind it, for the attempt
        that is taken for lost may just have begun, or said something. `reason`: why nobody drives it. Raises
        `WrongExpectedPosition` (fold again, decide again) and `StoreError`; where it is not known whether the
        append stands, the run is among those that the supervisor has left.
        """
        found = state.generation(writer.name)
        assert found is not None
        begun = found.attempt > 0
        epoch, number = writer.epoch + 1, found.attempt + 1
        new = [events.generation_started(found.id, number, supervisor.worker)] if begun else []
        if not begun or found.status is not Status.QUEUED:  # else its worker has said so itself
            new.insert(0, events.generation_interrupted(found.id, found.attempt, reason))
        script = self._script(found, None)
        append = Append(
            writer.stream,
            tuple(new),
            state.position,
            writer=Writer(found.id, epoch, 1),
            # Two processes would both be told "appended": for one it is a repetition. The key knows whose it is.
            keys=(Key(ATTEMPT, f"{found.id}/{epoch}"),),
        )
        with supervisor.expecting(found.id):
            try:
                appended = await self._store.append(append)
            except (Fenced, KeyReused):  # it ended, or another process was faster
                return False
            except StoreUnavailable:
                supervisor.leave(writer.stream, found.id, "store_unavailable")
                raise
            turn = at_once if begun else partial(self._turn, found)
            supervisor.start(Attempt(found, script, turn, number, epoch, position=appended.last, begun=begun))
        return True

    def around(self, pace: Pace, attempt: Attempt) -> Surroundings:
        """What an attempt finds around it."""
        return Surroundings(
            self._upstreams,
            self._registry.tools,
            attempt.figures,
            pace,
            # Nothing is lost by waiting for a log that is away.
            partial(insist, partial(self._folds.latest, attempt.conversation)),
        )

    def _script(self, found: Generation, state: Conversation | None) -> Script:
        if found.workflow is not None:
            workflow = self._registry.workflows.get(found.workflow)
            if workflow is None:
                raise Problem(422, "unknown_workflow", f"unknown workflow {found.workflow}")
            return Play(found, workflow)
        upstream, name = self._resolve(found.model or "")
        tools = self._tools(found.tools)
        prompt = self._prompt(found, name, tools, state)
        if tools:
            return Agent(found.model or "", upstream, prompt, found, tools)
        return Answer(found.model or "", upstream, prompt)

    def _prompt(
        self, found: Generation, name: str, tools: Mapping[str, AnyTool], state: Conversation | None
    ) -> Callable[[], Awaitable[Prompt]]:
        specs = tuple(tool.spec() for tool in tools.values())

        async def make() -> Prompt:
            known = state or await self._folds.latest(found.conversation)
            return prompt_for(known, name, found.parameters, tools=specs, but=found.id)

        return make

    async def _turn(self, found: Generation) -> None:
        """Returns when all generations that were asked for before this one have ended. Waits out any outage."""
        while True:
            state = await insist(partial(self._folds.latest, found.conversation))
            before = {one.id for one in state.open if one.requested_position < found.requested_position}
            try:
                here = state.position
                with self._store.subscribe(found.conversation, here, seen=here) as subscription:
                    while before:
                        for event in await insist(subscription.next):
                            if event.type in TERMINAL:
                                before.discard(event.tag or "")
                return
            except Rewound:
                await trio.lowlevel.checkpoint()  # who stands in front may have changed

    def _resolve(self, model: str) -> tuple[Upstream, str]:
        try:
            return self._upstreams.resolve(model)
        except UnknownModel as error:
            raise Problem(422, "unknown_model", str(error)) from None

    def _tools(self, wanted: tuple[str | Mapping[str, Any], ...]) -> dict[str, AnyTool]:
        found: dict[str, AnyTool] = {}
        for number, one in enumerate(wanted):
            tool: AnyTool | None = self._registry.tools.get(one) if isinstance(one, str) else ClientTool(one)
            if tool is None:
                known = ", ".join(sorted(self._registry.tools)) or "none (start the server with --workflows)"
                detail = f"tools.{number}: unknown tool {str(one)[:100]!a}; loaded: {known}"
                raise Problem(422, "unknown_tool", detail, extra={"field": f"tools.{number}"})
            if found.setdefault(tool.name, tool) is not tool:
                detail = f"tools.{number}: two tools are called {tool.name}"
                raise Problem(422, "invalid_request", detail, extra={"field": f"tools.{number}"})
        return found
