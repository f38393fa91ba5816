"""The schemas of events: one msgspec struct for each type, with what the document says of its fields.

These structs encode nothing: `server.event_types` writes events, and the tests check every event that a server
writes against these schemas. Every type of `server.event_types` must have a struct here. Docstrings and
descriptions are part of `/openapi.json`.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from server.event_types import EventType
from server.ids import id_pattern
from server.web.commands.request_models import Role
from server.web.snapshots.snapshot_json import CallId, Digest, Failure, GenerationId, Parts

At = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z$",
        description="When it was appended: UTC, microseconds; never falls within a conversation.",
    ),
]
By = Annotated[str, Meta(description="Who acted, as the server knows it; `anonymous` until there are keys.")]


class Event(msgspec.Struct, tag_field="type", kw_only=True):
    """Of a conversation."""

    position: Annotated[int, Meta(ge=1, description="1, 2, 3 … in its conversation: the only cursor there is.")]
    at: At


class GenerationEvent(Event, kw_only=True):
    """Of one generation in it."""

    generation: GenerationId


Arguments = dict[str, Any]
Hidden = Annotated[
    list[Annotated[str, Meta(pattern="^U\\+[0-9A-F]{4,6}$")]] | UnsetType,
    Meta(
        description="Characters in the name or the arguments that nobody sees, or that reorder what is seen: "
        "show them as escapes to whoever decides. The arguments, and their digest, hold them as they are."
    ),
]


class StepFinished(GenerationEvent, tag=EventType.STEP_FINISHED.value, kw_only=True):
    """What is not to be paid for again has a result: a later attempt takes it from here. Clients may ignore it."""

    step: str
    result: Any


class ToolArguments(GenerationEvent, tag=EventType.TOOL_ARGUMENTS.value, kw_only=True):
    """One chunk of a call's arguments, while the model writes them. The call is `tool.proposed`, with the same id.

    Chunks without it before the next `generation.started`, or the end, are of an answer that was cut: throw them
    away.
    """

    call: CallId
    delta: Annotated[str, Meta(description="More of the JSON text; no JSON by itself.")]
    name: Annotated[str | UnsetType, Meta(description="The tool's; with the first chunk.")] = UNSET


class ToolProposed(GenerationEvent, tag=EventType.TOOL_PROPOSED.value, kw_only=True):
    """A call is wanted. Where it needs approval the generation waits for a decision."""

    call: CallId
    name: str
    arguments: Arguments
    arguments_digest: Annotated[
        Digest, Meta(description="SHA-256 of the arguments as canonical JSON (RFC 8785): what a decision names.")
    ]
    needs_approval: bool
    expires_at: Annotated[
        datetime | UnsetType, Meta(description="From then on it counts as rejected, with the reason `expired`.")
    ] = UNSET
    approvers: Annotated[
        Annotated[int, Meta(ge=2)] | UnsetType, Meta(description="How many people have to approve it. Absent: 1.")
    ] = UNSET
    another_person: Annotated[
        bool | UnsetType, Meta(description="Whether who asked for the generation may not approve it.")
    ] = UNSET
    client: Annotated[bool | UnsetType, Meta(description="Whether a client runs it, and posts its result.")] = (
        UNSET
    )
    hidden_characters: Hidden = UNSET
    step: Annotated[str, Meta(description="By which part of the run.")]


class ToolApproval(GenerationEvent, tag=EventType.TOOL_APPROVAL.value, kw_only=True):
    """One of several people who have to approve the call has done so. The last one's is `tool.decided`."""

    call: CallId
    proposed_digest: Annotated[Digest, Meta(description="Of what was seen.")]
    arguments: Annotated[
        Arguments | UnsetType,
        Meta(
            description="What the person wants to run instead. Approvals before it count no more, and decisions "
            "have to name the `arguments_digest` of these."
        ),
    ] = UNSET
    arguments_digest: Annotated[Digest, Meta(description="Of what is approved.")]
    hidden_characters: Hidden = UNSET
    remaining: Annotated[int, Meta(ge=1, description="How many other people have to approve it still.")]
    reason: str | UnsetType = UNSET
    by: By


class ToolDecided(GenerationEvent, tag=EventType.TOOL_DECIDED.value, kw_only=True):
    """Somebody saw the arguments of `proposed_digest`, and said so; `tokentape` where nobody did in time."""

    call: CallId
    decision: Literal["approved", "rejected", "modified"]
    proposed_digest: Annotated[Digest, Meta(description="Of what was seen.")]
    arguments: Annotated[Arguments, Meta(description="What runs.")]
    arguments_digest: Digest
    hidden_characters: Hidden = UNSET
    reason: str | UnsetType = UNSET
    by: By
    approvals: Annotated[
        list[str] | UnsetType, Meta(description="All who approved it, where several people had to.")
    ] = UNSET


class ToolStarted(GenerationEvent, tag=EventType.TOOL_STARTED.value, kw_only=True):
    """Durable before the effect. A client that runs the call begins now."""

    call: CallId


class ToolFinished(GenerationEvent, tag=EventType.TOOL_FINISHED.value, kw_only=True):
    """What became of the call: a result or an error, one of both."""

    call: CallId
    result: Any | UnsetType = UNSET
    error: Failure | UnsetType = UNSET
    by: Annotated[str | UnsetType, Meta(description="The client that ran it.")] = UNSET


class SteeringChanged(GenerationEvent, tag=EventType.STEERING_CHANGED.value, kw_only=True):
    """A parameter has another value from here on."""

    name: str
    value: Any
    by: By


class BudgetReached(GenerationEvent, tag=EventType.BUDGET_REACHED.value, kw_only=True):
    """The run waits until somebody raises this bound, unless that came just before."""

    bound: Literal["tokens", "cost"]
    limit: float
    used: Annotated[float, Meta(description="So much was used: the limit or more.")]


class BudgetRaised(GenerationEvent, tag=EventType.BUDGET_RAISED.value, kw_only=True):
    """The generation may use more from here on. A bound that is not named stays as it is."""

    tokens: int | UnsetType = UNSET
    cost: float | UnsetType = UNSET
    by: By


class Progress(GenerationEvent, tag=EventType.PROGRESS.value, kw_only=True):
    """So much of the work is done: 12 of 47 pages."""

    done: float
    total: float
    unit: str
    stage: str | UnsetType = UNSET


class Result(GenerationEvent, tag=EventType.RESULT.value, kw_only=True):
    """What the workflow returned."""

    value: Any


class ConversationStarted(Event, tag=EventType.CONVERSATION_STARTED.value, kw_only=True):
    """Always position 1."""

    title: str | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET
    tenant: Annotated[str | UnsetType, Meta(description="Who owns it, for ever. Absent: `default`.")] = UNSET


class MessagePosted(Event, tag=EventType.MESSAGE_POSTED.value, kw_only=True):
    """A person, a system or a tool speaks."""

    message: Annotated[str, Meta(pattern=id_pattern("msg"))]
    role: Role
    content: Annotated[str | Parts, Meta(description="A text, or what it was put together of.")]
    author: Annotated[str | UnsetType, Meta(description="A name to show; whoever posted chose it.")] = UNSET
    by: By
    deliver: Annotated[
        Literal["now"] | UnsetType, Meta(description="It is to be put into the answer that is running.")
    ] = UNSET
    into: Annotated[
        GenerationId | UnsetType,
        Meta(
            description="Of a message that is delivered now: the generation that is to take it. Absent: no answer "
            "ran that takes messages; the next one sees it."
        ),
    ] = UNSET


class PostedMessage(MessagePosted, tag=EventType.MESSAGE_POSTED.value, kw_only=True):
    """The event, as who posted the message is told of it."""

    delivery: Annotated[
        Literal["queued", "returned"] | UnsetType,
        Meta(
            description="Of a message that is delivered now. `queued`: an answer is to take it. `returned`: none "
            "ran that takes messages."
        ),
    ] = UNSET


class MessageApplied(GenerationEvent, tag=EventType.MESSAGE_APPLIED.value, kw_only=True):
    """The answer knows this message from here on. Where the generation ends without it, it is for the next one."""

    message: Annotated[str, Meta(pattern=id_pattern("msg"))]


class GenerationRequested(GenerationEvent, tag=EventType.GENERATION_REQUESTED.value, kw_only=True):
    """An answer is wanted, of a model or a workflow. Durable before the 202 leaves."""

    model: str | UnsetType = UNSET
    workflow: str | UnsetType = UNSET
    input: Annotated[Any | UnsetType, Meta(description="A workflow's; a model's is in the messages.")] = UNSET
    parameters: dict[str, Any]
    tools: Annotated[
        list[str | dict[str, Any]] | UnsetType, Meta(description="Names, and those that a client declared.")
    ] = UNSET
    steering: Annotated[
        dict[str, Any] | UnsetType, Meta(description="The parameters that can be steered, as they are at first.")
    ] = UNSET
    on_crash: Annotated[Literal["restart"] | UnsetType, Meta(description="Absent: `fail`.")] = UNSET
    if_running: Annotated[Literal["queue", "interrupt"] | UnsetType, Meta(description="Absent: `reject`.")] = UNSET
    ephemeral: bool | UnsetType = UNSET
    budget: Annotated[
        dict[Literal["tokens", "cost"], int | float] | UnsetType, Meta(description="The bounds at which it waits.")
    ] = UNSET
    by: By


class GenerationStarted(GenerationEvent, tag=EventType.GENERATION_STARTED.value, kw_only=True):
    """A worker has taken it up. A second attempt begins the text, the progress and the result anew."""

    attempt: Annotated[int, Meta(ge=1)]
    worker: str


class GenerationInterrupted(GenerationEvent, tag=EventType.GENERATION_INTERRUPTED.value, kw_only=True):
    """Its worker is gone, or goes; another one takes it up. No end."""

    attempt: Annotated[int, Meta(ge=0)]
    reason: Literal["server_stopped", "worker_lost", "store_unavailable", "internal_error"]


class Token(GenerationEvent, tag=EventType.TOKEN.value, kw_only=True):
    """One chunk of text, as the upstream sent it; it may be empty."""

    delta: str


class Reasoning(GenerationEvent, tag=EventType.REASONING.value, kw_only=True):
    """One chunk of what the model thinks aloud, as the upstream sent it: no part of the answer's text."""

    delta: str


class GenerationCompleted(GenerationEvent, tag=EventType.GENERATION_COMPLETED.value, kw_only=True):
    """The end, well. Nothing follows in this generation."""

    finish_reason: str
    usage: Annotated[
        dict[str, int | float],
        Meta(
            description="What the upstream counted, with its `cost` where the server knows the prices. May be "
            "empty."
        ),
    ]
    ttft_ms: Annotated[
        int | None, Meta(description="Milliseconds from the start to the first token; null where none came.")
    ]
    refusal: Annotated[str | UnsetType, Meta(description="The words with which the model refused to answer.")] = (
        UNSET
    )


class GenerationFailed(GenerationEvent, tag=EventType.GENERATION_FAILED.value, kw_only=True):
    """The end, badly. Nothing follows in this generation."""

    error: Failure
    retryable: Annotated[bool, Meta(description="The same request may succeed.")]


class GenerationCancelled(GenerationEvent, tag=EventType.GENERATION_CANCELLED.value, kw_only=True):
    """The end, by somebody's wish. Nothing follows in this generation."""

    reason: str | UnsetType = UNSET
    by: By


AnyEvent = (
    ConversationStarted
    | MessagePosted
    | MessageApplied
    | GenerationRequested
    | GenerationStarted
    | GenerationInterrupted
    | Token
    | Reasoning
    | StepFinished
    | ToolArguments
    | ToolProposed
    | ToolApproval
    | ToolDecided
    | ToolStarted
    | ToolFinished
    | SteeringChanged
    | BudgetReached
    | BudgetRaised
    | Progress
    | Result
    | GenerationCompleted
    | GenerationFailed
    | GenerationCancelled
)
