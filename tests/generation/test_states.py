"""The tables of a generation's life and of a call's, every pair of them, against ones written by hand here."""

from itertools import product

import pytest

from server.events import TERMINAL, Type
from server.generation.states import (
    CALL_MOVES,
    DECISIONS,
    ENDED,
    MOVES,
    CallStatus,
    ImpossibleMove,
    Status,
    move,
    move_call,
)

Q, R, W = Status.QUEUED, Status.RUNNING, Status.WAITING
DONE, FAILED, CANCELLED = Status.COMPLETED, Status.FAILED, Status.CANCELLED

ALLOWED = {
    (Q, Type.GENERATION_STARTED): R,
    (Q, Type.GENERATION_INTERRUPTED): Q,
    (Q, Type.GENERATION_FAILED): FAILED,
    (Q, Type.GENERATION_CANCELLED): CANCELLED,
    (Q, Type.TOOL_DECIDED): Q,
    (Q, Type.TOOL_FINISHED): Q,
    (Q, Type.STEERING_CHANGED): Q,
    **{
        (status, event): after
        for status in (R, W)
        for event, after in {
            Type.GENERATION_STARTED: R,
            Type.GENERATION_INTERRUPTED: Q,
            Type.TOKEN: R,
            Type.REASONING: R,
            Type.TOOL_ARGUMENTS: R,
            Type.STEP_FINISHED: R,
            Type.TOOL_PROPOSED: R,
            Type.TOOL_DECIDED: R,
            Type.TOOL_STARTED: R,
            Type.TOOL_FINISHED: R,
            Type.STEERING_CHANGED: R,
            Type.PROGRESS: R,
            Type.RESULT: R,
            Type.GENERATION_COMPLETED: DONE,
            Type.GENERATION_FAILED: FAILED,
            Type.GENERATION_CANCELLED: CANCELLED,
        }.items()
    },
}


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize(("status", "event"), list(product(Status, Type)))
def test_every_pair(status: Status, event: Type, waits: bool) -> None:
    """Where the table leads, or one error that names both; who runs while a call waits is waiting."""
    after = ALLOWED.get((status, event))
    if after is not None:
        assert move(status, event, waits=waits) is (W if waits and after is R else after)
        return
    with pytest.raises(ImpossibleMove, match=rf"^{event} cannot happen to a generation that is {status}$"):
        move(status, event, waits=waits)


def test_no_state_is_forgotten() -> None:
    assert set(MOVES) == set(Status)
    assert set(CALL_MOVES) == set(CallStatus)


def test_the_ended_states_have_no_way_out_and_the_others_have() -> None:
    assert {DONE, FAILED, CANCELLED} == ENDED
    assert all(not MOVES[status] for status in ENDED)
    assert all(MOVES[status] for status in Status if status not in ENDED)


def test_exactly_the_terminal_events_lead_into_an_end() -> None:
    into_an_end = {event for moves in MOVES.values() for event, after in moves.items() if after in ENDED}
    elsewhere = {event for moves in MOVES.values() for event, after in moves.items() if after not in ENDED}
    assert into_an_end == TERMINAL
    assert not elsewhere & TERMINAL


def test_every_state_can_be_reached_from_the_first() -> None:
    reached, fresh = {Q}, {Q}
    while fresh:
        fresh = {
            move(status, event, waits=waits)
            for status in fresh
            for event in MOVES[status]
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
def test_every_pair_of_a_call(status: CallStatus, after: CallStatus) -> None:
    """A rejected call is over, a started one never starts again, nothing is decided twice."""
    if after.value in CALLS[status]:
        assert move_call(status, after) is after
        return
    with pytest.raises(ImpossibleMove, match=rf"^a call that is {status} cannot be {after}$"):
        move_call(status, after)


def test_each_decision_has_its_state() -> None:
    assert {name: status.value for name, status in DECISIONS.items()} == {name: name for name in DECISIONS}
    assert set(DECISIONS) == {"approved", "rejected", "modified"}
