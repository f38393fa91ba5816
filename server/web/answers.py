"""Commands to answers: what POST and WebSocket share, so that a command means the same on both.

An `Answer` is a status, a location and a JSON body; a repeated command gives the first one's again, made from
the log: the fold at the position where it was appended then.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eventstore import Place
from server.errors import Problem
from server.generation.commands import (
    CancelGeneration,
    PostMessage,
    RequestGeneration,
    Said,
    StartConversation,
)
from server.ids import new as new_id
from server.runtime.runtime import Runtime
from server.web import views
from server.web.asks import CancelAsk, ConversationAsk, GenerationAsk, InputMessage, MessageAsk
from server.web.bodies import CALLER, check, idempotency_key
from server.wire.event import encode as encode_event


@dataclass(frozen=True, slots=True)
class Answer:
    """What a carried-out command is answered with. `generation`: the one it started."""

    status: int
    location: str | None
    body: bytes
    generation: str | None = None


Body = dict[str, Any]


async def start_conversation(runtime: Runtime, body: Body, key: str | None) -> Answer:
    """`POST /v1/conversations`: 201 and the snapshot."""
    ask = check(ConversationAsk, body)
    claim = idempotency_key(key, "POST /v1/conversations", body)
    done = await runtime.commands.start_conversation(StartConversation(ask.title, ask.metadata), claim)
    state = await runtime.folds.at(done.stream, done.last)
    return Answer(201, f"/v1/conversations/{done.stream}", views.encode(views.conversation(state)))


async def post_message(runtime: Runtime, conversation: str, body: Body, key: str | None) -> Answer:
    """`POST …/messages`: 201 and the event."""
    ask = check(MessageAsk, body)
    claim = idempotency_key(key, f"POST /v1/conversations/{conversation}/messages", body)
    command = PostMessage(new_id("msg"), ask.role, ask.content, ask.author, CALLER)
    done = await runtime.commands.post_message(conversation, command, claim)
    event = await runtime.store.read_one(done.stream, done.first)
    if event is None:
        raise RuntimeError(f"{done.stream} has no event at {done.first}, where one was appended")
    return Answer(201, f"/v1/conversations/{done.stream}?at={done.first}", encode_event(event))


async def request_generation(runtime: Runtime, conversation: str | None, body: Body, key: str | None) -> Answer:
    """`POST …/generations`: 202 and the generation's snapshot as it was when its request was durable."""
    _refuse_later_fields(body)
    ask = check(GenerationAsk, body)
    scope = f"/v1/conversations/{conversation}/generations" if conversation else "/v1/generations"
    claim = idempotency_key(key, f"POST {scope}", body)
    said = _said(ask.input)
    command = RequestGeneration(new_id("gen"), ask.model, ask.parameters, said, CALLER)
    done = await runtime.commands.request_generation(conversation, command, claim)
    state = await runtime.folds.at(done.stream, done.last)
    found = state.generations[-1]
    runtime.remember(found.id, Place(done.stream, done.first, done.last))
    return Answer(202, f"/v1/generations/{found.id}", views.encode(views.generation(found)), found.id)


async def cancel_generation(runtime: Runtime, generation: str, body: Body, key: str | None) -> Answer:
    """`POST …/cancel`: 200 and the snapshot, with `upstream_closed`."""
    ask = check(CancelAsk, body)
    claim = idempotency_key(key, f"POST /v1/generations/{generation}/cancel", body)
    place = await runtime.place(generation)
    command = CancelGeneration(generation, ask.reason, CALLER)
    closed = await runtime.commands.cancel_generation(place.stream, command, claim)
    _, found = await runtime.generation(generation)
    return Answer(200, f"/v1/generations/{generation}", views.encode(views.cancelled(found, closed)))


def _said(given: str | list[InputMessage] | None) -> tuple[Said, ...]:
    if isinstance(given, str):
        return (Said("user", given),)
    return tuple(Said(message.role, message.content) for message in given or ())


LATER: Mapping[str, tuple[Any, ...]] = {
    "workflow": (None,),
    "tools": (None, []),
    "if_running": (None, "reject"),
    "on_crash": (None, "fail"),
    "ephemeral": (None, False),
    "webhook": (None,),
}
"""Fields of the contract that this version does not serve yet, with the values that ask for nothing."""


def _refuse_later_fields(body: Body) -> None:
    for field, idle in LATER.items():
        if field not in body:
            continue
        if body[field] not in idle:
            raise Problem(
                422,
                "not_available",
                f"{field} = {str(body[field])[:100]!a} is not available in this version.",
                extra={"field": field},
            )
        del body[field]
