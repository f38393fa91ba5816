"""The transition tables of a generation and of a tool call: every pair, against tables written by hand here."""

from itertools import product

import pytest

from server.conversations.state_machine import (
    CALL_TRANSITIONS,
    DECISIONS,
    ENDED,
    TRANSITIONS,
    CallStatus,
    InvalidTransition,
    Status,
    next_call_status,
    next_status,
)
from server.event_types import TERMINAL, EventType

Q, R, W = Status.QUEUED, Status.RUNNING, Status.WAITING
DONE, FAILED, CANCELLED = Status.COMPLETED, Status.FAILED, Status.CANCELLED

ALLOWED = {
    (Q, EventType.GENERATION_STARTED): R,
    (Q, EventType.GENERATION_INTERRUPTED): Q,
    (Q, EventType.GENERATION_FAILED): FAILED,
    (Q, EventType.GENERATION_CANCELLED): CANCELLED,
    (Q, EventType.TOOL_APPROVAL): Q,
    (Q, EventType.TOOL_DECIDED): Q,
    (Q, EventType.TOOL_FINISHED): Q,
    (Q, EventType.STEERING_CHANGED): Q,
    (Q, EventType.BUDGET_RAISED): Q,
    **{
        (status, event): after
        for status in (R, W)
        for event, after in {
            EventType.GENERATION_STARTED: R,
            EventType.GENERATION_INTERRUPTED: Q,
            EventType.TOKEN: R,
            EventType.REASONING: R,
            EventType.TOOL_ARGUMENTS: R,
            EventType.STEP_FINISHED: R,
            EventType.TOOL_PROPOSED: R,
            EventType.TOOL_APPROVAL: R,
            EventType.TOOL_DECIDED: R,
            EventType.TOOL_STARTED: R,
            EventType.TOOL_FINISHED: R,
            EventType.STEERING_CHANGED: R,
            EventType.BUDGET_REACHED: R,
            EventType.MESSAGE_APPLIED: R,
            EventType.BUDGET_RAISED: R,
            EventType.PROGRESS: R,
            EventType.RESULT: R,
            EventType.GENERATION_COMPLETED: DONE,
            EventType.GENERATION_FAILED: FAILED,
            EventType.GENERATION_CANCELLED: CANCELLED,
        }.items()
    },
}


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize(("status", "event"), list(product(Status, EventType)))
def test_every_generation_transition(status: Status, event: EventType, waits: bool) -> None:
    """To where the table leads, or an error that names both; a run whose call waits is waiting."""
    after = ALLOWED.get((status, event))
    if after is not None:
        assert next_status(status, event, waits=waits) is (W if waits and after is R else after)
        return
    with pytest.raises(InvalidTransition, match=rf"^{event} cannot happen to a generation that is {status}$"):
        next_status(status, event, waits=waits)


def test_table_has_every_state() -> None:
    assert set(TRANSITIONS) == set(Status)
    assert set(CALL_TRANSITIONS) == set(CallStatus)


def test_only_ended_states_have_no_transitions() -> None:
    assert {DONE, FAILED, CANCELLED} == ENDED
    assert all(not TRANSITIONS[status] for status in ENDED)
    assert all(TRANSITIONS[status] for status in Status if status not in ENDED)


def test_only_terminal_events_end_a_generation() -> None:
    into_an_end = {event for moves in TRANSITIONS.values() for event, after in moves.items() if after in ENDED}
    elsewhere = {event for moves in TRANSITIONS.values() for event, after in moves.items() if after not in ENDED}
    assert into_an_end == TERMINAL
    assert not elsewhere & TERMINAL


def test_every_state_is_reachable() -> None:
    reached, fresh = {Q}, {Q}
    while fresh:
        fresh = {
            next_status(status, event, waits=waits)
            for status in fresh
            for event in TRANSITIONS[status]
            for waits in (False, True)
        } - reached
        reached |= fresh
    assert reached == set(Status)


CALLS = {
    CallStatus.PROPOSED: {"approved", "rejected", "modified", "started", "finished"},
    CallStatus.APPROVED: {"started", "finished"},
    CallStatus.MODIFIED: {"started", "finished"},
    CallStatus.REJECTED: set(),
    CallStatus.STARTED: {"finished"},
    CallStatus.FINISHED: set(),
}


@pytest.mark.parametrize(("status", "after"), list(product(CallStatus, CallStatus)))
def test_every_call_transition(status: CallStatus, after: CallStatus) -> None:
    """A rejected call is over, a started one never starts again, and nothing is decided twice."""
    if after.value in CALLS[status]:
        assert next_call_status(status, after) is after
        return
    with pytest.raises(InvalidTransition, match=rf"^a call that is {status} cannot be {after}$"):
        next_call_status(status, after)


def test_each_decision_has_its_state() -> None:
    assert {name: status.value for name, status in DECISIONS.items()} == {name: name for name in DECISIONS}
    assert set(DECISIONS) == {"approved", "rejected", "modified"}
