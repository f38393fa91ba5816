"""What a snapshot has to say, worked out from the events alone: the contract's fold, written a second time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.clients.api import Event

STATUS = {
    "generation.requested": "queued",
    "generation.started": "running",
    "generation.completed": "completed",
    "generation.failed": "failed",
    "generation.cancelled": "cancelled",
}


def fold_generation(events: Sequence[Event], name: str) -> dict[str, Any] | None:
    """The contract's fields of a generation's snapshot after these events; None: it is not in them."""
    mine = [event for event in events if event.get("generation") == name]
    if not mine:
        return None
    last: Mapping[str, Event] = {event["type"]: event for event in mine}
    return {
        "id": name,
        "status": next(STATUS[event["type"]] for event in reversed(mine) if event["type"] in STATUS),
        "model": mine[0]["model"],
        "text": "".join(event["delta"] for event in mine if event["type"] == "token"),
        "usage": last.get("generation.completed", {}).get("usage"),
        "error": last.get("generation.failed", {}).get("error"),
        "position": mine[-1]["position"],
        "attempt": last.get("generation.started", {}).get("attempt", 0),
        "created_at": mine[0]["at"],
    }


def fold_conversation(events: Sequence[Event], name: str) -> dict[str, Any]:
    """The contract's fields of a conversation's snapshot after these events."""
    names = list(dict.fromkeys(event["generation"] for event in events if "generation" in event))
    return {
        "id": name,
        "title": events[0].get("title"),
        "metadata": events[0].get("metadata"),
        "messages": [
            {key: event[key] for key in ("role", "content", "author") if key in event}
            for event in events
            if event["type"] == "message.posted"
        ],
        "generations": [fold_generation(events, generation) for generation in names],
        "position": events[-1]["position"],
    }


def seen_generation(snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """Of a snapshot that was answered, the fields that `fold_generation` knows."""
    fields = ("id", "status", "model", "text", "usage", "error", "position", "attempt", "created_at")
    return {field: snapshot[field] for field in fields}


def seen_conversation(snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """Of a snapshot that was answered, the fields that `fold_conversation` knows."""
    return {
        **{field: snapshot[field] for field in ("id", "title", "metadata", "position")},
        "messages": [
            {key: message[key] for key in ("role", "content", "author") if message.get(key) is not None}
            for message in snapshot["messages"]
        ],
        "generations": [seen_generation(generation) for generation in snapshot["generations"]],
    }
