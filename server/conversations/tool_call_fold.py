"""The tool calls of a generation after an event. Pure.

Both the fold of a conversation and a running generation use these functions. So what the server runs, what a
client is shown and what an auditor replays are made of the log by the same code.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from sys import intern
from typing import Any, Final

from msgspec.structs import replace

from server.conversations.conversation_state import ToolCall
from server.conversations.state_machine import DECISIONS, CallStatus, InvalidTransition, next_call_status
from server.event_types import EventType

ToolCalls = tuple[ToolCall, ...]
"""Calls in the order of their proposals."""
Fields = Mapping[str, Any]
"""The JSON object of an event's data."""


def fold_tool_calls(calls: ToolCalls, event: EventType, fields: Fields, position: int) -> ToolCalls:
    """The calls after an event of their generation: the same object, where the event is about no call.

    Raises `InvalidTransition` where the state of the call does not allow the event.
    """
    if event is not EventType.TOOL_PROPOSED and event not in _CHANGES:
        return calls
    known = {call.call: call for call in calls}
    apply_to_tool_call(known, event, fields, position)
    return tuple(known.values())


def apply_to_tool_call(
    calls: dict[str, ToolCall], event: EventType, fields: Fields, position: int
) -> tuple[ToolCall | None, ToolCall]:
    """Applies an event about one call to `calls` (by id, in the order of their proposals), in place.

    Returns the call before the event (None: the event proposes it) and after. Raises `InvalidTransition`.
    """
    name = fields["call"]
    before = calls.get(name)
    if event is EventType.TOOL_PROPOSED:
        if before is not None:
            raise InvalidTransition(f"the call {name} was proposed before")
        changed = _proposed(fields, position)
    elif before is None:
        raise InvalidTransition(f"{event} of the call {name}, which was never proposed")
    else:
        changed = _CHANGES[event](before, fields, position)
    calls[name] = changed
    return before, changed


def _proposed(fields: Fields, position: int) -> ToolCall:
    expires_at = fields.get("expires_at")
    return ToolCall(
        call=fields["call"],
        name=fields["name"],
        status=CallStatus.PROPOSED,
        needs_approval=fields["needs_approval"],
        client=fields.get("client", False),
        arguments=fields["arguments"],
        arguments_digest=fields["arguments_digest"],
        proposed_digest=fields["arguments_digest"],
        position=position,
        step=fields["step"],
        expires_at=datetime.fromisoformat(expires_at) if expires_at else None,
        approvers=fields.get("approvers", 1),
        another_person=fields.get("another_person", False),
    )


def _approved_by_one(call: ToolCall, fields: Fields, position: int) -> ToolCall:
    """Handles `tool.approval`. Whoever modifies the arguments approves the new ones, and nobody else has yet."""
    _check_seen(call, fields)
    if not call.waits:
        raise InvalidTransition(f"an approval of the call {call.call}, which is {call.status}")
    by, its_digest = intern(fields["by"]), fields["arguments_digest"]
    if its_digest == call.proposed_digest:
        return replace(call, approvals=_with(call.approvals, by), position=position)
    return replace(
        call,
        arguments=fields["arguments"],
        arguments_digest=its_digest,
        proposed_digest=its_digest,
        approvals=(by,),
        modified_from=call.modified_from or call.proposed_digest,
        position=position,
    )


def _with(approvals: tuple[str, ...], by: str) -> tuple[str, ...]:
    """The people who approved, and one more; nobody counts twice."""
    return approvals if by in approvals else (*approvals, by)


def _check_seen(call: ToolCall, fields: Fields) -> None:
    if fields["proposed_digest"] != call.proposed_digest:
        raise InvalidTransition(f"the decision on {call.call} was made of other arguments")


def _decided(call: ToolCall, fields: Fields, position: int) -> ToolCall:
    """Handles `tool.decided`: with an approval it is the last one.

    A server of an older version does not know that several people have to approve, and may write the decision of
    one alone. That counts as a rejection: a call never runs with fewer people than its rule asks for.
    """
    _check_seen(call, fields)
    decision, reason, by = fields["decision"], fields.get("reason"), intern(fields["by"])
    approvals = call.approvals
    if decision != "rejected":
        agreed = fields["arguments_digest"] == call.proposed_digest
        approvals = _with(approvals, by) if agreed else (by,)
        if len(approvals) < call.approvers:
            decision, reason = "rejected", f"{call.approvers} people have to approve it, and {len(approvals)} did"
    return replace(
        call,
        status=next_call_status(call.status, DECISIONS[decision]),
        decision=decision,
        arguments=fields["arguments"],
        arguments_digest=fields["arguments_digest"],
        reason=reason,
        by=by,
        approvals=approvals,
        position=position,
    )


def _started(call: ToolCall, fields: Fields, position: int) -> ToolCall:
    if call.waits:
        raise InvalidTransition(f"the call {call.call} was started before anybody decided")
    return replace(call, status=next_call_status(call.status, CallStatus.STARTED), position=position)


def _finished(call: ToolCall, fields: Fields, position: int) -> ToolCall:
    return replace(
        call,
        status=next_call_status(call.status, CallStatus.FINISHED),
        result=fields.get("result"),
        error=fields.get("error"),
        position=position,
    )


_CHANGES: Final[Mapping[EventType, Callable[[ToolCall, Fields, int], ToolCall]]] = {
    EventType.TOOL_APPROVAL: _approved_by_one,
    EventType.TOOL_DECIDED: _decided,
    EventType.TOOL_STARTED: _started,
    EventType.TOOL_FINISHED: _finished,
}
