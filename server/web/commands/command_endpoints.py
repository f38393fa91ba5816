"""Commands to answers: what POST and WebSocket share, so that a command means the same on both.

An `Answer` is a status, a location and a JSON body; a repeated command gives the first one's again, made from
the log: the fold at the position where it was appended then. It knows neither requests nor frames.
"""

from dataclasses import dataclass
from typing import Any

from eventstore import Appended, Place
from server.errors import Problem, not_found
from server.generation.commands import (
    CancelGeneration,
    DecideCall,
    FinishCall,
    PostMessage,
    RequestGeneration,
    Said,
    StartConversation,
    SteerGeneration,
)
from server.generation.state import Conversation
from server.ids import looks_right
from server.ids import new as new_id
from server.runtime.runtime import Runtime
from server.web.commands.idempotency import CALLER, idempotency_key
from server.web.commands.request_body import check
from server.web.commands.request_models import (
    CancelAsk,
    ConversationAsk,
    DecisionAsk,
    GenerationAsk,
    InputAsk,
    InputMessage,
    MessageAsk,
    SteerAsk,
    ToolResultAsk,
)
from server.web.snapshots import snapshot_json as views
from server.wire.event_json import encode as encode_event


@dataclass(frozen=True, slots=True)
class Answer:
    """What a carried-out command is answered with.

    `location` is a path as clients have to ask for it. `generation`: the one it started; `repeated`: that it was
    started before, by the same key; `retry_after`: seconds after which it is worth looking at `location`.
    """

    status: int
    location: str
    body: bytes
    generation: str | None = None
    repeated: bool = False
    retry_after: int | None = None


Body = dict[str, Any]


async def start_conversation(runtime: Runtime, body: Body, key: str | None) -> Answer:
    """`POST /v1/conversations`: 201 and the snapshot."""
    ask = check(ConversationAsk, body)
    claim = idempotency_key(key, "POST /v1/conversations", body)
    done = await runtime.commands.start_conversation(StartConversation(ask.title, ask.metadata), claim)
    state = await _state_then(runtime, done)
    return Answer(201, runtime.public.path(f"/v1/conversations/{done.stream}"), views.conversation(state))


async def post_message(runtime: Runtime, conversation: str, body: Body, key: str | None) -> Answer:
    """`POST …/messages`: 201 and the event."""
    ask = check(MessageAsk, body)
    claim = idempotency_key(key, f"POST /v1/conversations/{conversation}/messages", body)
    command = PostMessage(new_id("msg"), ask.role, ask.content, ask.author, CALLER)
    done = await runtime.commands.post_message(conversation, command, claim)
    event = await runtime.store.read_one(done.stream, done.first)
    if event is None:
        raise RuntimeError(f"{done.stream} has no event at {done.first}, where one was appended")
    location = runtime.public.path(f"/v1/conversations/{done.stream}?at={done.first}")
    return Answer(201, location, encode_event(event))


async def request_generation(runtime: Runtime, conversation: str | None, body: Body, key: str | None) -> Answer:
    """`POST …/generations`: 202 and the generation's snapshot as it was when its request was durable."""
    _refuse_later(body)
    ask = check(GenerationAsk, body)
    _check_together(ask, alone=conversation is None)
    scope = f"/v1/conversations/{conversation}/generations" if conversation else "/v1/generations"
    claim = idempotency_key(key, f"POST {scope}", body)
    command = RequestGeneration(
        new_id("gen"),
        ask.parameters,
        CALLER,
        model=ask.model,
        input=_said(check(InputAsk, {"input": body.get("input")}).input) if ask.model is not None else (),
        workflow=ask.workflow,
        value=ask.input if ask.workflow is not None else None,
        tools=tuple(one if isinstance(one, str) else one.model_dump() for one in ask.tools),
        if_running=ask.if_running,
        on_crash=ask.on_crash,
        ephemeral=ask.ephemeral,
        webhook=ask.webhook.url if ask.webhook is not None else None,
    )
    done = await runtime.commands.request_generation(conversation, command, claim)
    state = await _state_then(runtime, done)
    found = state.generations[-1]
    runtime.remember(found.id, Place(done.stream, done.first, done.last))
    return Answer(
        202,
        runtime.public.path(f"/v1/generations/{found.id}"),
        views.encode(views.generation(found)),
        found.id,
        done.repeated,
        views.retry_after(found),
    )


async def cancel_generation(runtime: Runtime, generation: str, body: Body, key: str | None) -> Answer:
    """`POST …/cancel`: 200 and the snapshot, with `upstream_closed`."""
    ask = check(CancelAsk, body)
    claim = idempotency_key(key, f"POST /v1/generations/{generation}/cancel", body)
    place = await runtime.place(generation)
    command = CancelGeneration(generation, ask.reason, CALLER)
    closed = await runtime.commands.cancel_generation(place.stream, command, claim)
    _, found = await runtime.generation(generation)
    location = runtime.public.path(f"/v1/generations/{generation}")
    return Answer(200, location, views.encode(views.cancelled(found, closed)))


async def steer_generation(runtime: Runtime, generation: str, body: Body, key: str | None) -> Answer:
    """`POST …/steer`: 200 and the snapshot as it was when the change was durable."""
    ask = check(SteerAsk, body)
    claim = idempotency_key(key, f"POST /v1/generations/{generation}/steer", body)
    place = await runtime.place(generation)
    command = SteerGeneration(generation, ask.name, ask.value, CALLER)
    return await _told(runtime, generation, await runtime.controls.steer_generation(place.stream, command, claim))


async def decide_call(runtime: Runtime, generation: str, body: Body, key: str | None) -> Answer:
    """`POST …/decisions`: 200 and the snapshot as it was when the decision was durable."""
    ask = check(DecisionAsk, body)
    claim = idempotency_key(key, f"POST /v1/generations/{generation}/decisions", body)
    place = await runtime.place(generation)
    command = DecideCall(
        generation, ask.call, ask.decision, ask.proposed_digest, ask.arguments, ask.reason, CALLER
    )
    return await _told(runtime, generation, await runtime.controls.decide_call(place.stream, command, claim))


async def finish_call(runtime: Runtime, generation: str, call: str, body: Body, key: str | None) -> Answer:
    """`POST …/tools/{call}/result`: 200 and the snapshot as it was when the result was durable."""
    if not looks_right(call, "call"):  # on the WebSocket any text may stand there, and a key's scope has a bound
        raise not_found("tool call")
    ask = check(ToolResultAsk, body)
    claim = idempotency_key(key, f"POST /v1/generations/{generation}/tools/{call}/result", body)
    place = await runtime.place(generation)
    outcome = {"error": ask.error.model_dump()} if ask.error is not None else {"result": ask.result}
    command = FinishCall(generation, call, outcome, CALLER)
    return await _told(runtime, generation, await runtime.controls.finish_call(place.stream, command, claim))


async def _state_then(runtime: Runtime, done: Appended) -> Conversation:
    """The conversation as it was when the command was durable.

    Of a repeated command the log is asked whether it is still there: what has been erased since must not be told
    from what one process remembers. Raises `Erased`, `Trimmed`.
    """
    if done.repeated:
        await runtime.head_of(done.stream)
    return await runtime.states.at(done.stream, done.last)


async def _told(runtime: Runtime, generation: str, done: Appended) -> Answer:
    found = (await _state_then(runtime, done)).generation(generation)
    if found is None:
        raise RuntimeError(f"{done.stream} has no {generation} at {done.last}")
    location = runtime.public.path(f"/v1/generations/{generation}?at={done.last}")
    return Answer(200, location, views.encode(views.generation(found)))


def _said(given: str | list[InputMessage] | None) -> tuple[Said, ...]:
    if isinstance(given, str):
        return (Said("user", given),)
    return tuple(Said(message.role, message.content) for message in given or ())


def _check_together(ask: GenerationAsk, *, alone: bool) -> None:
    """What no field says by itself. Raises `Problem` 422."""
    wrong = None
    if (ask.model is None) == (ask.workflow is None):
        wrong = "model", "name a model or a workflow: one of both"
    elif ask.workflow is not None and ask.tools:
        wrong = "tools", "a workflow names its own tools"
    elif ask.ephemeral and not alone:
        wrong = "ephemeral", "it needs a conversation of its own: POST /v1/generations"
    if wrong is not None:
        raise Problem(422, "invalid_request", f"{wrong[0]}: {wrong[1]}.", extra={"field": wrong[0]})


def _refuse_later(body: Body) -> None:
    if body.get("on_crash") == "continue":
        raise Problem(
            422,
            "not_available",
            "on_crash = 'continue' is not available in this version; restart and fail are.",
            extra={"field": "on_crash"},
        )
