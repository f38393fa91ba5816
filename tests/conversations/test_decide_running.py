"""Commands to a running generation, in every state: decisions, client results and steering, and why they
are refused.
"""

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
from server.conversations.decide import decide_on_call, decide_result, decide_steering
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


class SteeringParameters(BaseModel):
    strictness: int = Field(5, ge=0, le=10)
    tone: str = "kind"


async def _work(run: Any) -> None: ...


WORKFLOW = Workflow("w", _work, steering=SteeringParameters)


def state_after(*news: NewEvent) -> Conversation:
    """A conversation whose generation has started, after these events."""
    opening = (event_types.conversation_started(None, None), REQUESTED, started(G))
    return fold(Conversation("conv_1"), rows([*opening, *news]))


def fields(news: tuple[NewEvent, ...]) -> tuple[str, str | None, dict[str, Any]]:
    """The one event, readable."""
    (new,) = news
    return new.type, new.tag, msgspec.json.decode(new.data)


def accept_any(call: ToolCall, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Accepts any arguments."""
    return dict(arguments)


def decision_command(decision_command: str = "approved", **more: Any) -> DecideCall:
    """A decision of a person who saw the arguments as they are."""
    known: dict[str, Any] = {"proposed_digest": digest(ARGUMENTS), "arguments": None, "reason": None, **more}
    return DecideCall(
        known.pop("generation", G),
        known.pop("call", "call_1"),
        decision_command,  # type: ignore[arg-type]
        by=known.pop("by", "Ada"),
        **known,
    )


def refusal_of(caught: pytest.ExceptionInfo[Problem]) -> tuple[int, str]:
    """Status and code of the Problem."""
    return caught.value.status, caught.value.code


ENDS = [completed(G), failed(G), cancelled(G)]
ASKED = proposed(G, asks=True, expires_at=NOW)


# -- decisions


@pytest.mark.parametrize(
    ("command", "arguments", "more"),
    [
        (decision_command(), ARGUMENTS, {}),
        (decision_command(reason="fine"), ARGUMENTS, {"reason": "fine"}),
        (decision_command("rejected", reason="no"), ARGUMENTS, {"reason": "no"}),
        (decision_command("modified", arguments=OTHER), OTHER, {}),
        (decision_command("modified", arguments={}), {}, {}),
    ],
)
def test_decision(command: DecideCall, arguments: dict[str, Any], more: dict[str, Any]) -> None:
    """Its event names the arguments that were seen and those that will run."""
    news = decide_on_call(state_after(ASKED), command, NOW - timedelta(microseconds=1), accept_any)
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
    after = fold(state_after(ASKED), rows(news, state_after(ASKED).position)).generation(G)
    assert after is not None
    assert after.status is Status.RUNNING


@pytest.mark.parametrize(
    ("news", "command", "expected", "extra"),
    [
        ([ASKED], decision_command(generation="gen_B"), (404, "not_found"), {}),
        ([ASKED], decision_command(call="call_2"), (404, "not_found"), {}),
        *(([ASKED, end], decision_command(), (409, "generation_ended"), {"generation": G}) for end in ENDS),
        ([proposed(G)], decision_command(), (409, "no_decision_needed"), {}),
        ([ASKED, decided(G)], decision_command(), (409, "already_decided"), {"decision": "approved"}),
        (
            [ASKED, decided(G, decision="rejected", reason="expired", by="tokentape")],
            decision_command(),
            (409, "already_decided"),
            {"decision": "rejected"},
        ),
        ([ASKED, decided(G), STARTED], decision_command(), (409, "already_decided"), {"decision": "approved"}),
        (
            [ASKED],
            decision_command(proposed_digest=digest(OTHER)),
            (409, "digest_mismatch"),
            {"arguments_digest": digest(ARGUMENTS)},
        ),
        (
            [ASKED],
            decision_command("modified", arguments=OTHER, proposed_digest=digest(OTHER)),
            (409, "digest_mismatch"),
            {"arguments_digest": digest(ARGUMENTS)},
        ),
        ([ASKED], decision_command("modified"), (422, "invalid_request"), {"field": "arguments"}),
        (
            [ASKED],
            decision_command("approved", arguments=ARGUMENTS),
            (422, "invalid_request"),
            {"field": "arguments"},
        ),
        ([ASKED], decision_command("rejected", arguments=OTHER), (422, "invalid_request"), {"field": "arguments"}),
        (
            [ASKED],
            decision_command("modified", arguments={"order": math.inf}),
            (422, "invalid_arguments"),
            {"field": "arguments"},
        ),
    ],
)
def test_refused_decision(
    news: list[NewEvent], command: DecideCall, expected: tuple[int, str], extra: dict[str, Any]
) -> None:
    with pytest.raises(Problem) as caught:
        decide_on_call(state_after(*news), command, NOW - timedelta(seconds=1), accept_any)
    assert refusal_of(caught) == expected
    assert caught.value.extra == extra


@pytest.mark.parametrize("late", [0, 1, 1e6])
def test_decision_after_the_expiry(late: float) -> None:
    """From that very moment on; a call without an expiry has no such moment."""
    with pytest.raises(Problem) as caught:
        decide_on_call(state_after(ASKED), decision_command(), NOW + timedelta(seconds=late), accept_any)
    assert refusal_of(caught) == (409, "decision_expired")
    assert decide_on_call(
        state_after(proposed(G, asks=True)), decision_command(), NOW + timedelta(days=9_000), accept_any
    )


def test_second_decision_names_the_first_decider() -> None:
    news = (ASKED, decided(G, decision="rejected", reason="too much", by="Bob"))
    with pytest.raises(Problem, match=r"was rejected already, by Bob: too much\.$"):
        decide_on_call(state_after(*news), decision_command(), NOW - timedelta(seconds=1), accept_any)


def test_only_modified_arguments_are_checked() -> None:
    """The proposed ones were checked when proposed; a wrong digest is reported before wrong arguments."""
    checked: list[tuple[str, Any]] = []

    def check(call: ToolCall, arguments: Mapping[str, Any]) -> dict[str, Any]:
        checked.append((call.name, arguments))
        raise Problem(422, "invalid_arguments", "order: too large")

    decide_on_call(state_after(ASKED), decision_command(), moment(1), check)
    decide_on_call(state_after(ASKED), decision_command("rejected"), moment(1), check)
    with pytest.raises(Problem, match="digest"):
        decide_on_call(
            state_after(ASKED),
            decision_command("modified", arguments=OTHER, proposed_digest="x"),
            moment(1),
            check,
        )
    assert checked == []
    with pytest.raises(Problem, match="too large"):
        decide_on_call(state_after(ASKED), decision_command("modified", arguments=OTHER), moment(1), check)
    assert checked == [("refund", OTHER)]


# -- results of a client's tools

OUTCOME = {"result": {"a": [1]}}
CLIENTS = proposed(G, client=True)


@pytest.mark.parametrize("outcome", [OUTCOME, {"result": None}, {"error": {"code": "c", "message": "m"}}])
def test_client_result(outcome: dict[str, Any]) -> None:
    news = decide_result(state_after(CLIENTS, STARTED), FinishCall(G, "call_1", outcome, "Ada"))
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
def test_refused_client_result(news: list[NewEvent], expected: tuple[int, str]) -> None:
    with pytest.raises(Problem) as caught:
        decide_result(state_after(*news), FinishCall(G, "call_1", OUTCOME, "Ada"))
    assert refusal_of(caught) == expected


# -- steering


@pytest.mark.parametrize(("name", "value"), [("strictness", 0), ("strictness", 10), ("tone", "")])
def test_steering(name: str, value: Any) -> None:
    news = decide_steering(state_after(), SteerGeneration(G, name, value, "Ada"), WORKFLOW)
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
def test_refused_steering(name: str, value: Any, code: str, field: str) -> None:
    with pytest.raises(Problem) as caught:
        decide_steering(state_after(), SteerGeneration(G, name, value, "Ada"), WORKFLOW)
    assert refusal_of(caught) == (422, code)
    assert caught.value.extra == {"field": field}


def test_steering_of_runs_without_parameters() -> None:
    command = SteerGeneration(G, "strictness", 1, "Ada")
    with pytest.raises(Problem, match="the workflow w") as caught:
        decide_steering(state_after(), command, None)
    assert refusal_of(caught) == (422, "not_steerable")
    plain = event_types.generation_requested(G, model="demo", parameters={}, by="anonymous")
    model = fold(Conversation("c"), rows([event_types.conversation_started(None, None), plain]))
    with pytest.raises(Problem, match="a model's answer") as caught:
        decide_steering(model, command, WORKFLOW)
    assert refusal_of(caught) == (422, "not_steerable")
    with pytest.raises(Problem) as caught:
        decide_steering(state_after(cancelled(G)), command, WORKFLOW)
    assert refusal_of(caught) == (409, "generation_ended")
    with pytest.raises(Problem) as caught:
        decide_steering(state_after(), SteerGeneration("gen_B", "strictness", 1, "Ada"), WORKFLOW)
    assert refusal_of(caught) == (404, "not_found")


# -- on any log


@no_deadline
@given(log=logs(), data=st.data())
def test_decision_in_any_state_is_refused_or_can_be_folded(log: list[Event], data: st.DataObject) -> None:
    """In any state of any call; a folded event leaves what it says."""
    before = fold(Conversation("conv_1"), log)
    calls = [(found, call) for found in before.generations for call in found.tool_calls]
    if not calls:
        return
    found, call = data.draw(st.sampled_from(calls))
    seen = data.draw(st.sampled_from([call.proposed_digest, call.arguments_digest, "0" * 64]))
    how = data.draw(st.sampled_from(["approved", "rejected", "modified"]))
    arguments = OTHER if how == "modified" else None
    commands: list[Callable[[], tuple[NewEvent, ...]]] = [
        lambda: decide_on_call(
            before,
            decision_command(how, generation=found.id, call=call.call, proposed_digest=seen, arguments=arguments),
            NOW,
            accept_any,
        ),
        lambda: decide_result(before, FinishCall(found.id, call.call, OUTCOME, "Ada")),
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
            assert seen == call.proposed_digest
            if news[0].type == "tool.approval":
                assert (now.decision, now.approvals[-1]) == (None, "Ada")
            else:
                agreed_change = how == "approved" and call.modified_from is not None
                assert now.decision == ("modified" if agreed_change else how)
            assert now.arguments == (OTHER if how == "modified" else call.arguments)
            assert now.arguments_digest == digest(now.arguments)
        else:
            assert (now.status, now.result) == ("finished", OUTCOME["result"])
