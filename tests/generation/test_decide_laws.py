"""The law of all that people tell a run: on any log, it is refused, or its event is possible there."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from eventstore import Event, NewEvent
from server.errors import Problem
from server.generation.commands import FinishCall
from server.generation.decide_controls import decide_call, finish_call
from server.generation.fold import fold
from server.generation.state import Conversation
from server.workflows import digest

from .drawn import logs
from .rows import patient, rows
from .test_decide_controls import NOW, OTHER, OUTCOME, decision, fits


@patient
@given(log=logs(), data=st.data())
def test_what_is_decided_can_be_folded(log: list[Event], data: st.DataObject) -> None:
    """On any state, of any call: it is refused, or its event is possible there and leaves what it says."""
    before = fold(Conversation("conv_1"), log)
    calls = [(found, call) for found in before.generations for call in found.tool_calls]
    if not calls:
        return
    found, call = data.draw(st.sampled_from(calls))
    seen = data.draw(st.sampled_from([call.proposed_digest, call.arguments_digest, "0" * 64]))
    how = data.draw(st.sampled_from(["approved", "rejected", "modified"]))
    arguments = OTHER if how == "modified" else None
    commands: list[Callable[[], tuple[NewEvent, ...]]] = [
        lambda: decide_call(
            before,
            decision(how, generation=found.id, call=call.call, proposed_digest=seen, arguments=arguments),
            NOW,
            fits,
        ),
        lambda: finish_call(before, FinishCall(found.id, call.call, OUTCOME, "Ada")),
    ]
    for number, act in enumerate(commands):
        try:
            news = act()
        except Problem:
            continue
        (after,) = [one for one in fold(before, rows(news, before.position)).generations if one.id == found.id]
        now = after.call(call.call)
        assert now is not None
        if number == 0:
            assert (now.decision, seen) == (how, call.proposed_digest)
            assert now.arguments == (OTHER if how == "modified" else call.arguments)
            assert now.arguments_digest == digest(now.arguments)
        else:
            assert (now.status, now.result) == ("finished", OUTCOME["result"])
