"""The table of waits: how each kind begins, and each way in which it ends, as events of the log."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from eventstore import NewEvent
from server import event_types
from tests.conversations.event_builders import cancelled, completed, decided, failed, proposed, tool_ended

from .webhook_process import GENERATION as G

SECRET_ARGUMENT = "4929 0000 1111 2222"
EXPIRES = "2000-01-01T01:00:00Z"
ARGUMENTS = {"card": SECRET_ARGUMENT}


@dataclass(frozen=True)
class Kind:
    """A kind of wait. `data`: what a receiver is told of it."""

    waiting_for: str
    begin: tuple[NewEvent, ...]
    again: tuple[NewEvent, ...]
    ends: Mapping[str, NewEvent]
    data: Mapping[str, Any] = field(default_factory=dict)


def _client(call: str) -> tuple[NewEvent, ...]:
    proposal = proposed(G, call, client=True, name="look", arguments=ARGUMENTS)
    return proposal, event_types.tool_started(G, call)


def _reached(limit: float, used: float) -> NewEvent:
    return event_types.budget_reached(G, "tokens", limit, used)


_EXPIRED = event_types.tool_decided(
    G,
    "call_1",
    decision="rejected",
    proposed_digest="0" * 64,
    arguments=ARGUMENTS,
    arguments_digest="0" * 64,
    reason="expired",
    by=event_types.SERVER,
)
_TIMEOUT = {"error": {"code": "client_timeout", "message": "no client sent a result"}}
_ALWAYS = {"cancelled": cancelled(G), "failed": failed(G, "worker_lost"), "completed": completed(G)}

KINDS = {
    "approval": Kind(
        "approval",
        (proposed(G, asks=True, arguments=ARGUMENTS, expires_at=EXPIRES),),
        (proposed(G, "call_2", asks=True, arguments=ARGUMENTS),),
        {
            "approved": decided(G, seen=ARGUMENTS),
            "rejected": decided(G, decision="rejected", seen=ARGUMENTS),
            "modified": decided(G, decision="modified", seen=ARGUMENTS, arguments={"card": "none"}),
            "expired": _EXPIRED,
            **_ALWAYS,
        },
        {"calls": [{"call": "call_1", "name": "refund", "expires_at": EXPIRES}]},
    ),
    "input": Kind(
        "input",
        _client("call_1"),
        _client("call_2"),
        {"result": tool_ended(G), "expired": tool_ended(G, outcome=_TIMEOUT), **_ALWAYS},
        {"calls": [{"call": "call_1", "name": "look", "expires_at": None}]},
    ),
    "budget": Kind(
        "budget",
        (_reached(100, 120),),
        (_reached(200, 210),),
        {"raised": event_types.budget_raised(G, 200, None, "Ada"), **_ALWAYS},
        {"calls": [], "budget": {"bound": "tokens", "limit": 100, "used": 120}},
    ),
}
TABLE = [(kind, end) for kind, one in KINDS.items() for end in one.ends]
"""Every kind of wait with every way in which it ends."""
GO_ON = {"approval": "approved", "input": "result", "budget": "raised"}
"""For each kind an end after which the run goes on."""
