"""The facts of a conversation: every event type Tokentape writes, made in one place.

A constructor a type, so that no field is ever misspelt elsewhere. What a type means is in the public
contract; positions and times are the store's. Text must be clean (no U+0000, no lone surrogates) before it
comes here.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec

from eventstore import NewEvent

CONVERSATION: Final = "conversation"
"""The category of the streams."""
GENERATION_SCOPE: Final = "generation"
"""The scope of the keys by which a generation's id finds its conversation."""


class Type(StrEnum):
    """The event types."""

    CONVERSATION_STARTED = "conversation.started"
    MESSAGE_POSTED = "message.posted"
    GENERATION_REQUESTED = "generation.requested"
    GENERATION_STARTED = "generation.started"
    TOKEN = "token"
    GENERATION_COMPLETED = "generation.completed"
    GENERATION_FAILED = "generation.failed"
    GENERATION_CANCELLED = "generation.cancelled"


TERMINAL: Final = frozenset({Type.GENERATION_COMPLETED, Type.GENERATION_FAILED, Type.GENERATION_CANCELLED})
"""Exactly one of these ends a generation."""

_encode = msgspec.json.Encoder().encode


def _event(kind: Type, fields: Mapping[str, Any], generation: str | None = None) -> NewEvent:
    data = {name: value for name, value in fields.items() if value is not None}
    return NewEvent(kind.value, _encode(data).decode(), generation)


def conversation_started(title: str | None, metadata: Mapping[str, Any] | None) -> NewEvent:
    """Always position 1."""
    return _event(Type.CONVERSATION_STARTED, {"title": title, "metadata": metadata})


def message_posted(message: str, role: str, content: str, author: str | None, by: str) -> NewEvent:
    """Somebody speaks. `message` is its id."""
    fields = {"message": message, "role": role, "content": content, "author": author, "by": by}
    return _event(Type.MESSAGE_POSTED, fields)


def generation_requested(generation: str, model: str, parameters: Mapping[str, Any], by: str) -> NewEvent:
    """Durable before the client hears of the generation."""
    return _event(Type.GENERATION_REQUESTED, {"model": model, "parameters": parameters, "by": by}, generation)


def generation_started(generation: str, attempt: int, worker: str) -> NewEvent:
    """A worker has taken it up, for the `attempt`-th time."""
    return _event(Type.GENERATION_STARTED, {"attempt": attempt, "worker": worker}, generation)


def token(generation: str, delta: str) -> NewEvent:
    """One chunk of text, as the upstream sent it."""
    return NewEvent("token", '{"delta":' + _encode(delta).decode() + "}", generation)


def generation_completed(
    generation: str, finish_reason: str, usage: Mapping[str, int] | None, ttft_ms: int | None
) -> NewEvent:
    """The end, well. `ttft_ms`: milliseconds from the start of the run to its first token."""
    fields = {"finish_reason": finish_reason, "usage": usage or {}, "ttft_ms": ttft_ms}
    return _event(Type.GENERATION_COMPLETED, fields, generation)


def generation_failed(generation: str, code: str, message: str, *, retryable: bool) -> NewEvent:
    """The end, badly. `retryable`: the same request may succeed."""
    fields = {"error": {"code": code, "message": message}, "retryable": retryable}
    return _event(Type.GENERATION_FAILED, fields, generation)


def generation_cancelled(generation: str, reason: str | None, by: str) -> NewEvent:
    """The end, by somebody's wish."""
    return _event(Type.GENERATION_CANCELLED, {"reason": reason, "by": by}, generation)
