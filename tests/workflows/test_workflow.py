"""Workflows: which functions may be one, which inputs fit, and how results become JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, computed_field, field_serializer

from server.workflows import BadInput, BadResult, Workflow, workflow


class Essay(BaseModel):
    model_config = ConfigDict(extra="forbid")
    text: Annotated[str, Field(min_length=1)]
    due: date | None = None
    pages: Annotated[list[int], Field(max_length=3)] = []


class Dials(BaseModel):
    pages: int = 50
    title: str = ""


class Grade(BaseModel):
    score: Annotated[float, Field(ge=0, le=10)]
    name: Annotated[str, Field(serialization_alias="called")] = "x"
    day: date = date(2026, 1, 2)


class Odd(BaseModel):
    value: int

    @field_serializer("value")
    def broken(self, value: int) -> int:
        raise KeyError("value")


class Odder(BaseModel):
    @computed_field  # type: ignore[prop-decorator]
    @property
    def total(self) -> int:
        raise KeyError("total")


@dataclass
class Pair:
    left: int
    right: int


WHOLE = st.integers(-(2**53), 2**53)  # those that a float holds exactly
spoilt = Grade(score=1)
spoilt.score = "2"  # type: ignore[assignment]


@workflow("grading.v1", input=Essay, result=Grade)
async def grading(run: Any) -> Grade:
    """Grades an essay."""
    return Grade(score=1)


@workflow("anything")
async def anything(run: Any) -> Any:
    return run


def workflow_with(**types: Any) -> Workflow:
    @workflow("one", **types)
    async def one(run: Any) -> None: ...

    return one


async def test_declaration() -> None:
    assert isinstance(grading, Workflow)
    assert (grading.name, grading.on_crash, grading.steering) == ("grading.v1", "restart", None)
    assert workflow_with(on_crash="fail").on_crash == "fail"
    assert await anything.function(3) == 3
    assert repr(grading) == "<workflow grading.v1>"


def test_input_of_the_declared_type() -> None:
    essay = grading.read_input({"text": "a", "due": "2026-01-02", "pages": [1]})
    assert essay == Essay(text="a", due=date(2026, 1, 2), pages=[1])
    assert workflow_with(input=list[int]).read_input([1, 2]) == [1, 2]
    assert workflow_with(input=TypeAdapter(Pair)).read_input({"left": 1, "right": 2}) == Pair(1, 2)
    assert workflow_with(input=str | None).read_input(None) is None


@pytest.mark.parametrize("value", [None, True, 3, "x", [1, {"a": None}], {"a": 1}])
def test_input_without_a_type(value: Any) -> None:
    assert anything.read_input(value) is value


@pytest.mark.parametrize(
    ("value", "errors"),
    [
        ({}, [("text", "Field required")]),
        ({"text": ""}, [("text", "at least 1 character")]),
        ({"text": 3}, [("text", "valid string")]),
        ({"text": "a", "pages": ["3"]}, [("pages.0", "valid integer")]),
        ({"text": "a", "pages": [1, 2.5, True]}, [("pages.1", "valid integer"), ("pages.2", "valid integer")]),
        ({"text": "a", "due": 0}, [("due", "valid date")]),
        ({"text": "a", "page": 1}, [("page", "not permitted")]),
        (None, [("", "an object")]),
        ("text", [("", "an object")]),
    ],
)
def test_invalid_input_names_each_field(value: Any, errors: list[tuple[str, str]]) -> None:
    with pytest.raises(BadInput) as caught:
        grading.read_input(value)
    found = [(one["field"], one["message"]) for one in caught.value.errors]
    assert [field for field, _ in found] == [field for field, _ in errors]
    for (field, message), (_, said) in zip(found, errors, strict=True):
        assert said in message
        assert (f"{field}: {message}" if field else message) in str(caught.value)
    assert str(caught.value).endswith(".")


def test_request_without_input_takes_the_defaults() -> None:
    """Only where each field has one; else the error is about what was sent, which is nothing."""
    assert workflow_with(input=Dials).read_input(None) == Dials(pages=50, title="")
    assert workflow_with(input=Dials | None).read_input(None) is None
    for needed in (Essay, list[int], int):
        with pytest.raises(BadInput) as caught:
            workflow_with(input=needed).read_input(None)
        assert [error["field"] for error in caught.value.errors] == [""]


def test_too_deep_input() -> None:
    deep: list[Any] = []
    for _ in range(500):  # pydantic's own bound, below Python's
        deep = [deep]
    with pytest.raises(BadInput, match="recursion limit"):
        workflow_with(input=list[Any]).read_input(deep)


OF_ONE_TYPE = [workflow_with(input=TypeAdapter(kind)) for kind in (int, float, bool, str, type(None))]


@settings(deadline=None)
@given(WHOLE | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.text() | st.none())
def test_json_types_are_not_converted(value: Any) -> None:
    """One type accepts a value, or two for whole numbers: an integer is a number, too."""
    took = []
    for flow in OF_ONE_TYPE:
        try:
            took.append(flow.read_input(value))
        except BadInput:
            continue
    assert len(took) == (2 if type(value) is int else 1)
    assert took == [value] * len(took)


@pytest.mark.parametrize(
    ("value", "made"),
    [
        (Grade(score=1), {"score": 1.0, "called": "x", "day": "2026-01-02"}),
        ({"score": 2, "name": "y"}, {"score": 2.0, "called": "y", "day": "2026-01-02"}),
        ({"score": 2.5, "day": "2026-02-03"}, {"score": 2.5, "called": "x", "day": "2026-02-03"}),
        ({"score": 2.5, "day": date(2026, 2, 3)}, {"score": 2.5, "called": "x", "day": "2026-02-03"}),
        (Grade(score=1, name="a\x00\ud83d"), {"score": 1.0, "called": "a\ufffd\ufffd", "day": "2026-01-02"}),
        ({"score": 1, "name": "\ud83d\ude00"}, {"score": 1.0, "called": "😀", "day": "2026-01-02"}),
    ],
)
def test_result_of_the_declared_type(value: Any, made: Any) -> None:
    assert grading.make_result(value) == made
    assert json.loads(json.dumps(grading.make_result(value))) == made


@pytest.mark.parametrize(
    ("value", "made"),
    [(None, None), ([Grade(score=1)], [{"score": 1.0, "called": "x", "day": "2026-01-02"}]), ("\x00", "\ufffd")],
)
def test_result_without_a_type(value: Any, made: Any) -> None:
    assert anything.make_result(value) == made


def test_list_of_models_and_their_fields() -> None:
    flow = workflow_with(result=list[Grade])
    made = flow.make_result([Grade(score=1), {"score": 2}])
    assert [one["score"] for one in made] == [1.0, 2.0]


DECLARED = r"it cannot be written as JSON as its type declares\.$"


@pytest.mark.parametrize(
    ("flow", "value", "said"),
    [
        (grading, None, "Input should be an object"),
        (grading, {"score": "2"}, "score: .*valid number"),
        (grading, {"score": 11}, "score: .*less than or equal to 10"),
        (grading, {"score": float("nan")}, "score: nan is no JSON number"),
        (grading, Grade.model_construct(score=float("nan")), "score: nan is no JSON number"),
        (grading, spoilt, DECLARED),
        (grading, object(), "a value of the type object cannot"),
        (workflow_with(result=Odd), Odd(value=1), DECLARED),
        (workflow_with(result=Odder), Odder(), DECLARED),
        (anything, object(), "a value of the type object cannot"),
        (anything, [float("inf")], "0: inf is no JSON number"),
    ],
)
def test_invalid_result(flow: Workflow, value: Any, said: str) -> None:
    with pytest.raises(BadResult, match=f"^{said}") as caught:
        flow.make_result(value)
    assert caught.value.errors
    assert not str(caught.value).endswith("..")
    assert "KeyError" not in str(caught.value), "what the app's own code raised is for the server's log"


def plain(run: Any) -> None: ...
async def nothing() -> None: ...
async def two(run: Any, other: Any) -> None: ...
async def yields(run: Any) -> Any:
    yield run


async def fine(run: Any, other: Any = None) -> None: ...


class Undefined(BaseModel):
    later: Later  # type: ignore[name-defined]  # noqa: F821


class Awaitable:
    async def __call__(self, run: Any) -> None: ...


@pytest.mark.parametrize("name", ["", "A", "1a", "a b", "a\n", "a" * 101, "é", "a/b", None, fine])
def test_invalid_names(name: Any) -> None:
    with pytest.raises(TypeError, match=r"^the workflow's name .* has to begin with a small letter"):
        workflow(name)(fine)


@pytest.mark.parametrize("name", ["a", "a.b-c_9", "a" * 100])
def test_valid_names(name: str) -> None:
    assert workflow(name)(fine).name == name


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (plain, "has to be an async function"),
        (yields, "has to be an async function"),
        (Awaitable(), "has to be an async function"),
        (nothing, "has to take one argument"),
        (two, "has to take one argument"),
    ],
)
def test_invalid_functions(function: Any, said: str) -> None:
    with pytest.raises(TypeError, match=f"^the workflow one {said}"):
        workflow("one")(function)


@pytest.mark.parametrize(
    ("types", "said"),
    [
        ({"input": object()}, "one, input: .* no type that JSON can be read as"),
        ({"input": Undefined}, "one, input: .* no type that JSON can be read as"),
        ({"result": Awaitable}, "one, result: .* no type that JSON can be read as"),
        ({"on_crash": "continue"}, 'one: on_crash is "restart" or "fail"'),
    ],
)
def test_invalid_types(types: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError, match=f"^the workflow {said}"):
        workflow("one", **types)(fine)
