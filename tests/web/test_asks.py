"""The shapes of bodies: every bound, and errors that name the field as the client wrote it."""

from typing import Any

import pytest
from pydantic import BaseModel

from server.errors import Problem
from server.web.asks import CancelAsk, ConversationAsk, GenerationAsk, InputMessage, MessageAsk
from server.web.bodies import check

M = {"role": "user", "content": "hi"}
G = {"model": "demo"}


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
        (GenerationAsk, {**G, "input": [M] * 1_000}),
        (GenerationAsk, {**G, "input": None}),
        (CancelAsk, {}),
        (CancelAsk, {"reason": "x" * 2_000}),
    ],
)
def test_what_is_taken(model: type[BaseModel], value: dict[str, Any]) -> None:
    found = check(model, value)
    for name, given in value.items():
        kept = getattr(found, name)
        if isinstance(kept, list):
            kept = [one.model_dump() for one in kept]
        assert kept == given


def test_what_is_left_out() -> None:
    assert check(GenerationAsk, G).parameters == {}
    assert check(GenerationAsk, G).input is None
    assert check(GenerationAsk, {**G, "input": [M]}).input == [InputMessage(role="user", content="hi")]


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
        (GenerationAsk, {}, ["model"]),
        (GenerationAsk, {"model": ""}, ["model"]),
        (GenerationAsk, {"model": "x" * 201}, ["model"]),
        (GenerationAsk, {"model": True}, ["model"]),
        (GenerationAsk, {**G, "parameters": None}, ["parameters"]),
        (GenerationAsk, {**G, "parameters": []}, ["parameters"]),
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
        check(GenerationAsk, {**G, "input": given})
    assert {error["field"] for error in caught.value.extra["errors"]} == fields


def test_many_errors_are_bounded() -> None:
    with pytest.raises(Problem) as caught:
        check(GenerationAsk, {**G, **{f"f{number}": 0 for number in range(1_000)}})
    assert len(caught.value.extra["errors"]) == 20
    assert caught.value.detail.count(";") == 4
