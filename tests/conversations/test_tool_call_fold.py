"""The fold of one tool call: every event in every state of it, and what each leaves."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from eventstore import NewEvent
from server import event_types
from server.conversations.conversation_state import ToolCall
from server.conversations.state_machine import CallStatus, InvalidTransition
from server.conversations.tool_call_fold import ToolCalls, fold_tool_calls
from server.event_types import EventType
from server.workflows import digest

from .event_builders import ARGUMENTS, decided, proposed, tool_ended

G = "gen_A"
OTHER = {"order": 8}
STARTED = event_types.tool_started(G, "call_1")
FAULT = {"code": "tool_failed", "message": "It broke."}


def calls_after(*news: NewEvent) -> ToolCalls:
    """The calls after these events, at positions 1, 2, 3 and so on."""
    found: ToolCalls = ()
    for position, new in enumerate(news, 1):
        found = fold_tool_calls(found, EventType(new.type), msgspec.json.decode(new.data), position)
    return found


def only_call(*news: NewEvent) -> ToolCall:
    """The one call after these events."""
    (call,) = calls_after(*news)
    return call


BY = ("anonymous",)
ASKED, FREE = proposed(G, asks=True), proposed(G)
PROPOSED = ToolCall(
    call="call_1",
    name="refund",
    status=CallStatus.PROPOSED,
    needs_approval=True,
    client=False,
    arguments=ARGUMENTS,
    arguments_digest=digest(ARGUMENTS),
    proposed_digest=digest(ARGUMENTS),
    position=1,
    step="answer/1",
)


def approval(
    arguments: dict[str, Any] | None = None, *, seen: dict[str, Any] = ARGUMENTS, by: str = "Ada"
) -> NewEvent:
    """An approval by a person who saw these arguments. `arguments`: those that the person wants instead."""
    return event_types.tool_approval(
        G,
        "call_1",
        proposed_digest=digest(seen),
        arguments_digest=digest(seen if arguments is None else arguments),
        remaining=1,
        by=by,
        arguments=arguments,
    )


MODIFIED: dict[str, Any] = {
    "arguments": OTHER,
    "arguments_digest": digest(OTHER),
    "proposed_digest": digest(OTHER),
    "modified_from": digest(ARGUMENTS),
}
TOO_FEW: dict[str, Any] = {
    "status": CallStatus.REJECTED,
    "decision": "rejected",
    "by": "Ada",
    "reason": "2 people have to approve it, and 1 did",
}


def changed(**more: Any) -> ToolCall:
    """The proposed call with other fields."""
    return msgspec.structs.replace(PROPOSED, **more)


@pytest.mark.parametrize(
    ("news", "expected"),
    [
        ([ASKED], PROPOSED),
        ([FREE], changed(needs_approval=False)),
        (
            [proposed(G, asks=True, client=True, expires_at=datetime(2026, 11, 22, 10, 0, 0, 123456, tzinfo=UTC))],
            changed(client=True, expires_at=datetime(2026, 11, 22, 10, 0, 0, 123456, tzinfo=UTC)),
        ),
        (
            [ASKED, decided(G)],
            changed(status=CallStatus.APPROVED, decision="approved", by="anonymous", approvals=BY, position=2),
        ),
        (
            [ASKED, decided(G, decision="rejected", reason="no", by="Ada")],
            changed(status=CallStatus.REJECTED, decision="rejected", reason="no", by="Ada", position=2),
        ),
        (
            [ASKED, decided(G, decision="modified", arguments=OTHER)],
            changed(
                status=CallStatus.MODIFIED,
                decision="modified",
                by="anonymous",
                arguments=OTHER,
                arguments_digest=digest(OTHER),
                approvals=BY,
                position=2,
            ),
        ),
        ([FREE, STARTED], changed(needs_approval=False, status=CallStatus.STARTED, position=2)),
        (
            [ASKED, decided(G), STARTED],
            changed(status=CallStatus.STARTED, decision="approved", by="anonymous", approvals=BY, position=3),
        ),
        (
            [FREE, STARTED, tool_ended(G, outcome={"result": [1]})],
            changed(needs_approval=False, status=CallStatus.FINISHED, result=[1], position=3),
        ),
        (
            [FREE, tool_ended(G, outcome={"error": FAULT})],
            changed(needs_approval=False, status=CallStatus.FINISHED, error=FAULT, position=2),
        ),
    ],
)
def test_call_after_each_event(news: list[NewEvent], expected: ToolCall) -> None:
    assert only_call(*news) == expected


TWO = proposed(G, asks=True, approvers=2)


@pytest.mark.parametrize(
    ("news", "expected"),
    [
        ([TWO], {}),
        ([TWO, approval(by="Ada")], {"approvals": ("Ada",), "position": 2}),
        ([TWO, approval(by="Ada"), approval(by="Ada")], {"approvals": ("Ada",), "position": 3}),
        (
            [TWO, approval(by="Ada"), decided(G, by="Bob")],
            {
                "status": CallStatus.APPROVED,
                "decision": "approved",
                "by": "Bob",
                "approvals": ("Ada", "Bob"),
                "position": 3,
            },
        ),
        (
            [TWO, approval(by="Ada"), decided(G, decision="rejected", by="Bob", reason="no")],
            {
                "status": CallStatus.REJECTED,
                "decision": "rejected",
                "by": "Bob",
                "reason": "no",
                "approvals": ("Ada",),
                "position": 3,
            },
        ),
        ([TWO, approval(by="Ada"), approval(OTHER, by="Bob")], {**MODIFIED, "approvals": ("Bob",), "position": 3}),
        (
            [TWO, approval(OTHER, by="Bob"), approval(seen=OTHER, by="Ada")],
            {**MODIFIED, "approvals": ("Bob", "Ada"), "position": 3},
        ),
        (
            [TWO, approval(OTHER, by="Bob"), approval(ARGUMENTS, seen=OTHER, by="Ada")],
            {"modified_from": digest(ARGUMENTS), "approvals": ("Ada",), "position": 3},
        ),
        # An older server knows nothing of the rule: what it lets one person decide does not run.
        ([TWO, decided(G, by="Ada")], {**TOO_FEW, "approvals": ("Ada",), "position": 2}),
        ([TWO, approval(by="Ada"), decided(G, by="Ada")], {**TOO_FEW, "approvals": ("Ada",), "position": 3}),
        (
            [TWO, approval(by="Ada"), decided(G, by="Bob", decision="modified", arguments=OTHER)],
            {
                **TOO_FEW,
                "by": "Bob",
                "approvals": ("Bob",),
                "arguments": OTHER,
                "arguments_digest": digest(OTHER),
                "position": 3,
            },
        ),
    ],
)
def test_call_after_several_approvals(news: list[NewEvent], expected: dict[str, Any]) -> None:
    assert only_call(*news) == changed(approvers=2, **expected)


@pytest.mark.parametrize(
    "news",
    [
        [TWO, approval(seen=OTHER)],
        [TWO, approval(OTHER), approval()],
        [TWO, approval(), decided(G, by="Bob"), approval()],
        [TWO, decided(G, decision="rejected"), approval()],
        [FREE, approval()],
        [approval()],
    ],
)
def test_invalid_approvals_raise(news: list[NewEvent]) -> None:
    with pytest.raises(InvalidTransition):
        calls_after(*news)


def test_only_an_undecided_call_waits() -> None:
    assert only_call(ASKED).waits
    assert not only_call(FREE).waits
    for decision in ("approved", "rejected", "modified"):
        assert not only_call(ASKED, decided(G, decision=decision)).waits


def test_other_calls_are_unchanged() -> None:
    first, second = calls_after(
        proposed(G, "call_1", asks=True), proposed(G, "call_2", asks=True), decided(G, "call_2")
    )
    assert (first.status, second.status) == ("proposed", "approved")


@pytest.mark.parametrize(
    "kind", [EventType.TOKEN, EventType.STEP_FINISHED, EventType.PROGRESS, EventType.GENERATION_STARTED]
)
def test_other_events_change_nothing(kind: EventType) -> None:
    before = calls_after(ASKED)
    assert fold_tool_calls(before, kind, {}, 2) is before


@pytest.mark.parametrize("new", [decided(G), STARTED, tool_ended(G)])
def test_event_of_an_unknown_call_raises(new: NewEvent) -> None:
    with pytest.raises(InvalidTransition, match="call_1, which was never proposed"):
        calls_after(new)
    with pytest.raises(InvalidTransition, match="call_1, which was never proposed"):
        calls_after(proposed(G, "call_2"), new)


def test_decision_on_other_arguments_raises() -> None:
    """However it came into the log, no tool runs by it."""
    with pytest.raises(InvalidTransition, match="made of other arguments"):
        calls_after(ASKED, decided(G, seen=OTHER))


def test_start_before_the_decision_raises() -> None:
    with pytest.raises(InvalidTransition, match="before anybody decided"):
        calls_after(ASKED, STARTED)


WAYS = {
    CallStatus.PROPOSED: [ASKED],
    CallStatus.APPROVED: [ASKED, decided(G)],
    CallStatus.REJECTED: [ASKED, decided(G, decision="rejected")],
    CallStatus.MODIFIED: [ASKED, decided(G, decision="modified", arguments=OTHER)],
    CallStatus.STARTED: [ASKED, decided(G), STARTED],
    CallStatus.FINISHED: [ASKED, decided(G), STARTED, tool_ended(G)],
}


@pytest.mark.parametrize("status", list(WAYS))
@pytest.mark.parametrize(
    ("new", "from_"),
    [
        (decided(G), {"proposed"}),
        (decided(G, decision="rejected"), {"proposed"}),
        (STARTED, {"approved", "modified"}),
        (tool_ended(G), {"proposed", "approved", "modified", "started"}),
    ],
)
def test_every_event_in_every_state(status: CallStatus, new: NewEvent, from_: set[str]) -> None:
    assert only_call(*WAYS[status]).status is status
    if status.value in from_:
        assert only_call(*WAYS[status], new).status is not status
        return
    with pytest.raises(InvalidTransition):
        calls_after(*WAYS[status], new)
