"""Rules of who has to approve a call: every rule and person, and any sequence of answers."""

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import Event, NewEvent
from server import event_types
from server.conversations.command_types import DecideCall
from server.conversations.conversation_state import Conversation, ToolCall
from server.conversations.decide import decide_on_call
from server.conversations.fold import fold
from server.conversations.state_machine import Status
from server.problem import Problem
from server.workflows import digest

from .event_builders import ARGUMENTS, moment, no_deadline, proposed, rows, started

G, CALL = "gen_A", "call_1"
NOW = moment(1_000)
OTHER, THIRD = {"order": 8}, {"order": 9}
ASKED_BY = "Ada"


def asked(*, by: str = ASKED_BY, **rule: Any) -> Conversation:
    """A conversation in which a call waits that has this rule. `by`: who requested its generation."""
    requested = event_types.generation_requested(G, model="demo", parameters={}, by=by)
    opening = (event_types.conversation_started(None, None), requested, started(G))
    return fold(Conversation("conv_1"), rows([*opening, proposed(G, CALL, asks=True, expires_at=NOW, **rule)]))


def the_call(state: Conversation) -> ToolCall:
    """The call as it stands."""
    found = state.generation(G)
    call = found.call(CALL) if found is not None else None
    assert call is not None
    return call


def answer(
    state: Conversation,
    by: str,
    decision: str = "approved",
    arguments: dict[str, Any] | None = None,
    *,
    seen: str | None = None,
) -> NewEvent:
    """The event that a person's answer leads to. `seen`: the digest that the person names, else the right one."""
    named = the_call(state).proposed_digest if seen is None else seen
    command = DecideCall(G, CALL, decision, named, arguments, None, by)  # type: ignore[arg-type]
    (event,) = decide_on_call(state, command, NOW - timedelta(seconds=1), lambda _, given: dict(given))
    return event


def after(state: Conversation, event: NewEvent) -> Conversation:
    """The state with the event."""
    return fold(state, rows([event], state.position))


def refusal(state: Conversation, by: str, decision: str = "approved", **more: Any) -> tuple[int, str]:
    """Why the answer is refused."""
    with pytest.raises(Problem) as caught:
        answer(state, by, decision, **more)
    return caught.value.status, caught.value.code


ANOTHER = (403, "another_person_required")


@pytest.mark.parametrize(
    ("rule", "requested_by", "by", "expected"),
    [
        ({}, "Ada", "Ada", "tool.decided"),
        ({}, "anonymous", "anonymous", "tool.decided"),
        ({"another_person": True}, "Ada", "Ada", ANOTHER),
        ({"another_person": True}, "Ada", "Bob", "tool.decided"),
        ({"another_person": True}, "anonymous", "anonymous", ANOTHER),
        ({"another_person": True}, "anonymous", "Bob", "tool.decided"),
        ({"approvers": 2}, "Ada", "Ada", "tool.approval"),
        ({"approvers": 2}, "Ada", "Bob", "tool.approval"),
        ({"approvers": 2}, "Ada", "anonymous", ANOTHER),
        ({"approvers": 2, "another_person": True}, "Ada", "Ada", ANOTHER),
        ({"approvers": 2, "another_person": True}, "Ada", "Bob", "tool.approval"),
        ({"approvers": 5}, "Ada", "Bob", "tool.approval"),
    ],
)
@pytest.mark.parametrize("decision", ["approved", "modified", "rejected"])
def test_every_rule_and_person(
    rule: dict[str, Any], requested_by: str, by: str, expected: str | tuple[int, str], decision: str
) -> None:
    """Who may not approve may not modify either, which is an approval, but may reject."""
    state = asked(by=requested_by, **rule)
    arguments = OTHER if decision == "modified" else None
    if decision == "rejected":
        assert answer(state, by, decision).type == "tool.decided"
    elif isinstance(expected, str):
        assert answer(state, by, decision, arguments).type == expected
    else:
        assert refusal(state, by, decision, arguments=arguments) == expected


def test_anonymous_people_cannot_be_several() -> None:
    """Nobody can be told apart: which command mends it."""
    for rule in ({"approvers": 2}, {"another_person": True}):
        with pytest.raises(Problem, match=r"tokentape keys create.* Rejecting it is possible"):
            answer(asked(by="anonymous", **rule), "anonymous")


def test_two_approvals_decide() -> None:
    """The first approval is an event of its own, and the call waits; the last one decides and names both."""
    state = asked(approvers=2)
    first = answer(state, "Bob")
    assert (first.type, json.loads(first.data)) == (
        "tool.approval",
        {
            "call": CALL,
            "proposed_digest": digest(ARGUMENTS),
            "arguments_digest": digest(ARGUMENTS),
            "remaining": 1,
            "by": "Bob",
        },
    )
    state = after(state, first)
    found = state.generation(G)
    assert found is not None
    assert (found.status, the_call(state).approvals) == (Status.WAITING, ("Bob",))
    assert refusal(state, "Bob") == (409, "already_approved")
    last = answer(state, "Cem")
    told = json.loads(last.data)
    assert (last.type, told["by"], told["approvals"]) == ("tool.decided", "Cem", ["Bob", "Cem"])
    call = the_call(after(state, last))
    assert (call.status, call.by, call.approvals) == ("approved", "Cem", ("Bob", "Cem"))
    assert refusal(after(state, last), "Bob") == (409, "already_decided")


def test_one_rejection_decides() -> None:
    state = after(asked(approvers=3), answer(asked(approvers=3), "Bob"))
    event = answer(state, "Cem", "rejected")
    assert "approvals" not in json.loads(event.data)
    assert the_call(after(state, event)).status == "rejected"
    # Whoever has approved may change their mind, too.
    assert the_call(after(state, answer(state, "Bob", "rejected"))).status == "rejected"


def test_modification_is_first_approval_of_new_arguments() -> None:
    state = asked(approvers=2)
    state = after(state, answer(state, "Bob"))
    event = answer(state, "Cem", "modified", OTHER)
    told = json.loads(event.data)
    assert (event.type, told["arguments"], told["arguments_digest"], told["remaining"]) == (
        "tool.approval",
        OTHER,
        digest(OTHER),
        1,
    )
    state = after(state, event)
    assert (the_call(state).approvals, the_call(state).arguments) == (("Cem",), OTHER)
    assert refusal(state, "Bob", seen=digest(ARGUMENTS)) == (409, "digest_mismatch"), "Bob has to look again"
    assert refusal(state, "Cem") == (409, "already_approved")
    last = answer(state, "Bob")
    told = json.loads(last.data)
    assert (told["decision"], told["arguments"], told["approvals"]) == ("modified", OTHER, ["Cem", "Bob"])
    assert the_call(after(state, last)).status == "modified"


def test_same_arguments_are_no_modification() -> None:
    state = asked(approvers=2)
    state = after(state, answer(state, "Bob"))
    assert refusal(state, "Bob", "modified", arguments=ARGUMENTS) == (409, "already_approved")
    assert answer(state, "Cem", "modified", ARGUMENTS).type == "tool.decided"


def test_decision_after_expiry_is_refused() -> None:
    command = DecideCall(G, CALL, "approved", digest(ARGUMENTS), None, None, "Bob")
    with pytest.raises(Problem, match="decision_expired"):
        decide_on_call(asked(approvers=2), command, NOW, lambda _, given: dict(given))


PEOPLE = st.sampled_from(["Ada", "Bob", "Cem", "Dan", "anonymous"])
DIGESTS = {digest(one): one for one in (ARGUMENTS, OTHER, THIRD)}
ANSWERS = st.tuples(
    PEOPLE,
    st.sampled_from(["approved", "approved", "approved", "modified", "rejected"]),
    st.sampled_from([ARGUMENTS, OTHER, THIRD]),
    st.sampled_from([None, None, None, *DIGESTS]),
)


def judged(log: list[Event], approvers: int, *, another_person: bool) -> None:
    """By the events alone: a call is decided once, and approved by so many people who saw what will run."""
    told = [(event.type, json.loads(event.data)) for event in log]
    decisions = [fields for kind, fields in told if kind == "tool.decided"]
    assert len(decisions) <= 1
    for decision in decisions:
        if decision["decision"] == "rejected":
            continue
        runs = decision["arguments_digest"]
        people = {
            fields["by"]
            for kind, fields in told
            if kind in ("tool.approval", "tool.decided") and fields["arguments_digest"] == runs
        }
        assert len(people) >= approvers
        assert approvers == 1 or "anonymous" not in people
        assert not (another_person and decision["by"] == ASKED_BY)
        assert not (another_person and ASKED_BY in people)


@no_deadline
@given(approvers=st.integers(1, 4), another_person=st.booleans(), answers=st.lists(ANSWERS, max_size=25))
def test_no_sequence_of_decisions_evades_the_rule(
    approvers: int, another_person: bool, answers: list[Any]
) -> None:
    """Whatever is answered by whom, having seen whatever; a call that may start was approved by enough people."""
    state = asked(approvers=approvers, another_person=another_person)
    log: list[Event] = []
    for by, decision, arguments, seen in answers:
        wanted = arguments if decision == "modified" else None
        try:
            event = answer(state, by, decision, wanted, seen=seen)
        except Problem:
            continue
        news = rows([event], state.position)
        state, log = fold(state, news), [*log, *news]
        judged(log, approvers, another_person=another_person)
        call = the_call(state)
        assert call.waits == (call.decision is None)
        if call.decision not in (None, "rejected"):
            assert len(set(call.approvals)) == len(call.approvals) >= approvers
