"""States as clients see them: the JSON of snapshots, and an ETag that is the position.

The shapes here are what is encoded, and what `/openapi.json` describes: one truth for both. Fields that nothing
fills yet are there, empty, so that clients can rely on them.
"""

from datetime import datetime
from typing import Annotated, Any, Literal, TypedDict

import msgspec
from msgspec import Meta

from server.generation.state import Conversation, Generation, Message
from server.generation.states import Status
from server.ids import shape

encode = msgspec.json.Encoder().encode

Position = Annotated[int, Meta(ge=0, description="Position of the last event that is in it: also its ETag.")]
Later = Annotated[None, Meta(description="Always null in this version.")]
ConversationId = Annotated[str, Meta(pattern=shape("conv"))]
GenerationId = Annotated[str, Meta(pattern=shape("gen"))]


class Failure(TypedDict):
    """Why a generation failed: a code for programs, a sentence for people."""

    code: str
    message: str


class GenerationSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a model, as its events up to `position` made it."""

    id: GenerationId
    conversation: ConversationId
    status: Status
    model: str
    workflow: Later
    parameters: dict[str, Any]
    text: Annotated[str, Meta(description="All tokens so far, joined.")]
    tokens: Annotated[int, Meta(ge=0, description="How many token events there are.")]
    progress: Later
    tool_calls: Annotated[list[Any], Meta(description="Always empty in this version.", max_length=0)]
    steering: Annotated[dict[str, Any], Meta(description="Always empty in this version.")]
    result: Later
    finish_reason: str | None
    usage: Annotated[dict[str, int] | None, Meta(description="What the upstream counted.")]
    ttft_ms: Annotated[int | None, Meta(description="Milliseconds from the start to the first token.")]
    error: Failure | None
    retryable: Annotated[bool | None, Meta(description="After a failure: the same request may succeed.")]
    reason: Annotated[str | None, Meta(description="After a cancellation: the reason that was given.")]
    position: Position
    attempt: Annotated[int, Meta(ge=0)]
    worker: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class CancelledGeneration(GenerationSnapshot, frozen=True, kw_only=True):
    """The snapshot after a cancel."""

    upstream_closed: Annotated[bool, Meta(description="Whether the connection to the upstream is closed.")]


class ConversationSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation: the fold of all its events up to `position`."""

    id: ConversationId
    title: str | None
    metadata: dict[str, Any] | None
    created_at: datetime | None
    messages: tuple[Message, ...]
    generations: list[GenerationSnapshot]
    position: Position


class ConversationLine(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation in a list."""

    id: ConversationId
    title: str | None
    created_at: datetime
    position: Position


class ConversationList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of conversations, newest first."""

    conversations: list[ConversationLine]
    next: Annotated[str | None, Meta(description="The `before` of the next page; null on the last one.")]


class Health(msgspec.Struct, frozen=True):
    """What a probe is told."""

    status: Literal["alive", "ready"]


def generation(found: Generation) -> GenerationSnapshot:
    """A generation's snapshot."""
    return GenerationSnapshot(**_fields(found))


def cancelled(found: Generation, upstream_closed: bool) -> CancelledGeneration:
    """The snapshot after a cancel."""
    return CancelledGeneration(**_fields(found), upstream_closed=upstream_closed)


def conversation(state: Conversation) -> ConversationSnapshot:
    """A conversation's snapshot."""
    return ConversationSnapshot(
        id=state.id,
        title=state.title,
        metadata=state.metadata,
        created_at=state.created_at,
        messages=state.messages,
        generations=[generation(found) for found in state.generations],
        position=state.position,
    )


def _fields(found: Generation) -> dict[str, Any]:
    return {
        "id": found.id,
        "conversation": found.conversation,
        "status": found.status,
        "model": found.model,
        "workflow": None,
        "parameters": found.parameters,
        "text": found.text,
        "tokens": found.tokens,
        "progress": None,
        "tool_calls": [],
        "steering": {},
        "result": None,
        "finish_reason": found.finish_reason,
        "usage": found.usage,
        "ttft_ms": found.ttft_ms,
        "error": found.error,
        "retryable": found.retryable,
        "reason": found.reason,
        "position": found.position,
        "attempt": found.attempt,
        "worker": found.worker,
        "created_at": found.created_at,
        "started_at": found.started_at,
        "finished_at": found.finished_at,
    }


def etag(position: int) -> str:
    """The validator of a snapshot, RFC 9110 section 8.8.3: strong, for the fold of a position is one text."""
    return f'"{position}"'
