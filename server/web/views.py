"""States as clients see them: the JSON of snapshots, and an ETag that is the position."""

from typing import Any

import msgspec

from server.generation.state import Conversation, Generation

encode = msgspec.json.Encoder().encode


def generation_fields(found: Generation) -> dict[str, Any]:
    """A generation's snapshot. Fields that nothing fills yet are there, empty: clients can rely on them."""
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


def conversation_fields(state: Conversation) -> dict[str, Any]:
    """A conversation's snapshot: the fold of all events up to its position."""
    return {
        "id": state.id,
        "title": state.title,
        "metadata": state.metadata,
        "created_at": state.created_at,
        "messages": state.messages,
        "generations": [generation_fields(found) for found in state.generations],
        "position": state.position,
    }


def etag(position: int) -> str:
    """The validator of a snapshot, RFC 9110 section 8.8.3: strong, for the fold of a position is one text."""
    return f'"{position}"'
