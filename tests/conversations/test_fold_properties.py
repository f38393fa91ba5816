"""Properties of the fold on random logs: it can be cut anywhere, and never folds over a gap or twice."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import Event
from server.conversations.conversation_state import Conversation
from server.conversations.fold import OutOfOrder, fold
from server.conversations.state_machine import ENDED
from server.conversations.stored_state import from_stored, to_stored
from server.event_types import TERMINAL

from .event_builders import no_deadline
from .log_strategies import logs

NEW = Conversation("conv_1")


@no_deadline
@given(log=logs())
def test_fold_can_be_cut_anywhere(log: list[Event]) -> None:
    whole = fold(NEW, log)
    for cut in range(len(log) + 1):
        assert fold(fold(NEW, log[:cut]), log[cut:]) == whole


@no_deadline
@given(log=logs())
def test_folding_one_by_one_is_the_same(log: list[Event]) -> None:
    """Runs of tokens are folded at once to save time, with the same result."""
    state = NEW
    for event in log:
        state = fold(state, [event])
        assert state.position == event.position
    assert state == fold(NEW, log)


@no_deadline
@given(log=logs())
def test_text_is_the_joined_deltas(log: list[Event]) -> None:
    """Of the newest attempt: each attempt starts its text anew."""
    for found in fold(NEW, log).generations:
        own = [event for event in log if event.tag == found.id]
        starts = [place for place, event in enumerate(own) if event.type == "generation.started"]
        assert found.attempt == len(starts)
        own = own[starts[-1] :] if starts else []
        deltas = [msgspec.json.decode(event.data)["delta"] for event in own if event.type == "token"]
        assert found.text == "".join(deltas)
        assert found.tokens == len(deltas)
        thoughts = [msgspec.json.decode(event.data)["delta"] for event in own if event.type == "reasoning"]
        assert found.reasoning == "".join(thoughts)


@no_deadline
@given(log=logs())
def test_status_follows_the_last_event(log: list[Event]) -> None:
    for found in fold(NEW, log).generations:
        ends = [event for event in log if event.tag == found.id and event.type in TERMINAL]
        assert len(ends) == (found.status in ENDED)
        assert [event.type.removeprefix("generation.") for event in ends] == [found.status] * len(ends)
        assert found.finished_at == (ends[0].at if ends else None)


@no_deadline
@given(log=logs())
def test_stored_form_round_trips(log: list[Event]) -> None:
    state = fold(NEW, log)
    assert from_stored(to_stored(state)) == state


@no_deadline
@given(log=logs(), data=st.data())
def test_missing_event_raises(log: list[Event], data: st.DataObject) -> None:
    """Except the last one, which nobody can miss without the head."""
    gone = data.draw(st.integers(0, len(log) - 1))
    holed = log[:gone] + log[gone + 1 :]
    if gone == len(log) - 1:
        fold(NEW, holed)
        return
    with pytest.raises(OutOfOrder):
        fold(NEW, holed)


@no_deadline
@given(log=logs(), data=st.data())
def test_repeated_event_raises(log: list[Event], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(log) - 1))
    again = data.draw(st.integers(first + 1, len(log)))
    with pytest.raises(OutOfOrder):
        fold(NEW, [*log[:again], log[first], *log[again:]])


@no_deadline
@given(log=logs(), data=st.data())
def test_events_that_do_not_follow_the_state_raise(log: list[Event], data: st.DataObject) -> None:
    """One too early, one too late."""
    cut = data.draw(st.integers(0, len(log) - 1))
    state = fold(NEW, log[: cut + 1])
    with pytest.raises(OutOfOrder):
        fold(state, log[cut:])
    if len(log) > cut + 2:
        with pytest.raises(OutOfOrder):
            fold(state, log[cut + 2 :])


@no_deadline
@given(log=logs())
def test_folding_leaves_held_states_unchanged(log: list[Event]) -> None:
    held = [fold(NEW, log[:cut]) for cut in range(len(log) + 1)]
    stored = [to_stored(state) for state in held]
    for cut, state in enumerate(held):
        fold(state, log[cut:])
    assert [to_stored(state) for state in held] == stored


@no_deadline
@given(log=logs(), data=st.data())
def test_states_sharing_a_past_stay_independent(log: list[Event], data: st.DataObject) -> None:
    """Any of the earlier states may be folded further, in any order."""
    states = [NEW]
    for _ in range(data.draw(st.integers(1, 8))):
        state = data.draw(st.sampled_from(states))
        until = data.draw(st.integers(state.position, len(log)))
        states.append(fold(state, log[state.position : until]))
    for state in states:
        expected = fold(NEW, log[: state.position])
        assert state == expected
        assert state.open == tuple(found for found in expected.generations if not found.ended)
        assert [state.generation(found.id) for found in expected.generations] == list(expected.generations)
        for event in log[state.position :]:
            if event.type == "generation.requested":
                assert state.generation(event.tag or "") is None


@no_deadline
@given(log=logs(), data=st.data())
def test_failed_fold_leaves_states_unchanged(log: list[Event], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(log) - 1))
    state = fold(NEW, log[:cut])
    with pytest.raises(OutOfOrder):
        fold(state, [*log[cut:], log[cut]])
    assert state == fold(NEW, log[:cut])
    assert fold(state, log[cut:]) == fold(NEW, log)


@no_deadline
@given(log=logs(), data=st.data())
def test_newest_is_the_end_of_the_whole_list(log: list[Event], data: st.DataObject) -> None:
    state = fold(NEW, log)
    limit = data.draw(st.integers(1, 6))
    before = data.draw(st.none() | st.integers(0, len(log) + 2))
    bound = 10**9 if before is None else before
    messages = tuple(one for one in state.messages if one.position < bound)
    generations = tuple(one for one in state.generations if one.requested_position < bound)
    assert state.newest_messages(limit, before) == messages[-limit:]
    assert state.newest_generations(limit, before) == generations[-limit:]
    assert state.last_generation == (state.generations[-1] if state.generations else None)
    assert (state.message_count, state.generation_count) == (len(state.messages), len(state.generations))


@no_deadline
@given(log=logs(), data=st.data())
def test_size_does_not_depend_on_the_pages(log: list[Event], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(log)))
    whole = fold(NEW, log)
    assert fold(fold(NEW, log[:cut]), log[cut:]).size == whole.size
    assert abs(from_stored(to_stored(whole)).size - whole.size) <= 64 + whole.size // 4
