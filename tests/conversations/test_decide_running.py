"""What people tell a generation that runs: every command on every state, and why it is refused."""

import math
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from eventstore import Event, NewEvent
from server import event_types
from server.conversations.command_types import DecideCall, FinishCall, SteerGeneration
from server.conversations.conversation_state import Conversation, ToolCall
from server.conversations.decide import decide_call, finish_call, steer_generation
from server.conversations.fold import fold
from server.conversations.state_machine import Status
from server.problem import Problem
from server.workflows import Workflow, digest

from .event_builders import (
    ARGUMENTS,
    cancelled,
    completed,
    decided,
    failed,
    moment,
    no_deadline,
    proposed,
    rows,
    started,
    tool_ended,
)
from .log_strategies import logs

G = "gen_A"
NOW = moment(100)
OTHER = {"order": 8}
REQUESTED = event_types.generation_requested(
    G, workflow="w", parameters={}, steering={"strictness": 5, "tone": "kind"}, by="anonymous"
)
STARTED = event_types.tool_started(G, "call_1")


class Dials(BaseModel):
    strictness: int = Field(5, ge=0, le=10)
    tone: str = "kind"


async def _work(run: Any) -> None: ...


WORKFLOW = Workflow("w", _work, steering=Dials)


def state(*news: NewEvent) -> Conversation:
    """A conversation whose generation has started, and then these."""
    opening = (event_types.conversation_started(None, None), REQUESTED, started(G))
    return fold(Conversation("conv_1"), rows([*opening, *news]))


def fields(news: tuple[NewEvent, ...]) -> tuple[str, str | None, dict[str, Any]]:
    """The one event, readable."""
    (new,) = news
    return new.type, new.tag, msgspec.json.decode(new.data)


def fits(call: ToolCall, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Whatever it is."""
    return dict(arguments)


def decision(decision: str = "approved", **more: Any) -> DecideCall:
    """Somebody's who saw the arguments as they are."""
    known: dict[str, Any] = {"proposed_digest": digest(ARGUMENTS), "arguments": None, "reason": None, **more}
    return DecideCall(
        known.pop("generation", G),
        known.pop("call", "call_1"),
        decision,  # type: ignore[arg-type]
        by=known.pop("by", "Ada"),
        **known,
    )


def refused(caught: pytest.ExceptionInfo[Problem]) -> tuple[int, str]:
    """Status and code."""
    return caught.value.status, caught.value.code


ENDS = [completed(G), failed(G), cancelled(G)]
ASKED = proposed(G, asks=True, expires_at=NOW)


# -- decisions


@pytest.mark.parametrize(
    ("command", "arguments", "more"),
    [
        (decision(), ARGUMENTS, {}),
        (decision(reason="fine"), ARGUMENTS, {"reason": "fine"}),
        (decision("rejected", reason="no"), ARGUMENTS, {"reason": "no"}),
        (decision("modified", arguments=OTHER), OTHER, {}),
        (decision("modified", arguments={}), {}, {}),
    ],
)
def test_a_decision(command: DecideCall, arguments: dict[str, Any], more: dict[str, Any]) -> None:
    """It names what was seen, and what will run."""
    news = decide_call(state(ASKED), command, NOW - timedelta(microseconds=1), fits)
    expected = {
        "call": "call_1",
        "decision": command.decision,
        "proposed_digest": digest(ARGUMENTS),
        "arguments": arguments,
        "arguments_digest": digest(arguments),
        "by": "Ada",
        **more,
    }
    assert fields(news) == ("tool.decided", G, expected)
    after = fold(state(ASKED), rows(news, state(ASKED).position)).generation(G)
    assert after is not None
    assert after.status is Status.RUNNING


@pytest.mark.parametrize(
    ("news", "command", "expected", "extra"),
    [
        ([ASKED], decision(generation="gen_B"), (404, "not_found"), {}),
        ([ASKED], decision(call="call_2"), (404, "not_found"), {}),
        *(([ASKED, end], decision(), (409, "generation_ended"), {"generation": G}) for end in ENDS),
        ([proposed(G)], decision(), (409, "no_decision_needed"), {}),
        ([ASKED, decided(G)], decision(), (409, "already_decided"), {"decision": "approved"}),
        (
            [ASKED, decided(G, decision="rejected", reason="expired", by="tokentape")],
            decision(),
            (409, "already_decided"),
            {"decision": "rejected"},
        ),
        ([ASKED, decided(G), STARTED], decision(), (409, "already_decided"), {"decision": "approved"}),
        (
            [ASKED],
            decision(proposed_digest=digest(OTHER)),
            (409, "digest_mismatch"),
            {"arguments_digest": digest(ARGUMENTS)},
        ),
        (
            [ASKED],
            decision("modified", arguments=OTHER, proposed_digest=digest(OTHER)),
            (409, "digest_mismatch"),
            {"arguments_digest": digest(ARGUMENTS)},
        ),
        ([ASKED], decision("modified"), (422, "invalid_request"), {"field": "arguments"}),
        ([ASKED], decision("approved", arguments=ARGUMENTS), (422, "invalid_request"), {"field": "arguments"}),
        ([ASKED], decision("rejected", arguments=OTHER), (422, "invalid_request"), {"field": "arguments"}),
        (
            [ASKED],
            decision("modified", arguments={"order": math.inf}),
            (422, "invalid_arguments"),
            {"field": "arguments"},
        ),
    ],
)
def test_a_decision_that_is_refused(
    news: list[NewEvent], command: DecideCall, expected: tuple[int, str], extra: dict[str, Any]
) -> None:
    with pytest.raises(Problem) as caught:
        decide_call(state(*news), command, NOW - timedelta(seconds=1), fits)
    assert refused(caught) == expected
    assert caught.value.extra == extra


@pytest.mark.parametrize("late", [0, 1, 1e6])
def test_a_decision_after_its_time(late: float) -> None:
    """From the very moment on; without one there is no such moment."""
    with pytest.raises(Problem) as caught:
        decide_call(state(ASKED), decision(), NOW + timedelta(seconds=late), fits)
    assert refused(caught) == (409, "decision_expired")
    assert decide_call(state(proposed(G, asks=True)), decision(), NOW + timedelta(days=9_000), fits)


def test_who_was_faster_is_named() -> None:
    news = (ASKED, decided(G, decision="rejected", reason="too much", by="Bob"))
    with pytest.raises(Problem, match=r"was rejected already, by Bob: too much\.$"):
        decide_call(state(*news), decision(), NOW - timedelta(seconds=1), fits)


def test_only_new_arguments_are_held_against_the_tool() -> None:
    """The proposed ones were, when they were proposed; a bad digest is told before bad arguments."""
    checked: list[tuple[str, Any]] = []

    def check(call: ToolCall, arguments: Mapping[str, Any]) -> dict[str, Any]:
        checked.append((call.name, arguments))
        raise Problem(422, "invalid_arguments", "order: too large")

    decide_call(state(ASKED), decision(), moment(1), check)
    decide_call(state(ASKED), decision("rejected"), moment(1), check)
    with pytest.raises(Problem, match="digest"):
        decide_call(state(ASKED), decision("modified", arguments=OTHER, proposed_digest="x"), moment(1), check)
    assert checked == []
    with pytest.raises(Problem, match="too large"):
        decide_call(state(ASKED), decision("modified", arguments=OTHER), moment(1), check)
    assert checked == [("refund", OTHER)]


# -- results of a client's tools

OUTCOME = {"result": {"a": [1]}}
CLIENTS = proposed(G, client=True)


@pytest.mark.parametrize("outcome", [OUTCOME, {"result": None}, {"error": {"code": "c", "message": "m"}}])
def test_a_clients_result(outcome: dict[str, Any]) -> None:
    news = finish_call(state(CLIENTS, STARTED), FinishCall(G, "call_1", outcome, "Ada"))
    assert fields(news) == ("tool.finished", G, {"call": "call_1", **outcome, "by": "Ada"})


@pytest.mark.parametrize(
    ("news", "expected"),
    [
        ([], (404, "not_found")),
        ([CLIENTS, STARTED, cancelled(G)], (409, "generation_ended")),
        ([proposed(G), STARTED], (409, "not_started")),
        ([CLIENTS], (409, "not_started")),
        ([proposed(G, client=True, asks=True)], (409, "not_started")),
        ([proposed(G, client=True, asks=True), decided(G)], (409, "not_started")),
        ([proposed(G, client=True, asks=True), decided(G, decision="rejected")], (409, "not_started")),
        ([CLIENTS, STARTED, tool_ended(G)], (409, "already_finished")),
    ],
)
def test_a_result_that_is_refused(news: list[NewEvent], expected: tuple[int, str]) -> None:
    with pytest.raises(Problem) as caught:
        finish_call(state(*news), FinishCall(G, "call_1", OUTCOME, "Ada"))
    assert refused(caught) == expected


# -- steering


@pytest.mark.parametrize(("name", "value"), [("strictness", 0), ("strictness", 10), ("tone", "")])
def test_steering(name: str, value: Any) -> None:
    news = steer_generation(state(), SteerGeneration(G, name, value, "Ada"), WORKFLOW)
    assert fields(news) == ("steering.changed", G, {"name": name, "value": value, "by": "Ada"})


@pytest.mark.parametrize(
    ("name", "value", "code", "field"),
    [
        ("strictness", 11, "invalid_value", "value"),
        ("strictness", "5", "invalid_value", "value"),
        ("strictness", None, "invalid_value", "value"),
        ("speed", 1, "unknown_parameter", "name"),
    ],
)
def test_steering_that_is_refused(name: str, value: Any, code: str, field: str) -> None:
    with pytest.raises(Problem) as caught:
        steer_generation(state(), SteerGeneration(G, name, value, "Ada"), WORKFLOW)
    assert refused(caught) == (422, code)
    assert caught.value.extra == {"field": field}


def test_what_cannot_be_steered() -> None:
    command = SteerGeneration(G, "strictness", 1, "Ada")
    with pytest.raises(Problem, match="the workflow w") as caught:
        steer_generation(state(), command, None)
    assert refused(caught) == (422, "not_steerable")
    plain = event_types.generation_requested(G, model="demo", parameters={}, by="anonymous")
    model = fold(Conversation("c"), rows([event_types.conversation_started(None, None), plain]))
    with pytest.raises(Problem, match="a model's answer") as caught:
        steer_generation(model, command, WORKFLOW)
    assert refused(caught) == (422, "not_steerable")
    with pytest.raises(Problem) as caught:
        steer_generation(state(cancelled(G)), command, WORKFLOW)
    assert refused(caught) == (409, "generation_ended")
    with pytest.raises(Problem) as caught:
        steer_generation(state(), SteerGeneration("gen_B", "strictness", 1, "Ada"), WORKFLOW)
    assert refused(caught) == (404, "not_found")


# -- on any log


@no_deadline
@given(log=logs(), data=st.data())
def test_a_decision_is_refused_or_its_event_can_be_folded(log: list[Event], data: st.DataObject) -> None:
    """On any state of any call the command is refused, or its event can be folded and leaves what it says."""
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
