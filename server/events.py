"""The facts of a conversation: every event type Tokentape writes, made in one place.

A constructor a type, so that no field is ever misspelt elsewhere. What a type means is in the public
contract; positions and times are the store's. Text must be clean (no U+0000, no lone surrogates) before it
comes here.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import msgspec

from eventstore import NewEvent

CONVERSATION: Final = "conversation"
"""The category of the streams."""
EPHEMERAL: Final = "ephemeral"
"""The category of those that are erased some time after their last event."""
SERVER: Final = "tokentape"
"""Who acted where nobody did: the server itself, on a time that came."""
CARRY: Final = "carry"
"""The field of `step.finished` that no client is shown."""
GENERATION_SCOPE: Final = "generation"
"""The scope of the keys by which a generation's id finds its conversation."""


class Type(StrEnum):
    """The event types."""

    CONVERSATION_STARTED = "conversation.started"
    MESSAGE_POSTED = "message.posted"
    GENERATION_REQUESTED = "generation.requested"
    GENERATION_STARTED = "generation.started"
    GENERATION_INTERRUPTED = "generation.interrupted"
    TOKEN = "token"
    REASONING = "reasoning"
    STEP_FINISHED = "step.finished"
    TOOL_ARGUMENTS = "tool.arguments"
    TOOL_PROPOSED = "tool.proposed"
    TOOL_DECIDED = "tool.decided"
    TOOL_STARTED = "tool.started"
    TOOL_FINISHED = "tool.finished"
    STEERING_CHANGED = "steering.changed"
    PROGRESS = "progress"
    RESULT = "result"
    GENERATION_COMPLETED = "generation.completed"
    GENERATION_FAILED = "generation.failed"
    GENERATION_CANCELLED = "generation.cancelled"


TERMINAL: Final = frozenset({Type.GENERATION_COMPLETED, Type.GENERATION_FAILED, Type.GENERATION_CANCELLED})
"""Exactly one of these ends a generation."""

LOSSES: Final = frozenset({"worker_lost", "internal_error"})
"""The reasons of a `generation.interrupted` that may be the run's own doing. The others are `server_stopped` (it
was handed over) and `store_unavailable` (the database was away)."""

MOST_EVENT_BYTES: Final = 1024 * 1024
"""Of an event's JSON that an app writes: every reader takes an event whole."""

_encode = msgspec.json.Encoder().encode


class EventTooLarge(ValueError):
    """An app wants to write an event of more than `MOST_EVENT_BYTES`. Nothing was written."""


def bounded(event: NewEvent, what: str) -> NewEvent:
    """The event itself. Raises `EventTooLarge`, with `what` in its message, where it is more than one may be."""
    size = len(event.data)
    if size > MOST_EVENT_BYTES // 4:  # a character is four bytes at most
        size = len(event.data.encode())
    if size > MOST_EVENT_BYTES:
        raise EventTooLarge(
            f"{what} takes {size:,} bytes as JSON, and an event {MOST_EVENT_BYTES:,} at most. Write it in parts, "
            "or keep it elsewhere and write where it is."
        )
    return event


def _event(kind: Type, fields: Mapping[str, Any], generation: str | None = None) -> NewEvent:
    data = {name: value for name, value in fields.items() if value is not None}
    return NewEvent(kind.value, _encode(data).decode(), generation)


def _exact(kind: Type, fields: Mapping[str, Any], generation: str) -> NewEvent:
    """The same where a null says something."""
    return NewEvent(kind.value, _encode(fields).decode(), generation)


def conversation_started(title: str | None, metadata: Mapping[str, Any] | None) -> NewEvent:
    """Always position 1."""
    return _event(Type.CONVERSATION_STARTED, {"title": title, "metadata": metadata})


def message_posted(message: str, role: str, content: str, author: str | None, by: str) -> NewEvent:
    """Somebody speaks. `message` is its id."""
    fields = {"message": message, "role": role, "content": content, "author": author, "by": by}
    return _event(Type.MESSAGE_POSTED, fields)


def generation_requested(
    generation: str,
    *,
    model: str | None = None,
    workflow: str | None = None,
    input: Any = None,
    parameters: Mapping[str, Any],
    tools: Sequence[str | Mapping[str, Any]] = (),
    steering: Mapping[str, Any] | None = None,
    on_crash: str = "fail",
    if_running: str = "reject",
    ephemeral: bool = False,
    by: str,
) -> NewEvent:
    """Durable before the client hears of the generation. `steering`: the values it begins with.

    What is as it is by default is left out.
    """
    fields = {
        "model": model,
        "workflow": workflow,
        "input": input,
        "parameters": parameters,
        "tools": tools or None,
        "steering": steering or None,
        "on_crash": None if on_crash == "fail" else on_crash,
        "if_running": None if if_running == "reject" else if_running,
        "ephemeral": ephemeral or None,
        "by": by,
    }
    return _event(Type.GENERATION_REQUESTED, fields, generation)


def generation_started(generation: str, attempt: int, worker: str) -> NewEvent:
    """A worker has taken it up, for the `attempt`-th time."""
    return _event(Type.GENERATION_STARTED, {"attempt": attempt, "worker": worker}, generation)


def token(generation: str, delta: str) -> NewEvent:
    """One chunk of text, as the upstream sent it."""
    return NewEvent("token", '{"delta":' + _encode(delta).decode() + "}", generation)


def reasoning(generation: str, delta: str) -> NewEvent:
    """One chunk of what the model thinks aloud, as the upstream sent it. It is no part of the answer's text."""
    return NewEvent("reasoning", '{"delta":' + _encode(delta).decode() + "}", generation)


def generation_interrupted(generation: str, attempt: int, reason: str) -> NewEvent:
    """Its worker is gone, or goes; another one takes it up. No end."""
    return _event(Type.GENERATION_INTERRUPTED, {"attempt": attempt, "reason": reason}, generation)


def step_finished(generation: str, step: str, result: Any, carry: Any = None) -> NewEvent:
    """Something that is not to be paid for again has a result: a later attempt takes it from here.

    `carry` is what an upstream wants back in its next request. It is for this server alone: whatever sends events
    to clients leaves it out (`server.wire.event_json`).
    """
    fields = {"step": step, "result": result, **({CARRY: carry} if carry is not None else {})}
    return _exact(Type.STEP_FINISHED, fields, generation)


def tool_arguments(generation: str, call: str, delta: str, name: str | None = None) -> NewEvent:
    """One chunk of the arguments of a call that the model is writing. `name`: the tool's, with the first chunk.

    The call itself is `tool.proposed`, with the same id; without that it never was one.
    """
    return _event(Type.TOOL_ARGUMENTS, {"call": call, "delta": delta, "name": name}, generation)


def tool_proposed(
    generation: str,
    call: str,
    *,
    name: str,
    arguments: Mapping[str, Any],
    arguments_digest: str,
    needs_approval: bool,
    step: str,
    client: bool = False,
    expires_at: datetime | None = None,
    hidden_characters: Sequence[str] = (),
) -> NewEvent:
    """A call is wanted. `step` says by which part of the run; `client`: a client runs it.

    `hidden_characters`: those in its name and arguments that nobody sees, as `U+202E`.
    """
    fields = {
        "call": call,
        "name": name,
        "arguments": arguments,
        "arguments_digest": arguments_digest,
        "needs_approval": needs_approval,
        "expires_at": expires_at,
        "client": client or None,
        "hidden_characters": hidden_characters or None,
        "step": step,
    }
    return _event(Type.TOOL_PROPOSED, fields, generation)


def tool_decided(
    generation: str,
    call: str,
    *,
    decision: str,
    proposed_digest: str,
    arguments: Mapping[str, Any],
    arguments_digest: str,
    reason: str | None,
    by: str,
    hidden_characters: Sequence[str] = (),
) -> NewEvent:
    """Somebody saw the arguments of `proposed_digest`, and said so. `arguments` are those that run."""
    fields = {
        "call": call,
        "decision": decision,
        "proposed_digest": proposed_digest,
        "arguments": arguments,
        "arguments_digest": arguments_digest,
        "hidden_characters": hidden_characters or None,
        "reason": reason,
        "by": by,
    }
    return _event(Type.TOOL_DECIDED, fields, generation)


def tool_started(generation: str, call: str) -> NewEvent:
    """Durable before the effect."""
    return _event(Type.TOOL_STARTED, {"call": call}, generation)


def tool_finished(generation: str, call: str, outcome: Mapping[str, Any], by: str | None = None) -> NewEvent:
    """`outcome` is `{"result": …}` or `{"error": {"code", "message"}}`; `by`: the client that ran it."""
    fields = {"call": call, **outcome, **({"by": by} if by is not None else {})}
    return _exact(Type.TOOL_FINISHED, fields, generation)


def steering_changed(generation: str, name: str, value: Any, by: str) -> NewEvent:
    """A parameter has another value from here on."""
    return _exact(Type.STEERING_CHANGED, {"name": name, "value": value, "by": by}, generation)


def progress(generation: str, done: float, total: float, unit: str, stage: str | None) -> NewEvent:
    """So much of the work is done."""
    return _event(Type.PROGRESS, {"done": done, "total": total, "unit": unit, "stage": stage}, generation)


def result(generation: str, value: Any) -> NewEvent:
    """What a workflow returned, as JSON."""
    return _exact(Type.RESULT, {"value": value}, generation)


def generation_completed(
    generation: str,
    finish_reason: str,
    usage: Mapping[str, int] | None,
    ttft_ms: int | None,
    refusal: str | None = None,
) -> NewEvent:
    """The end, well. `ttft_ms`: milliseconds from the start of the run to its first token, None without one.

    `refusal`: the words with which the model refused to answer.
    """
    fields: dict[str, Any] = {"finish_reason": finish_reason, "usage": usage or {}, "ttft_ms": ttft_ms}
    if refusal:
        fields["refusal"] = refusal
    return _exact(Type.GENERATION_COMPLETED, fields, generation)


def failure(code: str, message: str, reference: str | None = None) -> dict[str, str]:
    """What is told of a fault: a code for programs, a sentence for people. `reference` is in the server's log.

    The log is read by everybody who may read the conversation, for ever: no address of the operator's network and
    no text of an exception belongs into it.
    """
    told = {"code": code, "message": message}
    return told if reference is None else {**told, "reference": reference}


def generation_failed(
    generation: str, code: str, message: str, *, retryable: bool, reference: str | None = None
) -> NewEvent:
    """The end, badly. `retryable`: the same request may succeed."""
    fields = {"error": failure(code, message, reference), "retryable": retryable}
    return _event(Type.GENERATION_FAILED, fields, generation)


def generation_cancelled(generation: str, reason: str | None, by: str) -> NewEvent:
    """The end, by somebody's wish."""
    return _event(Type.GENERATION_CANCELLED, {"reason": reason, "by": by}, generation)
