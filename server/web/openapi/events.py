"""The event object, type by type, as the schema tells it to clients. What writes them is `server.events`.

These shapes encode nothing; the tests hold every event that a server writes against them, and every type in
`server.events` must have one here.
"""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from server.events import Type
from server.ids import shape
from server.web.commands.request_models import Role
from server.web.openapi import event, work_events
from server.web.openapi.event import By, OfGeneration
from server.web.snapshots.snapshot_json import Failure


class ConversationStarted(event.Event, tag=Type.CONVERSATION_STARTED.value, kw_only=True):
    """Always position 1."""

    title: str | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET


class MessagePosted(event.Event, tag=Type.MESSAGE_POSTED.value, kw_only=True):
    """A person, a system or a tool speaks."""

    message: Annotated[str, Meta(pattern=shape("msg"))]
    role: Role
    content: str
    author: Annotated[str | UnsetType, Meta(description="A name to show; whoever posted chose it.")] = UNSET
    by: By


class GenerationRequested(OfGeneration, tag=Type.GENERATION_REQUESTED.value, kw_only=True):
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
    by: By


class GenerationStarted(OfGeneration, tag=Type.GENERATION_STARTED.value, kw_only=True):
    """A worker has taken it up. A second attempt begins the text, the progress and the result anew."""

    attempt: Annotated[int, Meta(ge=1)]
    worker: str


class GenerationInterrupted(OfGeneration, tag=Type.GENERATION_INTERRUPTED.value, kw_only=True):
    """Its worker is gone, or goes; another one takes it up. No end."""

    attempt: Annotated[int, Meta(ge=0)]
    reason: Literal["server_stopped", "worker_lost", "store_unavailable", "internal_error"]


class Token(OfGeneration, tag=Type.TOKEN.value, kw_only=True):
    """One chunk of text, as the upstream sent it; it may be empty."""

    delta: str


class Reasoning(OfGeneration, tag=Type.REASONING.value, kw_only=True):
    """One chunk of what the model thinks aloud, as the upstream sent it: no part of the answer's text."""

    delta: str


class GenerationCompleted(OfGeneration, tag=Type.GENERATION_COMPLETED.value, kw_only=True):
    """The end, well. Nothing follows in this generation."""

    finish_reason: str
    usage: Annotated[dict[str, int], Meta(description="What the upstream counted; may be empty.")]
    ttft_ms: Annotated[
        int | None, Meta(description="Milliseconds from the start to the first token; null where none came.")
    ]
    refusal: Annotated[str | UnsetType, Meta(description="The words with which the model refused to answer.")] = (
        UNSET
    )


class GenerationFailed(OfGeneration, tag=Type.GENERATION_FAILED.value, kw_only=True):
    """The end, badly. Nothing follows in this generation."""

    error: Failure
    retryable: Annotated[bool, Meta(description="The same request may succeed.")]


class GenerationCancelled(OfGeneration, tag=Type.GENERATION_CANCELLED.value, kw_only=True):
    """The end, by somebody's wish. Nothing follows in this generation."""

    reason: str | UnsetType = UNSET
    by: By


Event = (
    ConversationStarted
    | MessagePosted
    | GenerationRequested
    | GenerationStarted
    | GenerationInterrupted
    | Token
    | Reasoning
    | work_events.StepFinished
    | work_events.ToolArguments
    | work_events.ToolProposed
    | work_events.ToolDecided
    | work_events.ToolStarted
    | work_events.ToolFinished
    | work_events.SteeringChanged
    | work_events.Progress
    | work_events.Result
    | GenerationCompleted
    | GenerationFailed
    | GenerationCancelled
)
