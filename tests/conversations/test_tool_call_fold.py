"""A call's life, event by event: every event on every state of it, and what each leaves behind."""

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


def after(*news: NewEvent) -> ToolCalls:
    """The calls after these, at positions 1, 2, 3 …"""
    found: ToolCalls = ()
    for position, new in enumerate(news, 1):
        found = fold_tool_calls(found, EventType(new.type), msgspec.json.decode(new.data), position)
    return found


def only(*news: NewEvent) -> ToolCall:
    """The one call after these."""
    (call,) = after(*news)
    return call


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
            changed(status=CallStatus.APPROVED, decision="approved", by="anonymous", position=2),
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
                position=2,
            ),
        ),
        ([FREE, STARTED], changed(needs_approval=False, status=CallStatus.STARTED, position=2)),
        (
            [ASKED, decided(G), STARTED],
            changed(status=CallStatus.STARTED, decision="approved", by="anonymous", position=3),
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
def test_what_each_event_leaves_behind(news: list[NewEvent], expected: ToolCall) -> None:
    assert only(*news) == expected


def test_only_an_undecided_call_waits() -> None:
    assert only(ASKED).waits
    assert not only(FREE).waits
    for decision in ("approved", "rejected", "modified"):
        assert not only(ASKED, decided(G, decision=decision)).waits


def test_other_calls_are_left_alone() -> None:
    first, second = after(proposed(G, "call_1", asks=True), proposed(G, "call_2", asks=True), decided(G, "call_2"))
    assert (first.status, second.status) == ("proposed", "approved")


@pytest.mark.parametrize(
    "kind", [EventType.TOKEN, EventType.STEP_FINISHED, EventType.PROGRESS, EventType.GENERATION_STARTED]
)
def test_other_events_change_nothing(kind: EventType) -> None:
    before = after(ASKED)
    assert fold_tool_calls(before, kind, {}, 2) is before


@pytest.mark.parametrize("new", [decided(G), STARTED, tool_ended(G)])
def test_what_was_never_proposed(new: NewEvent) -> None:
    with pytest.raises(InvalidTransition, match="call_1, which was never proposed"):
        after(new)
    with pytest.raises(InvalidTransition, match="call_1, which was never proposed"):
        after(proposed(G, "call_2"), new)


def test_a_decision_made_of_other_arguments() -> None:
    """However it came into the log: nothing is run by it."""
    with pytest.raises(InvalidTransition, match="made of other arguments"):
        after(ASKED, decided(G, seen=OTHER))


def test_a_start_before_the_decision() -> None:
    with pytest.raises(InvalidTransition, match="before anybody decided"):
        after(ASKED, STARTED)


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
def test_every_event_on_every_state(status: CallStatus, new: NewEvent, from_: set[str]) -> None:
    assert only(*WAYS[status]).status is status
    if status.value in from_:
        assert only(*WAYS[status], new).status is not status
        return
    with pytest.raises(InvalidTransition):
        after(*WAYS[status], new)
