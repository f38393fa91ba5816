"""Defaults of a tool's parameters: filled into the arguments, so that a person who decides sees them."""

import enum
from datetime import date
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, BeforeValidator

from server.workflows import BadArguments, ClientTool, InjectedRun, Tool


class FakeRun(InjectedRun):
    """Stands for the Run that apps know."""


class Kind(enum.StrEnum):
    CARD = "card"
    CASH = "cash"


class Settings(BaseModel):
    deep: bool = True


NOWHERE = object()


def with_default(default: Any, kind: Any = Any) -> Tool:
    def take(value: kind = default) -> Any:
        """Takes."""
        return value

    return Tool(take)


@pytest.mark.parametrize(
    ("taking", "filled", "got"),
    [
        (with_default(3, int), {"value": 3}, 3),
        (with_default(None, int), {"value": None}, None),
        (with_default("3", int), {"value": "3"}, "3"),
        (with_default(Kind.CASH, Kind), {"value": "cash"}, Kind.CASH),
        (with_default(date(2026, 1, 2), date), {"value": "2026-01-02"}, date(2026, 1, 2)),
        (with_default(2**60 + 1, int), {"value": 2**60 + 1}, 2**60 + 1),
        (with_default([1], list[int]), {"value": [1]}, [1]),
        (with_default(Settings(), Settings), {"value": {"deep": True}}, Settings()),
        # No argument could be what stands for it, or what stands for it would mean something else.
        (with_default(NOWHERE), {}, NOWHERE),
        (with_default(float("inf"), float), {}, float("inf")),
        (with_default(1, Annotated[int, BeforeValidator(lambda value: value + 1)]), {}, 1),
    ],
)
def test_default_is_shown_and_used(taking: Tool, filled: dict[str, Any], got: Any) -> None:
    """A person decides on everything that the function is called with, and nothing else runs."""
    assert taking.check({}) == filled
    assert taking.bind(filled, FakeRun())() == got
    assert taking.bind(taking.check(filled), FakeRun())() == got


def test_changed_arguments_leave_the_default_unchanged() -> None:
    taking = with_default([1], list[int])
    taking.check({})["value"].append(2)
    assert taking.check({}) == {"value": [1]}


def test_default_of_another_type_does_not_loosen_the_check() -> None:
    taking = with_default(None, int)
    assert taking.check({"value": 3}) == {"value": 3}
    with pytest.raises(BadArguments):
        taking.check({"value": "3"})


def test_defaults_inside_an_argument_are_not_filled_in() -> None:
    """Pydantic tells fields that were given from those that were not; filled in, each would count as given."""

    def take(value: Settings) -> Any:
        """Takes."""
        return value.model_fields_set

    assert Tool(take).check({"value": {}}) == {"value": {}}
    assert Tool(take).bind({"value": {}}, FakeRun())() == set()


def test_defaults_of_a_client_tool() -> None:
    properties = {
        "a": {"type": "integer", "default": 3},
        "b": {"default": None},
        "c": {"type": "string"},
        "d": True,
    }
    parameters = {"type": "object", "properties": properties}
    ship = ClientTool({"name": "ship", "description": "Ships it.", "parameters": parameters})
    assert ship.check({"c": "x"}) == {"c": "x", "a": 3, "b": None}
    assert ship.check({"a": 4}) == {"a": 4, "b": None}
