"""The table of a generation's life, every (status, event) pair of it, against one written by hand here."""

from itertools import product

import pytest

from server.events import TERMINAL, Type
from server.generation.states import ENDED, MOVES, ImpossibleMove, Status, move

Q, R, DONE, FAILED, CANCELLED = Status.QUEUED, Status.RUNNING, Status.COMPLETED, Status.FAILED, Status.CANCELLED

ALLOWED = {
    (Q, Type.GENERATION_STARTED): R,
    (Q, Type.GENERATION_FAILED): FAILED,
    (Q, Type.GENERATION_CANCELLED): CANCELLED,
    (R, Type.GENERATION_STARTED): R,
    (R, Type.TOKEN): R,
    (R, Type.GENERATION_COMPLETED): DONE,
    (R, Type.GENERATION_FAILED): FAILED,
    (R, Type.GENERATION_CANCELLED): CANCELLED,
}


@pytest.mark.parametrize(("status", "event"), list(product(Status, Type)))
def test_every_pair(status: Status, event: Type) -> None:
    """Where the table leads, or one error that names both the event and the state."""
    after = ALLOWED.get((status, event))
    if after is not None:
        assert move(status, event) is after
        return
    with pytest.raises(ImpossibleMove, match=rf"^{event} cannot happen to a generation that is {status}$"):
        move(status, event)


def test_no_state_is_forgotten() -> None:
    assert set(MOVES) == set(Status)


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
        fresh = {after for status in fresh for after in MOVES[status].values()} - reached
        reached |= fresh
    assert reached == set(Status)
