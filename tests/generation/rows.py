"""Logs for tests, made by hand: rows as a store would return them, and the shortest way to each event."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from eventstore import Event, NewEvent
from eventstore.memory import EPOCH
from server import events
from server.workflows import digest

patient = settings(deadline=None)
"""For laws: a slow machine is no broken law."""
CLEAN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
"""Text as it may enter the log."""


def moment(position: int) -> datetime:
    """When the event at a position happened."""
    return EPOCH + timedelta(seconds=position, microseconds=123_456)


def rows(news: Iterable[NewEvent], after: int = 0) -> list[Event]:
    """The events at the positions that follow `after`."""
    return [
        Event(position, new.type, moment(position), new.tag, new.data)
        for position, new in enumerate(news, after + 1)
    ]


def cancelled(generation: str) -> NewEvent:
    """Somebody's cancellation."""
    return events.generation_cancelled(generation, None, "anonymous")


def completed(generation: str, reason: str = "stop") -> NewEvent:
    """A good end."""
    return events.generation_completed(generation, reason, {"output_tokens": 3}, 12)


def failed(generation: str, code: str = "upstream_cut") -> NewEvent:
    """A bad end."""
    return events.generation_failed(generation, code, "It broke.", retryable=True)


def requested(generation: str, model: str = "demo") -> NewEvent:
    """An answer is wanted."""
    parameters = {"tokens": 3, "rate": 0.5}
    return events.generation_requested(generation, model=model, parameters=parameters, by="anonymous")


def said(message: str, content: str, role: str = "user") -> NewEvent:
    """Somebody speaks."""
    return events.message_posted(message, role, content, None, "anonymous")


def started(generation: str, attempt: int = 1) -> NewEvent:
    """A worker takes it up."""
    return events.generation_started(generation, attempt, "worker-1")


ARGUMENTS = {"order": 7}


def proposed(generation: str, call: str = "call_1", *, asks: bool = False, **more: Any) -> NewEvent:
    """A model, or a workflow, wants a tool run."""
    known: dict[str, Any] = {"name": "refund", "arguments": ARGUMENTS, "step": "answer/1", **more}
    known.setdefault("arguments_digest", digest(known["arguments"]))
    return events.tool_proposed(generation, call, needs_approval=asks, **known)


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
    """A person who saw the arguments `seen` has decided; `arguments`: what shall run, where modified."""
    run = seen if arguments is None else arguments
    return events.tool_decided(
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
    """And it has run."""
    return events.tool_finished(generation, call, {"result": "done"} if outcome is None else outcome)
