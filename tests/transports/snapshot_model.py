"""A second implementation of snapshots, computed from events alone.

Tests compare the server's snapshots with it, so it must not use the server's own fold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.clients.api import Event

STATUS = {
    "generation.requested": "queued",
    "generation.interrupted": "queued",
    "generation.started": "running",
    "generation.completed": "completed",
    "generation.failed": "failed",
    "generation.cancelled": "cancelled",
}
DECIDED = ("decision", "arguments", "arguments_digest", "by")
SEEN = (
    *("id", "status", "model", "workflow", "input", "parameters", "text", "tokens", "progress", "tool_calls"),
    *("steering", "result", "usage", "error", "reason", "position", "attempt", "created_at"),
    *("reasoning", "refusal", "budget", "waiting_for", "applied"),
)

SEEN_OF_MESSAGES = ("role", "content", "author", "delivery", "into", "applied_position")


def fold_generation(events: Sequence[Event], name: str) -> dict[str, Any] | None:
    """Fields of a generation's snapshot after these events; None if the generation is not among them."""
    mine = [event for event in events if event.get("generation") == name]
    if not mine:
        return None
    last: Mapping[str, Event] = {event["type"]: event for event in mine}
    calls = fold_calls(mine)
    status = next(STATUS[event["type"]] for event in reversed(mine) if event["type"] in STATUS)
    if status == "running" and any(call["needs_approval"] and call["status"] == "proposed" for call in calls):
        status = "waiting"
    budget = fold_budget(mine)
    paused = status in ("running", "waiting") and budget is not None and budget["reached"] is not None
    status = "waiting" if paused else status
    begun = max((n for n, event in enumerate(mine) if event["type"] == "generation.started"), default=0)
    deltas = [event["delta"] for event in mine[begun:] if event["type"] == "token"]
    thoughts = [event["delta"] for event in mine[begun:] if event["type"] == "reasoning"]
    progress = next((event for event in reversed(mine) if event["type"] == "progress"), None)
    return {
        "id": name,
        "status": status,
        "waiting_for": None if status != "waiting" else "budget" if paused else "approval",
        "budget": budget,
        "model": mine[0].get("model"),
        "workflow": mine[0].get("workflow"),
        "input": mine[0].get("input"),
        "parameters": mine[0]["parameters"],
        "text": "".join(deltas),
        "tokens": len(deltas),
        "reasoning": "".join(thoughts),
        "applied": [
            {
                "message": event["message"],
                "position": event["position"],
                "text_length": _written_before(mine, event["position"]),
            }
            for event in mine
            if event["type"] == "message.applied"
        ],
        "refusal": last.get("generation.completed", {}).get("refusal"),
        "progress": progress and {field: progress.get(field) for field in ("done", "total", "unit", "stage")},
        "tool_calls": calls,
        "steering": {
            **mine[0].get("steering", {}),
            **{event["name"]: event["value"] for event in mine if event["type"] == "steering.changed"},
        },
        "result": last.get("result", {}).get("value"),
        "usage": last.get("generation.completed", {}).get("usage"),
        "error": last.get("generation.failed", {}).get("error"),
        "reason": last.get("generation.cancelled", {}).get("reason"),
        "position": mine[-1]["position"],
        "attempt": last.get("generation.started", {}).get("attempt", 0),
        "created_at": mine[0]["at"],
    }


def _written_before(mine: Sequence[Event], position: int) -> int:
    """Characters of the attempt's text in front of a position."""
    before = [event for event in mine if event["position"] < position]
    begun = max(n for n, event in enumerate(before) if event["type"] == "generation.started")
    return sum(len(event["delta"]) for event in before[begun:] if event["type"] == "token")


def _delivery(events: Sequence[Event], posted: Event) -> dict[str, Any]:
    """What became of a message that was to be delivered now."""
    if posted.get("deliver") != "now":
        return {}
    into = {"into": posted["into"]} if "into" in posted else {}
    of = [event for event in events if "into" in posted and event.get("generation") == posted["into"]]
    for event in of:
        if event["type"] == "message.applied" and event["message"] == posted["message"]:
            return {**into, "delivery": "applied", "applied_position": event["position"]}
    ended = not of or STATUS.get(of[-1]["type"]) in ("completed", "failed", "cancelled")
    return {**into, "delivery": "returned" if ended else "queued"}


def fold_budget(mine: Sequence[Event]) -> dict[str, Any] | None:
    """The budget of a generation after these events of it."""
    bounds = mine[0].get("budget")
    if bounds is None:
        return None
    limits = {name: bounds.get(name) for name in ("tokens", "cost")}
    reached: Event | None = None
    for event in mine:
        if event["type"] == "budget.reached":
            reached = event
        elif event["type"] == "budget.raised":
            for name, limit in limits.items():
                limits[name] = max(limit, event.get(name, limit)) if limit is not None else None
        if reached is not None and reached["used"] < limits[reached["bound"]]:
            reached = None
    return {**limits, "reached": reached and reached["bound"], "used": reached and reached["used"]}


def fold_calls(mine: Sequence[Event]) -> list[dict[str, Any]]:
    """The tool calls of a generation after these events of it."""
    calls: dict[str, dict[str, Any]] = {}
    for event in mine:
        kind = event["type"]
        if kind == "tool.proposed":
            calls[event["call"]] = {
                **{field: event[field] for field in ("call", "name", "needs_approval")},
                **{field: event[field] for field in ("arguments", "arguments_digest")},
                "proposed_digest": event["arguments_digest"],
                "client": event.get("client", False),
                "hidden_characters": event.get("hidden_characters", []),
                "expires_at": event.get("expires_at"),
                "approvers": event.get("approvers", 1),
                "another_person": event.get("another_person", False),
                "approvals": [],
                **dict.fromkeys(("decision", "reason", "by", "result", "error")),
            }
        elif kind == "tool.approval":
            call = calls[event["call"]]
            if "arguments" in event:
                call |= {field: event[field] for field in ("arguments", "arguments_digest")}
                call |= {"proposed_digest": event["arguments_digest"], "approvals": [event["by"]]}
                call["hidden_characters"] = event.get("hidden_characters", [])
            else:
                call["approvals"] = [*call["approvals"], event["by"]]
            call["position"] = event["position"]
            continue
        elif kind == "tool.decided":
            if event["decision"] != "rejected":
                calls[event["call"]]["approvals"] = event.get("approvals", [event["by"]])
            calls[event["call"]] |= {field: event[field] for field in DECIDED} | {"reason": event.get("reason")}
            if event["decision"] == "modified":
                calls[event["call"]]["hidden_characters"] = event.get("hidden_characters", [])
        elif kind == "tool.finished":
            calls[event["call"]] |= {field: event.get(field) for field in ("result", "error")}
        if kind.startswith("tool.") and kind != "tool.arguments":
            status = event["decision"] if kind == "tool.decided" else kind.removeprefix("tool.")
            calls[event["call"]] |= {"status": status, "position": event["position"]}
    return list(calls.values())


def fold_conversation(events: Sequence[Event], name: str) -> dict[str, Any]:
    """Fields of a conversation's snapshot after these events."""
    names = list(dict.fromkeys(event["generation"] for event in events if "generation" in event))
    return {
        "id": name,
        "title": events[0].get("title"),
        "metadata": events[0].get("metadata"),
        "messages": [
            {key: event[key] for key in ("role", "content", "author") if key in event} | _delivery(events, event)
            for event in events
            if event["type"] == "message.posted"
        ],
        "generations": [fold_generation(events, generation) for generation in names],
        "position": events[-1]["position"],
    }


def seen_generation(snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a server's snapshot that `fold_generation` computes."""
    return {field: snapshot[field] for field in SEEN}


def seen_conversation(snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a server's snapshot that `fold_conversation` computes."""
    return {
        **{field: snapshot[field] for field in ("id", "title", "metadata", "position")},
        "messages": [
            {key: message[key] for key in SEEN_OF_MESSAGES if message.get(key) is not None}
            for message in snapshot["messages"]
        ],
        "generations": [seen_generation(generation) for generation in snapshot["generations"]],
    }
