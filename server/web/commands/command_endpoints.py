"""The endpoints of commands: a checked body becomes a command of the runtime, its outcome becomes a response.

Owns the rules of all POSTs. The functions `…_endpoint` are shared with the WebSocket, so that a command means the
same on both; they take who calls and a parsed body, and return a `CommandResult`. A command that is repeated with
its key gets the first result again, folded from the log at the position where its event was appended then.
`PostEndpoints` makes HTTP responses of the results. Must not know a web framework, nor how a command is decided.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from eventstore import Appended, Place, StoreUnavailable
from server import wire_formats
from server.conversations.budget import Budget
from server.conversations.command_types import (
    ROLES_SCOPE,
    Caller,
    CancelGeneration,
    DecideCall,
    FinishCall,
    NewMessage,
    PostMessage,
    RaiseBudget,
    RequestGeneration,
    StartConversation,
    SteerGeneration,
    WebhookTarget,
)
from server.conversations.conversation_state import Conversation
from server.conversations.idempotency_keys import idempotency_key
from server.ids import is_valid_id, new_id
from server.problem import Problem, not_found
from server.runtime.conversation_service import ConversationService
from server.web.commands import request_models as models
from server.web.commands.request_models import check, read_body
from server.web.edge.http_messages import (
    JSON,
    Endpoint,
    Headers,
    PlainRequest,
    PlainResponse,
    Response,
    StreamResponse,
    end_line,
)
from server.web.edge.problem_json import as_problem, problem_response
from server.web.snapshots import snapshot_json
from server.web.transports.log_reader import find_generation
from server.web.transports.read_params import (
    Form,
    StreamOptions,
    TypeFilter,
    accepted_form,
    cursor_text,
    preferences,
    read_cursor,
    read_stream_options,
    read_types,
)
from server.web.transports.sse_ndjson import HEADERS, open_stream, sse_refusal_response
from server.wire_formats import encode_event


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The result of a command that was carried out.

    `location` is a path, with the prefix that clients have to use. `generation` is the one that the command
    started, and `repeated` says that an earlier request with the same key had started it. `retry_after`: seconds
    after which it is worth while to read `location`.
    """

    status: int
    location: str
    body: bytes
    generation: str | None = None
    repeated: bool = False
    retry_after: int | None = None


Body = dict[str, Any]


# -- the commands, for POST and for the WebSocket


async def conversation_endpoint(
    runtime: ConversationService, caller: Caller, body: Body, key: str | None
) -> CommandResult:
    """`POST /v1/conversations`: 201 and the snapshot."""
    checked = check(models.CreateConversation, body)
    claim = idempotency_key(key, caller, "POST /v1/conversations", body)
    command = StartConversation(checked.title, checked.metadata, caller.tenant)
    done = await runtime.commands.start_conversation(command, claim)
    state = await _state_at(runtime, done)
    location = runtime.public.path(f"/v1/conversations/{done.stream}")
    return CommandResult(201, location, snapshot_json.conversation(state))


async def message_endpoint(
    runtime: ConversationService, caller: Caller, conversation: str, body: Body, key: str | None
) -> CommandResult:
    """`POST …/messages`: 201 and the event; of one that is delivered now, whether an answer is to take it."""
    checked = check(models.CreateMessage, body)
    _check_roles(caller, {"role": checked.role})
    claim = idempotency_key(key, caller, f"POST /v1/conversations/{conversation}/messages", body)
    content = models.message_content(checked, "content")
    command = PostMessage(
        new_id("msg"),
        checked.role,
        content,
        checked.author,
        caller.subject,
        tenant=caller.tenant,
        deliver=checked.deliver,
    )
    done = await runtime.commands.post_message(conversation, command, claim)
    event = await runtime.store.read_one(done.stream, done.first)
    if event is None:
        raise RuntimeError(f"{done.stream} has no event at {done.first}, where one was appended")
    location = runtime.public.path(f"/v1/conversations/{done.stream}?at={done.first}")
    return CommandResult(201, location, snapshot_json.posted(encode_event(event), checked.deliver))


async def generation_endpoint(
    runtime: ConversationService, caller: Caller, conversation: str | None, body: Body, key: str | None
) -> CommandResult:
    """`POST …/generations`: 202 and the generation's snapshot as it was when its request was durable."""
    _refuse_unavailable(body)
    checked = check(models.GenerateRequest, body)
    _check_fields_together(checked, own_conversation=conversation is None)
    scope = f"/v1/conversations/{conversation}/generations" if conversation else "/v1/generations"
    claim = idempotency_key(key, caller, f"POST {scope}", body)
    messages: tuple[NewMessage, ...] = ()
    if checked.model is not None:
        messages = _messages(check(models.ModelInput, {"input": body.get("input")}).input)
        _check_roles(caller, {f"input.{number}.role": message.role for number, message in enumerate(messages)})
    webhook = checked.webhook
    command = RequestGeneration(
        new_id("gen"),
        checked.parameters,
        caller.subject,
        model=checked.model,
        input=messages,
        workflow=checked.workflow,
        value=checked.input if checked.workflow is not None else None,
        tools=tuple(one if isinstance(one, str) else one.declaration() for one in checked.tools),
        if_running=checked.if_running,
        on_crash=checked.on_crash,
        ephemeral=checked.ephemeral,
        tenant=caller.tenant,
        budget=Budget(checked.budget.tokens, checked.budget.cost) if checked.budget is not None else None,
        webhook=WebhookTarget(webhook.url, tuple(webhook.events)) if webhook is not None else None,
    )
    done = await runtime.commands.request_generation(conversation, command, claim)
    state = await _state_at(runtime, done)
    found = state.generations[-1]
    runtime.remember(found.id, Place(done.stream, done.first, done.last))
    return CommandResult(
        202,
        runtime.public.path(f"/v1/generations/{found.id}"),
        snapshot_json.encode(snapshot_json.generation(found)),
        found.id,
        done.repeated,
        snapshot_json.retry_after(found),
    )


async def cancel_endpoint(
    runtime: ConversationService, caller: Caller, generation: str, body: Body, key: str | None
) -> CommandResult:
    """`POST …/cancel`: 200 and the snapshot, with `upstream_closed`."""
    checked = check(models.CancelRequest, body)
    claim = idempotency_key(key, caller, f"POST /v1/generations/{generation}/cancel", body)
    place = await runtime.place(generation)
    command = CancelGeneration(generation, checked.reason, caller.subject)
    closed = await runtime.commands.cancel_generation(place.stream, command, claim)
    _, found = await runtime.generation(generation)
    location = runtime.public.path(f"/v1/generations/{generation}")
    return CommandResult(200, location, snapshot_json.encode(snapshot_json.cancelled(found, closed)))


async def steer_endpoint(
    runtime: ConversationService, caller: Caller, generation: str, body: Body, key: str | None
) -> CommandResult:
    """`POST …/steer`: 200 and the snapshot as it was when the change was durable."""
    checked = check(models.SteerRequest, body)
    claim = idempotency_key(key, caller, f"POST /v1/generations/{generation}/steer", body)
    place = await runtime.place(generation)
    command = SteerGeneration(generation, checked.name, checked.value, caller.subject)
    done = await runtime.commands.steer_generation(place.stream, command, claim)
    return await _snapshot_at(runtime, generation, done)


async def budget_endpoint(
    runtime: ConversationService, caller: Caller, generation: str, body: Body, key: str | None
) -> CommandResult:
    """`POST …/budget`: 200 and the snapshot as it was when the new bounds were durable."""
    checked = check(models.BudgetBounds, body)
    claim = idempotency_key(key, caller, f"POST /v1/generations/{generation}/budget", body)
    place = await runtime.place(generation)
    command = RaiseBudget(generation, checked.tokens, checked.cost, caller.subject)
    done = await runtime.commands.raise_budget(place.stream, command, claim)
    return await _snapshot_at(runtime, generation, done)


async def decision_endpoint(
    runtime: ConversationService, caller: Caller, generation: str, body: Body, key: str | None
) -> CommandResult:
    """`POST …/decisions`: 200 and the snapshot as it was when the decision was durable."""
    checked = check(models.ToolDecision, body)
    claim = idempotency_key(key, caller, f"POST /v1/generations/{generation}/decisions", body)
    place = await runtime.place(generation)
    command = DecideCall(
        generation,
        checked.call,
        checked.decision,
        checked.proposed_digest,
        checked.arguments,
        checked.reason,
        caller.subject,
    )
    return await _snapshot_at(
        runtime, generation, await runtime.commands.decide_call(place.stream, command, claim)
    )


async def tool_result_endpoint(
    runtime: ConversationService, caller: Caller, generation: str, call: str, body: Body, key: str | None
) -> CommandResult:
    """`POST …/tools/{call}/result`: 200 and the snapshot as it was when the result was durable."""
    if not is_valid_id(call, "call"):  # a WebSocket command may hold any text here, and the key's scope is bounded
        raise not_found("tool call")
    checked = check(models.ToolResult, body)
    claim = idempotency_key(key, caller, f"POST /v1/generations/{generation}/tools/{call}/result", body)
    place = await runtime.place(generation)
    outcome = {"error": checked.error.model_dump()} if checked.error is not None else {"result": checked.result}
    command = FinishCall(generation, call, outcome, caller.subject)
    return await _snapshot_at(
        runtime, generation, await runtime.commands.finish_call(place.stream, command, claim)
    )


async def _state_at(runtime: ConversationService, done: Appended) -> Conversation:
    """The conversation as it was when the command was durable. Raises `Erased`, `Trimmed`."""
    if done.repeated:
        # Ask the log whether the conversation still exists: this process may remember one that was erased since.
        await runtime.head_of(done.stream)
    return await runtime.states.at(done.stream, done.last)


async def _snapshot_at(runtime: ConversationService, generation: str, done: Appended) -> CommandResult:
    found = (await _state_at(runtime, done)).generation(generation)
    if found is None:
        raise RuntimeError(f"{done.stream} has no {generation} at {done.last}")
    location = runtime.public.path(f"/v1/generations/{generation}?at={done.last}")
    return CommandResult(200, location, snapshot_json.encode(snapshot_json.generation(found)))


def _messages(given: str | list[models.InputMessage] | None) -> tuple[NewMessage, ...]:
    if isinstance(given, str):
        return (NewMessage("user", given),)
    return tuple(
        NewMessage(message.role, models.message_content(message, f"input.{number}.content"))
        for number, message in enumerate(given or ())
    )


def _check_roles(caller: Caller, roles: Mapping[str, str]) -> None:
    """Checks the roles of messages, by the names of their fields.

    Raises `Problem` 403 `scope_required`: whoever may only post as `user` could otherwise give a model orders as
    `system`, or put words into its mouth as `assistant` or `tool`.
    """
    for field, role in roles.items():
        if role != "user" and ROLES_SCOPE not in caller.scopes:
            raise Problem(
                403,
                "scope_required",
                f"{field}: messages of the role {role} need the scope {ROLES_SCOPE}, which this caller does not "
                "have. Post as user, or use a key with that scope.",
                extra={"scope": ROLES_SCOPE, "field": field},
            )


def _check_fields_together(checked: models.GenerateRequest, *, own_conversation: bool) -> None:
    """Checks what concerns several fields at once. Raises `Problem` 422."""
    wrong = None
    if (checked.model is None) == (checked.workflow is None):
        wrong = "model", "name a model or a workflow: one of both"
    elif checked.workflow is not None and checked.tools:
        wrong = "tools", "a workflow names its own tools"
    elif checked.ephemeral and not own_conversation:
        wrong = "ephemeral", "it needs a conversation of its own: POST /v1/generations"
    if wrong is not None:
        raise Problem(422, "invalid_request", f"{wrong[0]}: {wrong[1]}.", extra={"field": wrong[0]})


def _refuse_unavailable(body: Body) -> None:
    """Raises `Problem` 422 for what the API names but this version does not serve."""
    if body.get("on_crash") == "continue":
        raise Problem(
            422,
            "not_available",
            "on_crash = 'continue' is not available in this version; restart and fail are.",
            extra={"field": "on_crash"},
        )


# -- the same commands as POSTs


def caller_of(request: PlainRequest) -> Caller:
    """Who sends the request, as commands name it."""
    principal = request.principal
    return Caller(principal.subject, principal.tenant, principal.scopes)


@dataclass(frozen=True, slots=True)
class _StreamParameters:
    """How to read the log that is the response to a POST. `cursor_text` is the cursor as the client sent it."""

    cursor: int
    cursor_text: str | None
    options: StreamOptions
    types: TypeFilter | None


class PostEndpoints:
    """The endpoints of all POSTs, by the rules of their routes. `heartbeat`: seconds between those of a stream.

    A refused POST is answered with its status, also where a stream was asked for: whoever can send a POST can read
    a status. From when the generation's request is in the log, a stream is a 200 whatever follows: the run goes on
    without its reader.
    """

    def __init__(self, runtime: ConversationService, heartbeat: float) -> None:
        self._runtime = runtime
        self._heartbeat = heartbeat
        self.by_route: Mapping[str, Endpoint] = {
            "/v1/conversations": self._as_post(conversation_endpoint),
            "/v1/conversations/<conv:name>/messages": self._as_post(message_endpoint),
            "/v1/conversations/<conv:name>/generations": self._generate,
            "/v1/generations": self._generate,
            "/v1/generations/<gen:name>/cancel": self._as_post(cancel_endpoint),
            "/v1/generations/<gen:name>/steer": self._as_post(steer_endpoint),
            "/v1/generations/<gen:name>/budget": self._as_post(budget_endpoint),
            "/v1/generations/<gen:name>/decisions": self._as_post(decision_endpoint),
            "/v1/generations/<gen:name>/tools/<call:call>/result": self._as_post(tool_result_endpoint),
        }

    def _as_post(self, command: Callable[..., Awaitable[CommandResult]]) -> Endpoint:
        """A command's endpoint as that of a POST whose address holds the ids of the command."""

        async def endpoint(request: PlainRequest, *ids: str) -> PlainResponse:
            body = read_body(request.headers, request.body)
            return _response(
                await command(
                    self._runtime, caller_of(request), *ids, body, request.headers.get("idempotency-key")
                )
            )

        return endpoint

    async def _generate(self, request: PlainRequest, conversation: str | None = None) -> Response:
        # Check every parameter before anything starts: a mistake is refused in either form, and starts no run.
        headers, args = request.headers, request.args
        parameters = _StreamParameters(
            read_cursor(headers, args), cursor_text(headers, args), read_stream_options(args), read_types(args)
        )
        body, key = read_body(headers, request.body), headers.get("idempotency-key")
        streamed = accepted_form(headers.get("accept", "")) is Form.SSE
        if streamed:
            request.granted.check_stream(self._runtime.drain)
        result = await generation_endpoint(self._runtime, caller_of(request), conversation, body, key)
        if not streamed:
            return _accepted(result, headers.get("prefer", ""))
        response = await self._stream(request, result, parameters)
        location = (b"location", result.location.encode())
        if isinstance(response, StreamResponse):
            return StreamResponse(response.body, [*response.headers, location])
        return PlainResponse(response.status, [*response.headers, location], response.body)

    async def _stream(
        self, request: PlainRequest, result: CommandResult, parameters: _StreamParameters
    ) -> Response:
        """The run's log after the cursor. The run does not depend on this stream, which may be cut and resumed."""
        cursor, text = parameters.cursor, parameters.cursor_text
        if not result.repeated:
            # The client cannot have read anything of a new run: the cursor is one of an earlier run, from a client
            # that sends the same headers with every POST. It gets all of this run.
            cursor, text = 0, None
        try:
            source = await find_generation(self._runtime, result.generation or "", cursor, parameters.types)
            if source.nothing_follows:
                # Not the 204 that stops an EventSource: an EventSource cannot POST, and clients that can take a
                # 204 for an error and repeat the POST for ever.
                return PlainResponse(200, HEADERS[Form.SSE], wire_formats.SSE_DONE)
            return open_stream(
                self._runtime,
                request.granted,
                source,
                Form.SSE,
                heartbeat=self._heartbeat,
                options=parameters.options,
                requested_cursor=cursor,
            )
        except (Problem, StoreUnavailable) as error:
            problem = as_problem(error, self._runtime.public)
            if problem.retry_after is not None:
                return sse_refusal_response(problem, text)
            return problem_response(problem, self._runtime.public)


def _accepted(result: CommandResult, prefer: str) -> PlainResponse:
    """202. With `Prefer: respond-async` (RFC 7240 section 4.1) its `Location` answers 202 until the end."""
    retry_after = (b"retry-after", b"%d" % (result.retry_after or 1))
    if "respond-async" in preferences(prefer):
        applied = (b"preference-applied", b"respond-async")
        return _response(result, result.location + "?pending=202", [retry_after, applied])
    return _response(result, result.location, [retry_after])


def _response(result: CommandResult, location: str | None = None, more: Headers = ()) -> PlainResponse:
    headers = [
        (b"content-type", JSON.encode()),
        (b"location", (location or result.location).encode()),
        (b"cache-control", b"no-store"),
        *more,
    ]
    return PlainResponse(result.status, headers, end_line(result.body))
