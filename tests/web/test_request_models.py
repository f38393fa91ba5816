"""The shapes of bodies: every bound, and errors that name the field as the client wrote it."""

from typing import Any, get_args

import pytest
from pydantic import BaseModel

from server.auth.principal import ALL_SCOPES
from server.problem import Problem
from server.web.commands.request_models import (
    CancelRequest,
    ClientTool,
    CreateConversation,
    CreateMessage,
    GenerateRequest,
    InputMessage,
    ModelInput,
    ScopeName,
    SteerRequest,
    ToolDecision,
    ToolResult,
    check,
)

M = {"role": "user", "content": "hi"}
G = {"model": "demo"}
T = {
    "name": "look",
    "description": "Looks.",
    "parameters": {"type": "object"},
    "approval": "never",
    "expires": 5.0,
}
ANY_JSON: tuple[Any, ...] = (None, False, 0, "", "x", [], [1], {}, {"a": None})
D = {"call": "call_x", "decision": "approved", "proposed_digest": "0" * 64}


def _plain(one: Any) -> Any:
    """An item of a list as it was given."""
    if isinstance(one, ClientTool):
        return one.declaration()
    return one.model_dump() if isinstance(one, BaseModel) else one


@pytest.mark.parametrize(
    ("model", "value"),
    [
        (CreateConversation, {}),
        (CreateConversation, {"title": None, "metadata": None}),
        (CreateConversation, {"title": "x" * 500, "metadata": {"a": [1, {"b": None}]}}),
        (CreateMessage, M),
        (CreateMessage, {**M, "content": ""}),
        (CreateMessage, {**M, "content": "x" * 1_000_000, "author": "x" * 200}),
        *((CreateMessage, {**M, "role": role}) for role in ("user", "assistant", "system", "tool")),
        (GenerateRequest, G),
        (GenerateRequest, {**G, "input": "hi", "parameters": {"any": ["thing"]}}),
        (GenerateRequest, {"workflow": "w", "input": {"pages": [1, None]}, "ephemeral": True}),
        (GenerateRequest, {**G, "tools": ["refund", T, "look"]}),
        (GenerateRequest, {**G, "tools": [{**T, "approvers": 5, "another_person": True}]}),
        (GenerateRequest, {**G, "tools": [{**T, "approvers": 2}, {**T, "another_person": True}]}),
        (GenerateRequest, {**G, "tools": ["t"] * 128}),
        *((GenerateRequest, {**G, "if_running": way}) for way in ("reject", "queue", "interrupt")),
        *((GenerateRequest, {**G, "on_crash": way}) for way in ("fail", "restart", None)),
        (GenerateRequest, {**G, "budget": {"tokens": 1, "cost": None}}),
        (GenerateRequest, {**G, "budget": {"tokens": 10**12, "cost": 0.01}}),
        (GenerateRequest, {**G, "budget": None}),
        (GenerateRequest, {**G, "webhook": {"url": "https://example.com/hook", "events": ["ended"]}}),
        (GenerateRequest, {**G, "webhook": {"url": "x", "events": ["waiting", "ended"]}}),
        (ModelInput, {"input": "hi"}),
        (ModelInput, {"input": [M] * 1_000}),
        (ModelInput, {"input": None}),
        (SteerRequest, {"name": "strictness", "value": 3}),
        *((SteerRequest, {"name": "n" * 100, "value": value}) for value in ANY_JSON),
        (ToolDecision, D),
        (ToolDecision, {**D, "decision": "rejected", "reason": "x" * 2_000}),
        (ToolDecision, {**D, "decision": "modified", "arguments": {}}),
        *((ToolResult, {"result": value}) for value in ANY_JSON),
        (CancelRequest, {}),
        (CancelRequest, {"reason": "x" * 2_000}),
    ],
)
def test_what_is_taken(model: type[BaseModel], value: dict[str, Any]) -> None:
    found = check(model, value)
    for name, given in value.items():
        kept = getattr(found, name)
        if isinstance(kept, list):
            kept = [_plain(one) for one in kept]
        elif isinstance(kept, BaseModel):
            kept = kept.model_dump()
        assert kept == given


def test_defaults_of_fields() -> None:
    assert check(GenerateRequest, G).parameters == {}
    assert check(GenerateRequest, G).input is None
    assert check(GenerateRequest, {"workflow": "w"}).tools == []
    assert check(GenerateRequest, G).if_running == "reject"
    assert check(GenerateRequest, G).on_crash is None, "it is for the model or the workflow to say"
    assert check(ModelInput, {"input": [M]}).input == [InputMessage(role="user", content="hi")]
    declared = check(GenerateRequest, {**G, "tools": [{"name": "look", "description": "Looks."}]}).tools[0]
    assert not isinstance(declared, str)
    assert (declared.parameters, declared.approval, declared.expires) == ({"type": "object"}, "always", 3600.0)
    webhook = check(GenerateRequest, {**G, "webhook": "https://example.com/hook"}).webhook
    assert webhook is not None
    assert webhook.url == "https://example.com/hook", "a text alone is its url"
    assert webhook.events == ["ended"]
    failed = check(ToolResult, {"error": {"code": "no_stock", "message": ""}})
    assert failed.error is not None
    assert (failed.error.code, failed.result) == ("no_stock", None)


@pytest.mark.parametrize(
    ("model", "value", "fields"),
    [
        (CreateConversation, {"titel": "x"}, ["titel"]),
        (CreateConversation, {"title": 5}, ["title"]),
        (CreateConversation, {"title": "x" * 501}, ["title"]),
        (CreateConversation, {"metadata": []}, ["metadata"]),
        (CreateConversation, {"title": 1, "metadata": "x", "z": 0}, ["title", "metadata", "z"]),
        (CreateMessage, {}, ["role", "content"]),
        (CreateMessage, {**M, "role": "robot"}, ["role"]),
        (CreateMessage, {**M, "content": None}, ["content"]),
        (CreateMessage, {**M, "content": 5}, ["content"]),
        (CreateMessage, {**M, "content": "x" * 1_000_001}, ["content"]),
        (CreateMessage, {**M, "author": ""}, ["author"]),
        (CreateMessage, {**M, "author": "x" * 201}, ["author"]),
        (GenerateRequest, {"model": ""}, ["model"]),
        (GenerateRequest, {"model": "x" * 201}, ["model"]),
        (GenerateRequest, {"model": True}, ["model"]),
        (GenerateRequest, {**G, "parameters": None}, ["parameters"]),
        (GenerateRequest, {**G, "parameters": []}, ["parameters"]),
        (GenerateRequest, {"workflow": "x" * 101}, ["workflow"]),
        (GenerateRequest, {**G, "budget": {}}, ["budget"]),
        (GenerateRequest, {**G, "budget": {"tokens": None, "cost": None}}, ["budget"]),
        (GenerateRequest, {**G, "budget": {"tokens": 0}}, ["budget.tokens"]),
        (GenerateRequest, {**G, "budget": {"tokens": 1.5}}, ["budget.tokens"]),
        (GenerateRequest, {**G, "budget": {"tokens": 10**12 + 1}}, ["budget.tokens"]),
        (GenerateRequest, {**G, "budget": {"cost": 0}}, ["budget.cost"]),
        (GenerateRequest, {**G, "budget": {"cost": 1e10}}, ["budget.cost"]),
        (GenerateRequest, {**G, "budget": {"euros": 1}}, ["budget.euros"]),
        (GenerateRequest, {**G, "tools": "look"}, ["tools"]),
        (GenerateRequest, {**G, "tools": ["t"] * 129}, ["tools"]),
        (GenerateRequest, {**G, "tools": ["look", 5]}, ["tools.1"]),
        (GenerateRequest, {**G, "tools": [""]}, ["tools.0"]),
        (GenerateRequest, {**G, "tools": [{"name": "l o"}]}, ["tools.0.name", "tools.0.description"]),
        (GenerateRequest, {**G, "tools": [{**T, "approval": "maybe"}]}, ["tools.0.approval"]),
        (GenerateRequest, {**G, "tools": [{**T, "expires": 0}]}, ["tools.0.expires"]),
        (GenerateRequest, {**G, "tools": [{**T, "approvers": 0}]}, ["tools.0.approvers"]),
        (GenerateRequest, {**G, "tools": [{**T, "approvers": 6}]}, ["tools.0.approvers"]),
        (GenerateRequest, {**G, "tools": [{**T, "approvers": True}]}, ["tools.0.approvers"]),
        (GenerateRequest, {**G, "tools": [{**T, "another_person": 1}]}, ["tools.0.another_person"]),
        (GenerateRequest, {**G, "tools": [{**T, "run": "rm"}]}, ["tools.0.run"]),
        (GenerateRequest, {**G, "if_running": "wait"}, ["if_running"]),
        (GenerateRequest, {**G, "on_crash": "explode"}, ["on_crash"]),
        (GenerateRequest, {**G, "ephemeral": 1}, ["ephemeral"]),
        (GenerateRequest, {**G, "webhook": 5}, ["webhook"]),
        (GenerateRequest, {**G, "webhook": ""}, ["webhook.url"]),
        (GenerateRequest, {**G, "webhook": {"url": "x", "secret": "y"}}, ["webhook.secret"]),
        (GenerateRequest, {**G, "webhook": {"url": "x", "events": []}}, ["webhook.events"]),
        (GenerateRequest, {**G, "webhook": {"url": "x", "events": "ended"}}, ["webhook.events"]),
        (GenerateRequest, {**G, "webhook": {"url": "x", "events": ["started"]}}, ["webhook.events.0"]),
        (GenerateRequest, {**G, "webhook": {"url": "x", "events": ["ended", "ended"]}}, ["webhook.events"]),
        (SteerRequest, {"name": "strictness"}, ["value"]),
        (SteerRequest, {"name": "", "value": 1}, ["name"]),
        (SteerRequest, {"name": "n" * 101, "value": 1}, ["name"]),
        (SteerRequest, {"name": 5, "value": 1, "by": "me"}, ["name", "by"]),
        (ToolDecision, {}, ["call", "decision", "proposed_digest"]),
        (ToolDecision, {**D, "decision": "expired"}, ["decision"]),
        (ToolDecision, {**D, "proposed_digest": "A" * 64}, ["proposed_digest"]),
        (ToolDecision, {**D, "proposed_digest": "0" * 63}, ["proposed_digest"]),
        (ToolDecision, {**D, "arguments": [1]}, ["arguments"]),
        (ToolDecision, {**D, "reason": "x" * 2_001}, ["reason"]),
        (ToolDecision, {**D, "by": "somebody else"}, ["by"]),
        (ToolResult, {"error": {"code": "No Stock", "message": "x"}}, ["error.code"]),
        (ToolResult, {"error": "broken"}, ["error"]),
        (ToolResult, {"error": {"code": "x", "message": "m" * 10_001}}, ["error.message"]),
        (CancelRequest, {"reason": "x" * 2_001}, ["reason"]),
        (CancelRequest, {"reason": False}, ["reason"]),
    ],
)
def test_refused_values_by_field(model: type[BaseModel], value: dict[str, Any], fields: list[str]) -> None:
    with pytest.raises(Problem) as caught:
        check(model, value)
    problem = caught.value
    assert (problem.status, problem.code) == (422, "invalid_request")
    assert [error["field"] for error in problem.extra["errors"]] == fields
    for error in problem.extra["errors"]:
        assert error["message"]
        assert f"{error['field']}: {error['message']}" in problem.detail
    assert len(problem.detail) < 500, "what was sent is not sent back"


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        (5, {"input"}),
        ([], {"input"}),
        ([{**M, "role": "robot"}], {"input.0.role"}),
        ([M, {"role": "user"}], {"input.1.content"}),
        ([{**M, "author": "Ada"}], {"input.0.author"}),
        ("x" * 1_000_001, {"input"}),
        ([M] * 1_001, {"input"}),
    ],
)
def test_input_is_a_string_or_a_list_and_errors_say_which_part(given: Any, fields: set[str]) -> None:
    with pytest.raises(Problem) as caught:
        check(ModelInput, {"input": given})
    assert {error["field"] for error in caught.value.extra["errors"]} == fields


@pytest.mark.parametrize(
    "given",
    [{}, {"error": None}, {"result": 1, "error": {"code": "x", "message": "y"}}, {"result": None, "error": None}],
)
def test_a_result_or_an_error_and_not_both(given: dict[str, Any]) -> None:
    with pytest.raises(Problem) as caught:
        check(ToolResult, given)
    assert (caught.value.status, caught.value.code) == (422, "invalid_request")
    assert "one of both" in caught.value.detail


def test_many_errors_are_bounded() -> None:
    with pytest.raises(Problem) as caught:
        check(GenerateRequest, {**G, **{f"f{number}": 0 for number in range(1_000)}})
    assert len(caught.value.extra["errors"]) == 20
    assert caught.value.detail.count(";") == 4


def test_the_scopes_of_a_ticket_are_all_there_are() -> None:
    """The model spells them out, for the document."""
    assert set(get_args(ScopeName)) == ALL_SCOPES
