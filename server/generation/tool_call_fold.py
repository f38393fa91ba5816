"""The tool calls of a generation after an event: shared by the fold of a conversation and a run. Pure.

One truth: what a run carries out, a client is shown and an auditor replays is what these make of the log.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from msgspec.structs import replace

from server.events import Type
from server.generation.state import ToolCall
from server.generation.states import DECISIONS, CallStatus, ImpossibleMove, move_call

Calls = tuple[ToolCall, ...]
Fields = Mapping[str, Any]


def after(calls: Calls, event: Type, fields: Fields, position: int) -> Calls:
    """The calls after an event of their generation; the same ones where it is about none.

    Raises `ImpossibleMove`.
    """
    if event is not Type.TOOL_PROPOSED and event not in _CHANGES:
        return calls
    known = {call.call: call for call in calls}
    apply(known, event, fields, position)
    return tuple(known.values())


def apply(
    calls: dict[str, ToolCall], event: Type, fields: Fields, position: int
) -> tuple[ToolCall | None, ToolCall]:
    """Changes `calls`, by id and in the order of their proposals, by an event about one of them.

    Returns that call as it was (None: it is new) and as it is. Raises `ImpossibleMove`.
    """
    name = fields["call"]
    before = calls.get(name)
    if event is Type.TOOL_PROPOSED:
        if before is not None:
            raise ImpossibleMove(f"the call {name} was proposed before")
        changed = _proposed(fields, position)
    elif before is None:
        raise ImpossibleMove(f"{event} of the call {name}, which was never proposed")
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
    )


def _decided(call: ToolCall, fields: Fields, position: int) -> ToolCall:
    if fields["proposed_digest"] != call.proposed_digest:
        raise ImpossibleMove(f"the decision on {call.call} was made of other arguments")
    return replace(
        call,
        status=move_call(call.status, DECISIONS[fields["decision"]]),
        decision=fields["decision"],
        arguments=fields["arguments"],
        arguments_digest=fields["arguments_digest"],
        reason=fields.get("reason"),
        by=fields["by"],
        position=position,
    )


def _started(call: ToolCall, fields: Fields, position: int) -> ToolCall:
    if call.waits:
        raise ImpossibleMove(f"the call {call.call} was started before anybody decided")
    return replace(call, status=move_call(call.status, CallStatus.STARTED), position=position)


def _finished(call: ToolCall, fields: Fields, position: int) -> ToolCall:
    return replace(
        call,
        status=move_call(call.status, CallStatus.FINISHED),
        result=fields.get("result"),
        error=fields.get("error"),
        position=position,
    )


_CHANGES: Final[Mapping[Type, Callable[[ToolCall, Fields, int], ToolCall]]] = {
    Type.TOOL_DECIDED: _decided,
    Type.TOOL_STARTED: _started,
    Type.TOOL_FINISHED: _finished,
}
