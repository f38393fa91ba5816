"""From a request to an attempt: which executor runs it, whether it may be asked for, and when it may start.

Also how a run whose process is gone is taken over: by a new epoch of its writer that one process can claim. Owns
the choice of the executor and the queue in front of a generation. Must not know HTTP, or when a run counts as
lost.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import trio

from eventstore import (
    Append,
    Event,
    EventStore,
    Fenced,
    Key,
    KeyReused,
    OpenWriter,
    Rewound,
    StoreUnavailable,
    Writer,
)
from eventstore.db_retry import retry_until_available
from server import event_types
from server.config.price_table import PriceTable
from server.conversations import idempotency_keys
from server.conversations.command_types import NewMessage, PostMessage, RequestGeneration
from server.conversations.conversation_state import Conversation, Generation, ToolCall
from server.conversations.prompt import FirstPrompt, first_prompt, prompt_for
from server.conversations.state_machine import Status
from server.event_types import DEFAULT_TENANT, TERMINAL, EventType
from server.generations.executors import (
    AgentExecutor,
    AnswerExecutor,
    Attempt,
    Executor,
    WorkflowExecutor,
    no_queue,
)
from server.generations.run.run_files import MAX_PROMPT_FILES_BYTES, RunFiles, size_of_files, too_large
from server.generations.supervisor import Supervisor
from server.message_parts import files_of
from server.problem import Problem
from server.providers import BadParameters, Prompt, Provider, ProviderRegistry, UnknownModel
from server.runtime.state_cache import StateCache
from server.workflows import AnyTool, BadArguments, BadInput, ClientTool, Registry, find_file_refs


class RunScheduler:
    """Makes the attempts of one process, of the models, tools and workflows that it has."""

    def __init__(
        self,
        store: EventStore,
        states: StateCache,
        providers: ProviderRegistry,
        registry: Registry,
        prices: PriceTable,
        files: RunFiles,
    ) -> None:
        self._store = store
        self._files = files
        self._states = states
        self._providers = providers
        self._registry = registry
        self._prices = prices

    def resolve(self, command: RequestGeneration) -> RequestGeneration:
        """The command with its model, tools or workflow looked up: input checked, steering and `on_crash` set.

        Raises `Problem` 422: `unknown_workflow`, `invalid_input`, `unknown_model`, `unknown_tool`,
        `unknown_price`.
        """
        if command.workflow is None:
            self._find_tools(command.tools)
            self._resolve_model(command.model or "")
            self._check_price(command)
            default = "restart" if command.tools else "fail"
            return replace(command, on_crash=command.on_crash or default)  # type: ignore[arg-type]
        workflow = self._registry.workflows.get(command.workflow)
        if workflow is None:
            known = ", ".join(sorted(self._registry.workflows)) or "none (start the server with --workflows)"
            detail = f"unknown workflow {command.workflow[:100]!a}; loaded: {known}"
            raise Problem(422, "unknown_workflow", detail, extra={"field": "workflow"})
        try:
            value = workflow.read_input(command.value)
        except BadInput as error:
            errors = [{**one, "field": ".".join(filter(None, ("input", one["field"])))} for one in error.errors]
            detail = "; ".join(f"{one['field']}: {one['message']}" for one in errors[:5])
            raise Problem(422, "invalid_input", detail + ".", extra={"errors": errors[:20]}) from None
        return replace(
            command,
            files=tuple(dict.fromkeys(map(str, find_file_refs(value)))),
            steering=workflow.initial_steering(),
            on_crash=command.on_crash or workflow.on_crash,
        )

    def _check_price(self, command: RequestGeneration) -> None:
        bounded = command.budget is not None and command.budget.cost is not None
        if bounded and command.model not in self._prices.prices:
            raise Problem(
                422,
                "unknown_price",
                f"budget.cost: the model {command.model} has no price on this server, so its cost cannot be "
                "bounded. Bound its tokens, or name its price in the file of TOKENTAPE_PRICES.",
                extra={"field": "budget.cost"},
            )

    def check_prompt(self, state: Conversation, command: RequestGeneration) -> None:
        """Raises `Problem` 422 where the provider would refuse the request's prompt.

        `invalid_parameters`; `files_too_large`: the prompt has too many bytes of files.
        """
        if command.model is None:
            return
        provider, name = self._resolve_model(command.model)
        specs = tuple(tool.spec() for tool in self._find_tools(command.tools).values())
        prompt = prompt_for(state, name, command.parameters, more=command.input, tools=specs)
        _check_prompt(provider, prompt, [f"input.{number}.content" for number in range(len(command.input))])

    def check_message(self, state: Conversation, generation: str, command: PostMessage) -> None:
        """Raises `Problem` 422 where the generation's provider would refuse the files of a message that is to be
        put into its answer: the answer would fail of it. As `check_prompt`.
        """
        found = state.generation(generation)
        if found is None or not files_of(command.content) or not self.can_run(found):
            return
        provider, name = self._resolve_model(found.model or "")
        posted = state.messages_since(found.requested_position)
        more = [NewMessage(one.role, one.content) for one in posted if one.into == found.id]
        more.append(NewMessage(command.role, command.content))
        prompt = prompt_for(state, name, found.parameters, more=more, without=found.id)
        _check_prompt(provider, prompt, ["content"])

    def first_attempt(self, found: Generation, tenant: str, state: Conversation | None = None) -> Attempt:
        """The first attempt at a request in the log. `tenant`: of its conversation.

        `state` is the conversation, given where no other generation is open in it: the attempt starts at once.
        Without it, the attempt waits until all generations requested before it have ended.
        """
        queue = no_queue if state is not None else partial(self._wait_for_earlier, found)
        executor = self._executor(found, state, tenant)
        return Attempt(found, executor, queue, position=found.position, tenant=tenant)

    def can_run(self, found: Generation) -> bool:
        """Whether this process has the model, the tools or the workflow of the generation."""
        try:
            self._executor(found, None, DEFAULT_TENANT)
        except Problem:
            return False
        return True

    async def take_over(
        self, supervisor: Supervisor, writer: OpenWriter, state: Conversation, reason: str = "worker_lost"
    ) -> bool:
        """Starts the next attempt at a run that nobody drives any more. False: another process was faster.

        `state` is the run's conversation. The takeover is refused where anything was appended since: the attempt
        that counts as lost may have just begun, or written. `reason` is that of its `generation.interrupted`.

        Raises `WrongExpectedPosition` (look again, decide again) and `StoreError`. On `StoreUnavailable`, where
        the takeover may be in the log or not, the run becomes an orphan of this process.
        """
        found = state.generation(writer.name)
        assert found is not None
        begun = found.attempt > 0
        epoch, number = writer.epoch + 1, found.attempt + 1
        new = [event_types.generation_started(found.id, number, supervisor.worker)] if begun else []
        if not begun or found.status is not Status.QUEUED:  # else its worker has written the interruption itself
            new.insert(0, event_types.generation_interrupted(found.id, found.attempt, reason))
        executor = self._executor(found, None, state.tenant)
        append = Append(
            writer.stream,
            tuple(new),
            state.position,
            writer=Writer(found.id, epoch, 1),
            # Two processes that claim one epoch with one sequence would both be told "appended", the second one as
            # a repetition of the first. Of a key without a digest there is no repetition by another process.
            keys=(Key(idempotency_keys.ATTEMPT, f"{found.id}/{epoch}"),),
        )
        with supervisor.expecting(found.id):
            try:
                appended = await self._store.append(append)
            except (Fenced, KeyReused):  # it ended, or another process was faster
                return False
            except StoreUnavailable:
                supervisor.orphan(writer.stream, found.id, "store_unavailable")
                raise
            queue = no_queue if begun else partial(self._wait_for_earlier, found)
            at = appended.last
            supervisor.start(
                Attempt(found, executor, queue, number, epoch, position=at, begun=begun, tenant=state.tenant)
            )
        return True

    def _executor(self, found: Generation, state: Conversation | None, tenant: str) -> Executor:
        if found.workflow is not None:
            workflow = self._registry.workflows.get(found.workflow)
            if workflow is None:
                raise Problem(422, "unknown_workflow", f"unknown workflow {found.workflow}")
            return WorkflowExecutor(workflow)
        provider, name = self._resolve_model(found.model or "")
        provider = self._files.provider(provider, tenant)
        tools = self._find_tools(found.tools)
        prompt = self._prompt(found, name, tools, state)
        if tools:
            return AgentExecutor(found.model or "", provider, prompt, tools)
        return AnswerExecutor(found.model or "", provider, prompt)

    def _prompt(
        self, found: Generation, name: str, tools: Mapping[str, AnyTool], state: Conversation | None
    ) -> Callable[[int | None], Awaitable[FirstPrompt]]:
        specs = tuple(tool.spec() for tool in tools.values())

        async def make(until: int | None) -> FirstPrompt:
            known = state or await self._states.latest(found.conversation)
            return first_prompt(known, found, name, tools=specs, until=until)

        return make

    def check_arguments(
        self, state: Conversation, generation: str, call: ToolCall, arguments: Mapping[str, Any]
    ) -> dict[str, Any]:
        """A person's modified arguments of a call, checked by the tool that will run with them; with the defaults.

        Raises `Problem` 422 `invalid_arguments`.
        """
        tool = self._find_tool(state, generation, call)
        if tool is None:
            return dict(
                arguments
            )  # a question of a workflow, or a tool not loaded here: there is nothing to check
        try:
            return tool.check(arguments)
        except BadArguments as error:
            raise Problem(
                422, "invalid_arguments", f"{call.name}: {error}", extra={"field": "arguments"}
            ) from None

    def _find_tool(self, state: Conversation, generation: str, call: ToolCall) -> AnyTool | None:
        if call.is_question:
            return None
        if not call.client:
            return self._registry.tools.get(call.name)
        found = state.generation(generation)
        declared = [one for one in found.tools if not isinstance(one, str)] if found is not None else []
        return next((ClientTool(one) for one in declared if one["name"] == call.name), None)

    async def _wait_for_earlier(self, found: Generation) -> None:
        """Returns when all generations requested before this one have ended. Waits out any outage of the log.

        Raises `Fenced` where the log says that another process has taken this generation over, or that it ended.
        """
        while True:
            state = await retry_until_available(partial(self._states.latest, found.conversation))
            earlier = {one.id for one in state.open if one.requested_position < found.requested_position}
            try:
                position = state.position
                with self._store.subscribe(found.conversation, position, seen=position) as subscription:
                    while earlier:
                        for event in await retry_until_available(subscription.next):
                            if event.tag == found.id:
                                _raise_if_taken(found, event)
                            elif event.type in TERMINAL:
                                earlier.discard(event.tag or "")
                return
            except Rewound:
                await trio.lowlevel.checkpoint()  # the log went back: other generations may stand in front now

    def _resolve_model(self, model: str) -> tuple[Provider, str]:
        try:
            return self._providers.resolve(model)
        except UnknownModel as error:
            raise Problem(422, "unknown_model", str(error)) from None

    def _find_tools(self, wanted: tuple[str | Mapping[str, Any], ...]) -> dict[str, AnyTool]:
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


def _check_prompt(provider: Provider, prompt: Prompt, fields: Sequence[str]) -> None:
    """Raises `Problem` 422 where a prompt would be refused. `fields`: where the request has the last messages."""
    size = size_of_files(prompt.messages)
    if size > MAX_PROMPT_FILES_BYTES:
        raise Problem(422, "files_too_large", too_large(size), extra={"limit": MAX_PROMPT_FILES_BYTES})
    try:
        provider.check(prompt)
    except BadParameters as error:
        field = error.field
        if error.part is not None and (new := error.part[0] - len(prompt.messages) + len(fields)) >= 0:
            field = f"{fields[new]}.{error.part[1]}"
        detail = f"{field}: {error.message}"
        raise Problem(422, "invalid_parameters", detail, extra={"field": field}) from None


def _raise_if_taken(found: Generation, event: Event) -> None:
    """Raises `Fenced` where an event of a queued generation was written by another process."""
    if event.type in TERMINAL:
        raise Fenced(found.conversation, found.id, "closed")
    if event.type in (EventType.GENERATION_STARTED, EventType.GENERATION_INTERRUPTED):
        raise Fenced(found.conversation, found.id, "epoch")
