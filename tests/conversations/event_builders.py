"""Builders of the common events for tests, and `rows`, which gives them positions and times."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from eventstore import Event, NewEvent
from eventstore.memory_backend import EPOCH
from server import event_types
from server.workflows import digest

no_deadline = settings(deadline=None)
"""For Hypothesis: a slow machine breaks no law."""
STORABLE_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
"""Text that PostgreSQL can store."""


def moment(position: int) -> datetime:
    """The time of the event at a position."""
    return EPOCH + timedelta(seconds=position, microseconds=123_456)


def rows(news: Iterable[NewEvent], after: int = 0) -> list[Event]:
    """The events at the positions after `after`."""
    return [
        Event(position, new.type, moment(position), new.tag, new.data)
        for position, new in enumerate(news, after + 1)
    ]


def cancelled(generation: str) -> NewEvent:
    """A `generation.cancelled`."""
    return event_types.generation_cancelled(generation, None, "anonymous")


def completed(generation: str, reason: str = "stop") -> NewEvent:
    """A `generation.completed`."""
    return event_types.generation_completed(generation, reason, {"output_tokens": 3}, 12)


def failed(generation: str, code: str = "upstream_cut") -> NewEvent:
    """A `generation.failed`."""
    return event_types.generation_failed(generation, code, "It broke.", retryable=True)


def requested(generation: str, model: str = "demo") -> NewEvent:
    """A `generation.requested` of a model."""
    parameters = {"tokens": 3, "rate": 0.5}
    return event_types.generation_requested(generation, model=model, parameters=parameters, by="anonymous")


def said(message: str, content: str, role: str = "user") -> NewEvent:
    """A `message.posted`."""
    return event_types.message_posted(message, role, content, None, "anonymous")


def started(generation: str, attempt: int = 1) -> NewEvent:
    """A `generation.started`."""
    return event_types.generation_started(generation, attempt, "worker-1")


ARGUMENTS = {"order": 7}


def proposed(generation: str, call: str = "call_1", *, asks: bool = False, **more: Any) -> NewEvent:
    """A `tool.proposed`; with `asks` a person has to decide on it."""
    known: dict[str, Any] = {"name": "refund", "arguments": ARGUMENTS, "step": "answer/1", **more}
    known.setdefault("arguments_digest", digest(known["arguments"]))
    return event_types.tool_proposed(generation, call, needs_approval=asks, **known)


def decided(
    generation: str,
    call: str = "call_1",
    decision: str = "approved",
    *,
    seen: Mapping[str, Any] = ARGUMENTS,
    arguments: Mapping[str, Any] | None = None,
    reason: str | None = None,
    by: str = "anonymous",
) -> NewEvent:
    """A `tool.decided` by a person who saw the arguments `seen`. `arguments`: those that run, where modified."""
    run = seen if arguments is None else arguments
    return event_types.tool_decided(
        generation,
        call,
        decision=decision,
        proposed_digest=digest(seen),
        arguments=run,
        arguments_digest=digest(run),
        reason=reason,
        by=by,
    )


def tool_ended(generation: str, call: str = "call_1", outcome: Mapping[str, Any] | None = None) -> NewEvent:
    """A `tool.finished`."""
    return event_types.tool_finished(generation, call, {"result": "done"} if outcome is None else outcome)
