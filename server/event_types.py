"""Every event type of a conversation, and one constructor for each: the only code that writes their fields.

The public contract says what each type means. The store adds positions and times. Callers have repaired the text
(`unicode_safety`): PostgreSQL stores neither U+0000 nor unpaired surrogates.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import msgspec

from eventstore import NewEvent
from server.message_parts import Content

CONVERSATION: Final = "conversation"
"""The category of the streams of the default tenant's conversations in the event store."""
DEFAULT_TENANT: Final = "default"
"""The tenant that owns a conversation whose first event names none."""
EPHEMERAL: Final = "ephemeral"
"""The category of conversations that are erased some time after their last event."""
ANONYMOUS: Final = "anonymous"
"""The `by` of everybody while the server has no keys."""
SERVER: Final = "tokentape"
"""The `by` of an event that no person caused: the server itself acted, because a time had come."""
CARRY: Final = "carry"
"""The field of `step.finished` that clients are not shown."""


def conversation_category(tenant: str) -> str:
    """The category of the streams of a tenant's conversations, so that a list of a category is one tenant's."""
    return CONVERSATION if tenant == DEFAULT_TENANT else f"{CONVERSATION}:{tenant}"


class EventType(StrEnum):
    """The event types."""

    CONVERSATION_STARTED = "conversation.started"
    MESSAGE_POSTED = "message.posted"
    MESSAGE_APPLIED = "message.applied"
    GENERATION_REQUESTED = "generation.requested"
    GENERATION_STARTED = "generation.started"
    GENERATION_INTERRUPTED = "generation.interrupted"
    TOKEN = "token"
    REASONING = "reasoning"
    STEP_FINISHED = "step.finished"
    TOOL_ARGUMENTS = "tool.arguments"
    TOOL_PROPOSED = "tool.proposed"
    TOOL_APPROVAL = "tool.approval"
    TOOL_DECIDED = "tool.decided"
    TOOL_STARTED = "tool.started"
    TOOL_FINISHED = "tool.finished"
    STEERING_CHANGED = "steering.changed"
    BUDGET_REACHED = "budget.reached"
    BUDGET_RAISED = "budget.raised"
    PROGRESS = "progress"
    RESULT = "result"
    GENERATION_COMPLETED = "generation.completed"
    GENERATION_FAILED = "generation.failed"
    GENERATION_CANCELLED = "generation.cancelled"


TERMINAL: Final = frozenset(
    {EventType.GENERATION_COMPLETED, EventType.GENERATION_FAILED, EventType.GENERATION_CANCELLED}
)
"""Exactly one event of these types ends a generation."""

LOSS_REASONS: Final = frozenset({"worker_lost", "internal_error"})
"""The reasons of a `generation.interrupted` that the run itself may have caused, such as a crash of its process.

The other reasons are `server_stopped` (the run was handed over) and `store_unavailable` (the database was away).
"""

MAX_EVENT_BYTES: Final = 1024 * 1024
"""The most bytes of JSON in an event that an app writes: each reader has to take an event as a whole."""

_encode = msgspec.json.Encoder().encode


class EventTooLarge(ValueError):
    """An app wants to write an event of more than `MAX_EVENT_BYTES`; the app is to blame. Nothing was written."""


def check_event_size(event: NewEvent, what: str) -> NewEvent:
    """Returns the event. Raises `EventTooLarge` where it is too large; `what` names it in the message."""
    size = len(event.data)
    if size > MAX_EVENT_BYTES // 4:  # UTF-8 takes at most four bytes for a character
        size = len(event.data.encode())
    if size > MAX_EVENT_BYTES:
        raise EventTooLarge(
            f"{what} takes {size:,} bytes as JSON, and an event {MAX_EVENT_BYTES:,} at most. Write it in parts, "
            "or keep it elsewhere and write where it is."
        )
    return event


def _event(kind: EventType, fields: Mapping[str, Any], generation: str | None = None) -> NewEvent:
    data = {name: value for name, value in fields.items() if value is not None}
    return NewEvent(kind.value, _encode(data).decode(), generation)


def _event_with_nulls(kind: EventType, fields: Mapping[str, Any], generation: str) -> NewEvent:
    """An event whose fields may be null: `_event` would leave them out."""
    return NewEvent(kind.value, _encode(fields).decode(), generation)


def conversation_started(
    title: str | None, metadata: Mapping[str, Any] | None, tenant: str = DEFAULT_TENANT
) -> NewEvent:
    """Always position 1. `tenant` owns the conversation for ever; the default one is left out."""
    named = None if tenant == DEFAULT_TENANT else tenant
    return _event(EventType.CONVERSATION_STARTED, {"title": title, "metadata": metadata, "tenant": named})


def message_posted(
    message: str,
    role: str,
    content: Content,
    author: str | None,
    by: str,
    deliver: str | None = None,
    into: str | None = None,
) -> NewEvent:
    """A message. `message` is its id, `author` a name to show, `by` who posted it.

    The files among the parts of `content` have their media types and sizes, and no `data`. `deliver`: `now` where
    it is to be put into a running answer; `into` is then the generation that is to take it, None where no answer
    was running that takes messages.
    """
    fields = {"message": message, "role": role, "content": content, "author": author, "by": by}
    return _event(EventType.MESSAGE_POSTED, {**fields, "deliver": deliver, "into": into})


def message_applied(generation: str, message: str) -> NewEvent:
    """The generation's answer takes this message into account from here on: its provider is asked with it."""
    return _event(EventType.MESSAGE_APPLIED, {"message": message}, generation)


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
    budget: Mapping[str, float] | None = None,
    by: str,
) -> NewEvent:
    """A generation is requested. Durable before the client gets the generation's id.

    `steering`: the first values of the workflow's parameters. `budget`: `tokens` and `cost` at which it waits.
    Fields with their default value are left out.
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
        "budget": budget or None,
        "by": by,
    }
    return _event(EventType.GENERATION_REQUESTED, fields, generation)


def generation_started(generation: str, attempt: int, worker: str) -> NewEvent:
    """A worker begins the attempt of this number, counted from 1."""
    return _event(EventType.GENERATION_STARTED, {"attempt": attempt, "worker": worker}, generation)


def token(generation: str, delta: str) -> NewEvent:
    """One chunk of the answer's text, as the provider sent it."""
    return NewEvent("token", '{"delta":' + _encode(delta).decode() + "}", generation)


def reasoning(generation: str, delta: str) -> NewEvent:
    """One chunk of the model's reasoning, as the provider sent it. It is no part of the answer's text."""
    return NewEvent("reasoning", '{"delta":' + _encode(delta).decode() + "}", generation)


def generation_interrupted(generation: str, attempt: int, reason: str) -> NewEvent:
    """An attempt ends because its worker does; another worker will begin the next one. Not an end of the run."""
    return _event(EventType.GENERATION_INTERRUPTED, {"attempt": attempt, "reason": reason}, generation)


def step_finished(generation: str, step: str, result: Any, carry: Any = None) -> NewEvent:
    """A step has a result. A later attempt takes it from the log, so that nobody pays for the step twice.

    `carry`: what a provider wants back in the next request. It is for this server alone: `server.wire_formats`
    leaves it out of what clients get.
    """
    fields = {"step": step, "result": result, **({CARRY: carry} if carry is not None else {})}
    return _event_with_nulls(EventType.STEP_FINISHED, fields, generation)


def tool_arguments(generation: str, call: str, delta: str, name: str | None = None) -> NewEvent:
    """One chunk of the arguments of a tool call that the model is writing. `name`: the tool's, in the first chunk.

    The call exists once a `tool.proposed` with the same id follows.
    """
    return _event(EventType.TOOL_ARGUMENTS, {"call": call, "delta": delta, "name": name}, generation)


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
    approvers: int = 1,
    another_person: bool = False,
) -> NewEvent:
    """A run proposes a tool call. `step`: the part of the run that does; `client`: a client runs the tool.

    `hidden_characters`: those in the name and the arguments, written as `U+202E`. `approvers`: how many people
    have to approve the call; `another_person`: whoever requested the generation is none of them. The usual values
    (one, anybody) are left out.
    """
    fields = {
        "call": call,
        "name": name,
        "arguments": arguments,
        "arguments_digest": arguments_digest,
        "needs_approval": needs_approval,
        "expires_at": expires_at,
        "approvers": approvers if needs_approval and approvers > 1 else None,
        "another_person": (needs_approval and another_person) or None,
        "client": client or None,
        "hidden_characters": hidden_characters or None,
        "step": step,
    }
    return _event(EventType.TOOL_PROPOSED, fields, generation)


def tool_approval(
    generation: str,
    call: str,
    *,
    proposed_digest: str,
    arguments_digest: str,
    remaining: int,
    by: str,
    arguments: Mapping[str, Any] | None = None,
    reason: str | None = None,
    hidden_characters: Sequence[str] = (),
) -> NewEvent:
    """A person who saw the arguments of `proposed_digest` approves; `remaining` others have to approve, too.

    `arguments`: those that the person wants instead, where the person modified them; `arguments_digest` is theirs.
    All earlier approvals were of other arguments, and do not count any more.
    """
    fields = {
        "call": call,
        "proposed_digest": proposed_digest,
        "arguments": arguments,
        "arguments_digest": arguments_digest,
        "hidden_characters": hidden_characters or None,
        "remaining": remaining,
        "reason": reason,
        "by": by,
    }
    return _event(EventType.TOOL_APPROVAL, fields, generation)


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
    approvals: Sequence[str] = (),
) -> NewEvent:
    """A person who saw the arguments of `proposed_digest` has decided.

    `arguments`: those that the tool will get. `approvals`: all who approved them, where several people had to.
    """
    fields = {
        "call": call,
        "decision": decision,
        "proposed_digest": proposed_digest,
        "arguments": arguments,
        "arguments_digest": arguments_digest,
        "hidden_characters": hidden_characters or None,
        "reason": reason,
        "by": by,
        "approvals": approvals or None,
    }
    return _event(EventType.TOOL_DECIDED, fields, generation)


def tool_started(generation: str, call: str) -> NewEvent:
    """The tool is about to run. Durable before the tool can have any effect."""
    return _event(EventType.TOOL_STARTED, {"call": call}, generation)


def tool_finished(generation: str, call: str, outcome: Mapping[str, Any], by: str | None = None) -> NewEvent:
    """A tool has run: `{"result": …}` or `{"error": {"code", "message"}}`. `by`: the client, where one ran it."""
    fields = {"call": call, **outcome, **({"by": by} if by is not None else {})}
    return _event_with_nulls(EventType.TOOL_FINISHED, fields, generation)


def steering_changed(generation: str, name: str, value: Any, by: str) -> NewEvent:
    """A parameter of the workflow has another value from here on."""
    return _event_with_nulls(EventType.STEERING_CHANGED, {"name": name, "value": value, "by": by}, generation)


def budget_reached(generation: str, bound: str, limit: float, used: float) -> NewEvent:
    """The run waits: of `tokens` or `cost` (`bound`) it has used so much, which is the limit or more."""
    fields = {"bound": bound, "limit": limit, "used": used}
    return _event(EventType.BUDGET_REACHED, fields, generation)


def budget_raised(generation: str, tokens: int | None, cost: float | None, by: str) -> NewEvent:
    """The generation may use so much from here on, all together. None: that bound stays as it is."""
    return _event(EventType.BUDGET_RAISED, {"tokens": tokens, "cost": cost, "by": by}, generation)


def progress(generation: str, done: float, total: float, unit: str, stage: str | None) -> NewEvent:
    """How much of the work is done: `done` of `total`, counted in `unit`s."""
    return _event(EventType.PROGRESS, {"done": done, "total": total, "unit": unit, "stage": stage}, generation)


def result(generation: str, value: Any) -> NewEvent:
    """What the workflow returned, as JSON."""
    return _event_with_nulls(EventType.RESULT, {"value": value}, generation)


def generation_completed(
    generation: str,
    finish_reason: str,
    usage: Mapping[str, float] | None,
    ttft_ms: int | None,
    refusal: str | None = None,
) -> NewEvent:
    """The generation has ended well.

    `usage`: tokens as the provider counted them, and their `cost` where the prices are known. `ttft_ms`:
    milliseconds from the start of the run to its first token; None: it had none. `refusal`: the words with which
    the model refused to answer.
    """
    fields: dict[str, Any] = {"finish_reason": finish_reason, "usage": usage or {}, "ttft_ms": ttft_ms}
    if refusal:
        fields["refusal"] = refusal
    return _event_with_nulls(EventType.GENERATION_COMPLETED, fields, generation)


def error_object(code: str, message: str, reference: str | None = None) -> dict[str, str]:
    """The JSON of an error: a code for programs, a sentence for people. `reference`: also in the server's log.

    Whoever may read the conversation reads this, for ever. So neither an address of the operator's network nor the
    text of an exception belongs in it.
    """
    told = {"code": code, "message": message}
    return told if reference is None else {**told, "reference": reference}


def generation_failed(
    generation: str, code: str, message: str, *, retryable: bool, reference: str | None = None
) -> NewEvent:
    """The generation has failed. `retryable`: the same request may succeed."""
    fields = {"error": error_object(code, message, reference), "retryable": retryable}
    return _event(EventType.GENERATION_FAILED, fields, generation)


def generation_cancelled(generation: str, reason: str | None, by: str) -> NewEvent:
    """The generation is cancelled. `reason`: text for people."""
    return _event(EventType.GENERATION_CANCELLED, {"reason": reason, "by": by}, generation)
