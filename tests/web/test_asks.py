"""The shapes of bodies: every bound, and errors that name the field as the client wrote it."""

from typing import Any

import pytest
from pydantic import BaseModel

from server.errors import Problem
from server.web.commands.request_body import check
from server.web.commands.request_models import (
    CancelAsk,
    ConversationAsk,
    DecisionAsk,
    GenerationAsk,
    InputAsk,
    InputMessage,
    MessageAsk,
    SteerAsk,
    ToolResultAsk,
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


@pytest.mark.parametrize(
    ("model", "value"),
    [
        (ConversationAsk, {}),
        (ConversationAsk, {"title": None, "metadata": None}),
        (ConversationAsk, {"title": "x" * 500, "metadata": {"a": [1, {"b": None}]}}),
        (MessageAsk, M),
        (MessageAsk, {**M, "content": ""}),
        (MessageAsk, {**M, "content": "x" * 1_000_000, "author": "x" * 200}),
        *((MessageAsk, {**M, "role": role}) for role in ("user", "assistant", "system", "tool")),
        (GenerationAsk, G),
        (GenerationAsk, {**G, "input": "hi", "parameters": {"any": ["thing"]}}),
        (GenerationAsk, {"workflow": "w", "input": {"pages": [1, None]}, "ephemeral": True}),
        (GenerationAsk, {**G, "tools": ["refund", T, "look"]}),
        (GenerationAsk, {**G, "tools": ["t"] * 128}),
        *((GenerationAsk, {**G, "if_running": way}) for way in ("reject", "queue", "interrupt")),
        *((GenerationAsk, {**G, "on_crash": way}) for way in ("fail", "restart", None)),
        (GenerationAsk, {**G, "webhook": {"url": "https://example.com/hook"}}),
        (InputAsk, {"input": "hi"}),
        (InputAsk, {"input": [M] * 1_000}),
        (InputAsk, {"input": None}),
        (SteerAsk, {"name": "strictness", "value": 3}),
        *((SteerAsk, {"name": "n" * 100, "value": value}) for value in ANY_JSON),
        (DecisionAsk, D),
        (DecisionAsk, {**D, "decision": "rejected", "reason": "x" * 2_000}),
        (DecisionAsk, {**D, "decision": "modified", "arguments": {}}),
        *((ToolResultAsk, {"result": value}) for value in ANY_JSON),
        (CancelAsk, {}),
        (CancelAsk, {"reason": "x" * 2_000}),
    ],
)
def test_what_is_taken(model: type[BaseModel], value: dict[str, Any]) -> None:
    found = check(model, value)
    for name, given in value.items():
        kept = getattr(found, name)
        if isinstance(kept, list):
            kept = [one.model_dump() if isinstance(one, BaseModel) else one for one in kept]
        elif isinstance(kept, BaseModel):
            kept = kept.model_dump()
        assert kept == given


def test_what_is_left_out() -> None:
    assert check(GenerationAsk, G).parameters == {}
    assert check(GenerationAsk, G).input is None
    assert check(GenerationAsk, {"workflow": "w"}).tools == []
    assert check(GenerationAsk, G).if_running == "reject"
    assert check(GenerationAsk, G).on_crash is None, "it is for the model or the workflow to say"
    assert check(InputAsk, {"input": [M]}).input == [InputMessage(role="user", content="hi")]
    declared = check(GenerationAsk, {**G, "tools": [{"name": "look", "description": "Looks."}]}).tools[0]
    assert not isinstance(declared, str)
    assert (declared.parameters, declared.approval, declared.expires) == ({"type": "object"}, "always", 3600.0)
    webhook = check(GenerationAsk, {**G, "webhook": "https://example.com/hook"}).webhook
    assert webhook is not None
    assert webhook.url == "https://example.com/hook", "a text alone is its url"
    failed = check(ToolResultAsk, {"error": {"code": "no_stock", "message": ""}})
    assert failed.error is not None
    assert (failed.error.code, failed.result) == ("no_stock", None)


@pytest.mark.parametrize(
    ("model", "value", "fields"),
    [
        (ConversationAsk, {"titel": "x"}, ["titel"]),
        (ConversationAsk, {"title": 5}, ["title"]),
        (ConversationAsk, {"title": "x" * 501}, ["title"]),
        (ConversationAsk, {"metadata": []}, ["metadata"]),
        (ConversationAsk, {"title": 1, "metadata": "x", "z": 0}, ["title", "metadata", "z"]),
        (MessageAsk, {}, ["role", "content"]),
        (MessageAsk, {**M, "role": "robot"}, ["role"]),
        (MessageAsk, {**M, "content": None}, ["content"]),
        (MessageAsk, {**M, "content": 5}, ["content"]),
        (MessageAsk, {**M, "content": "x" * 1_000_001}, ["content"]),
        (MessageAsk, {**M, "author": ""}, ["author"]),
        (MessageAsk, {**M, "author": "x" * 201}, ["author"]),
        (GenerationAsk, {"model": ""}, ["model"]),
        (GenerationAsk, {"model": "x" * 201}, ["model"]),
        (GenerationAsk, {"model": True}, ["model"]),
        (GenerationAsk, {**G, "parameters": None}, ["parameters"]),
        (GenerationAsk, {**G, "parameters": []}, ["parameters"]),
        (GenerationAsk, {"workflow": "x" * 101}, ["workflow"]),
        (GenerationAsk, {**G, "tools": "look"}, ["tools"]),
        (GenerationAsk, {**G, "tools": ["t"] * 129}, ["tools"]),
        (GenerationAsk, {**G, "tools": ["look", 5]}, ["tools.1"]),
        (GenerationAsk, {**G, "tools": [""]}, ["tools.0"]),
        (GenerationAsk, {**G, "tools": [{"name": "l o"}]}, ["tools.0.name", "tools.0.description"]),
        (GenerationAsk, {**G, "tools": [{**T, "approval": "maybe"}]}, ["tools.0.approval"]),
        (GenerationAsk, {**G, "tools": [{**T, "expires": 0}]}, ["tools.0.expires"]),
        (GenerationAsk, {**G, "tools": [{**T, "run": "rm"}]}, ["tools.0.run"]),
        (GenerationAsk, {**G, "if_running": "wait"}, ["if_running"]),
        (GenerationAsk, {**G, "on_crash": "explode"}, ["on_crash"]),
        (GenerationAsk, {**G, "ephemeral": 1}, ["ephemeral"]),
        (GenerationAsk, {**G, "webhook": 5}, ["webhook"]),
        (GenerationAsk, {**G, "webhook": ""}, ["webhook.url"]),
        (GenerationAsk, {**G, "webhook": {"url": "x", "secret": "y"}}, ["webhook.secret"]),
        (SteerAsk, {"name": "strictness"}, ["value"]),
        (SteerAsk, {"name": "", "value": 1}, ["name"]),
        (SteerAsk, {"name": "n" * 101, "value": 1}, ["name"]),
        (SteerAsk, {"name": 5, "value": 1, "by": "me"}, ["name", "by"]),
        (DecisionAsk, {}, ["call", "decision", "proposed_digest"]),
        (DecisionAsk, {**D, "decision": "expired"}, ["decision"]),
        (DecisionAsk, {**D, "proposed_digest": "A" * 64}, ["proposed_digest"]),
        (DecisionAsk, {**D, "proposed_digest": "0" * 63}, ["proposed_digest"]),
        (DecisionAsk, {**D, "arguments": [1]}, ["arguments"]),
        (DecisionAsk, {**D, "reason": "x" * 2_001}, ["reason"]),
        (DecisionAsk, {**D, "by": "somebody else"}, ["by"]),
        (ToolResultAsk, {"error": {"code": "No Stock", "message": "x"}}, ["error.code"]),
        (ToolResultAsk, {"error": "broken"}, ["error"]),
        (ToolResultAsk, {"error": {"code": "x", "message": "m" * 10_001}}, ["error.message"]),
        (CancelAsk, {"reason": "x" * 2_001}, ["reason"]),
        (CancelAsk, {"reason": False}, ["reason"]),
    ],
)
def test_what_is_refused_by_name(model: type[BaseModel], value: dict[str, Any], fields: list[str]) -> None:
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
        check(InputAsk, {"input": given})
    assert {error["field"] for error in caught.value.extra["errors"]} == fields


@pytest.mark.parametrize(
    "given",
    [{}, {"error": None}, {"result": 1, "error": {"code": "x", "message": "y"}}, {"result": None, "error": None}],
)
def test_a_result_or_an_error_and_not_both(given: dict[str, Any]) -> None:
    with pytest.raises(Problem) as caught:
        check(ToolResultAsk, given)
    assert (caught.value.status, caught.value.code) == (422, "invalid_request")
    assert "one of both" in caught.value.detail


def test_many_errors_are_bounded() -> None:
    with pytest.raises(Problem) as caught:
        check(GenerationAsk, {**G, **{f"f{number}": 0 for number in range(1_000)}})
    assert len(caught.value.extra["errors"]) == 20
    assert caught.value.detail.count(";") == 4
