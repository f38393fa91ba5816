"""The event object, type by type, as the schema tells it to clients. What writes them is `server.events`.

These shapes encode nothing; the tests hold every event that a server writes against them, and every type in
`server.events` must have one here.
"""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from server.events import Type
from server.ids import shape
from server.web.asks import Role
from server.web.views import Failure, GenerationId

At = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z$",
        description="When it was appended: UTC, microseconds; never falls within a conversation.",
    ),
]
By = Annotated[str, Meta(description="Who acted, as the server knows it; `anonymous` until there are keys.")]


class _Event(msgspec.Struct, tag_field="type", kw_only=True):
    position: Annotated[int, Meta(ge=1, description="1, 2, 3 … in its conversation: the only cursor there is.")]
    at: At


class _OfGeneration(_Event, kw_only=True):
    generation: GenerationId


class ConversationStarted(_Event, tag=Type.CONVERSATION_STARTED.value, kw_only=True):
    """Always position 1."""

    title: str | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET


class MessagePosted(_Event, tag=Type.MESSAGE_POSTED.value, kw_only=True):
    """A person, a system or a tool speaks."""

    message: Annotated[str, Meta(pattern=shape("msg"))]
    role: Role
    content: str
    author: Annotated[str | UnsetType, Meta(description="A name to show; whoever posted chose it.")] = UNSET
    by: By


class GenerationRequested(_OfGeneration, tag=Type.GENERATION_REQUESTED.value, kw_only=True):
    """An answer is wanted. Durable before the 202 leaves."""

    model: str
    parameters: dict[str, Any]
    by: By


class GenerationStarted(_OfGeneration, tag=Type.GENERATION_STARTED.value, kw_only=True):
    """A worker has taken it up."""

    attempt: Annotated[int, Meta(ge=1)]
    worker: str


class Token(_OfGeneration, tag=Type.TOKEN.value, kw_only=True):
    """One chunk of text, as the upstream sent it; it may be empty."""

    delta: str


class GenerationCompleted(_OfGeneration, tag=Type.GENERATION_COMPLETED.value, kw_only=True):
    """The end, well. Nothing follows in this generation."""

    finish_reason: str
    usage: Annotated[dict[str, int], Meta(description="What the upstream counted; may be empty.")]
    ttft_ms: Annotated[int | UnsetType, Meta(description="Milliseconds from the start to the first token.")] = (
        UNSET
    )


class GenerationFailed(_OfGeneration, tag=Type.GENERATION_FAILED.value, kw_only=True):
    """The end, badly. Nothing follows in this generation."""

    error: Failure
    retryable: Annotated[bool, Meta(description="The same request may succeed.")]


class GenerationCancelled(_OfGeneration, tag=Type.GENERATION_CANCELLED.value, kw_only=True):
    """The end, by somebody's wish. Nothing follows in this generation."""

    reason: str | UnsetType = UNSET
    by: By


Event = (
    ConversationStarted
    | MessagePosted
    | GenerationRequested
    | GenerationStarted
    | Token
    | GenerationCompleted
    | GenerationFailed
    | GenerationCancelled
)
