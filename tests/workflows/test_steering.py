"""Steering parameters: which pydantic models may declare them, and that no change leaves their bounds."""

from __future__ import annotations

import json
import math
from datetime import date
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, RootModel, field_validator, model_validator

from server.workflows import BadValue, UnknownParameter, Workflow, workflow


class SteeringParameters(BaseModel):
    low: Annotated[float, Field(ge=0, le=1)] = 0.2
    high: Annotated[float, Field(ge=0, le=1)] = 0.8
    tone: Literal["mild", "harsh"] = "mild"
    until: date = date(2026, 1, 2)
    label: Annotated[str, Field(alias="name", max_length=5)] = "x"

    @model_validator(mode="after")
    def in_order(self) -> SteeringParameters:
        if self.low > self.high:
            raise ValueError("low has to be at most high")
        return self


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    low: float = 0.0


def steered_by(model: Any) -> Workflow:
    @workflow("one", steering=model)
    async def one(run: Any) -> None: ...

    return one


@workflow("none")
async def none(run: Any) -> None: ...


FLOW = steered_by(SteeringParameters)
FIRST = {"low": 0.2, "high": 0.8, "tone": "mild", "until": "2026-01-02", "label": "x"}


def test_initial_values() -> None:
    first = FLOW.initial_steering()
    assert first == FIRST
    first["low"] = 9
    assert FLOW.initial_steering() == FIRST
    assert FLOW.steering is SteeringParameters
    assert json.loads(json.dumps(FIRST)) == FIRST


@pytest.mark.parametrize(
    ("name", "value"),
    [("low", 0.5), ("low", 0), ("tone", "harsh"), ("until", "2027-01-01"), ("label", "abcde")],
)
def test_valid_change(name: str, value: Any) -> None:
    assert FLOW.steer(FIRST, name, value) is value
    model = FLOW.steering_model({**FIRST, name: value})
    assert isinstance(model, SteeringParameters)
    assert model.model_dump(mode="json")[name] == value


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("low", 1.5, "^low: .*less than or equal to 1"),
        ("low", -1, "^low: .*greater than or equal to 0"),
        ("low", "0.5", "^low: .*valid number"),
        ("low", True, "^low: .*valid number"),
        ("low", None, "^low: .*valid number"),
        ("low", 0.9, "^low has to be at most high"),
        ("tone", "rude", "^tone: .*'mild' or 'harsh'"),
        ("until", 1, "^until: .*valid date"),
        ("label", "abcdef", "^label: .*at most 5 characters"),
    ],
)
def test_out_of_bounds_change_names_the_bounds(name: str, value: Any, said: str) -> None:
    with pytest.raises(BadValue, match=said):
        FLOW.steer(FIRST, name, value)


def test_change_is_checked_together_with_the_current_values() -> None:
    assert FLOW.steer({**FIRST, "high": 1.0}, "low", 0.9) == 0.9


@pytest.mark.parametrize("name", ["Low", "", "name", "model_config", "in_order", "x" * 1000, "é"])
def test_undeclared_parameter(name: str) -> None:
    with pytest.raises(UnknownParameter, match="this workflow has: low, high, tone, until, label") as caught:
        FLOW.steer(FIRST, name, 1)
    assert len(str(caught.value)) < 300


def test_workflow_without_parameters() -> None:
    assert none.steering is None
    assert none.initial_steering() == {}
    assert none.steering_model({"low": 1}) is None
    with pytest.raises(UnknownParameter, match="this workflow has none"):
        none.steer({}, "low", 1)


def test_values_recorded_by_an_older_version() -> None:
    """Removed names are left out, new names begin with their default, bounds hold."""
    model = FLOW.steering_model({"low": 0.1, "gone": 3})
    assert model == SteeringParameters(low=0.1)
    assert FLOW.steer({"gone": 3}, "low", 0.1) == 0.1
    assert steered_by(Closed).steering_model({"low": 0.1, "gone": 3}) == Closed(low=0.1)
    with pytest.raises(BadValue, match="tone"):
        FLOW.steering_model({**FIRST, "tone": "gone"})


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["low", "high", "tone", "label", "nothing"]),
            st.none() | st.booleans() | st.floats(-2, 2) | st.sampled_from(["mild", "harsh", "abcdef", "0.5"]),
        )
    )
)
def test_no_sequence_of_changes_leaves_the_bounds(changes: list[tuple[str, Any]]) -> None:
    current = FLOW.initial_steering()
    for name, value in changes:
        try:
            current[name] = FLOW.steer(current, name, value)
        except (BadValue, UnknownParameter):
            continue
    dials = FLOW.steering_model(current)
    assert isinstance(dials, SteeringParameters)
    assert 0 <= dials.low <= dials.high <= 1
    assert dials.tone in ("mild", "harsh")
    assert set(current) == set(FIRST)


class NoDefault(BaseModel):
    low: float = 0.0
    high: float


class NoType(BaseModel):
    low: Any = 0.0


class OutOfBounds(BaseModel):
    low: Annotated[float, Field(ge=1)] = 0.0


class OutOfOrder(SteeringParameters):
    low: float = 0.9


class NotANumber(BaseModel):
    low: float = math.nan


class WrongDefault(BaseModel):
    low: Annotated[int, Field(validate_default=True)] = "x"  # type: ignore[assignment]


class Raising(BaseModel):
    low: int = 0

    @field_validator("low")
    @classmethod
    def check(cls, value: int) -> int:
        raise ValueError("nothing is low enough")


class Values(RootModel[list[int]]):
    root: list[int] = []


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (NoDefault, "high needs a default"),
        (NoType, "low needs a type"),
        (OutOfBounds, "its defaults break its own bounds: low: .*greater than or equal to 1"),
        (OutOfOrder, "its defaults break its own bounds: low has to be at most high"),
        (NotANumber, "its defaults break its own bounds: low: nan is no JSON number"),
        (WrongDefault, "its defaults break its own bounds: low: .*valid integer"),
        (Raising, "its defaults break its own bounds: low: nothing is low enough"),
        (Values, "it has to be a pydantic model with fields"),
        (dict, "it has to be a pydantic model with fields"),
        (SteeringParameters(), "it has to be a pydantic model with fields"),
    ],
)
def test_invalid_steering_models(model: Any, said: str) -> None:
    with pytest.raises(TypeError, match=f"^the workflow one, steering: {said}"):
        steered_by(model)
