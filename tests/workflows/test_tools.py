"""Tools: the schema that a model is given, which arguments fit it, and how a call is bound."""

from __future__ import annotations

import enum
import inspect
from datetime import date
from typing import Annotated, Any, Generic, Literal, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, BeforeValidator, Field, TypeAdapter

from server.providers import ToolSpec
from server.workflows import BadArguments, InjectedRun, Tool, tool


class FakeRun(InjectedRun):
    """Stands for the Run that apps know."""


T = TypeVar("T")


class Typed(InjectedRun, Generic[T]):
    """One that says what its input is."""


class Kind(enum.StrEnum):
    CARD = "card"
    CASH = "cash"


class Address(BaseModel):
    street: str
    zip: Annotated[str, Field(alias="postcode")] = ""


@tool
async def refund(
    run: FakeRun,
    amount: Annotated[int, Field(ge=1, le=500, description="in cents")],
    day: date,
    *,
    to: Address | None = None,
    kind: Kind = Kind.CARD,
    schema: float = 1.5,
) -> dict[str, Any]:
    """Pays money back.

    To one address.
    """
    return {"run": run, "amount": amount, "day": day, "to": to, "kind": kind, "schema": schema}


@tool
def ping() -> str:
    """Says pong."""
    return "pong"


@tool
def take(count: int, name: str = "x", flag: str | None = None) -> Any:
    """Takes."""
    return count, name, flag


GIVEN: dict[str, Any] = {"amount": 3, "day": "2026-01-02"}


def test_spec() -> None:
    parameters = {
        "$defs": {
            "Address": {
                "type": "object",
                "title": "Address",
                "properties": {"street": {"type": "string"}, "postcode": {"type": "string", "default": ""}},
                "required": ["street"],
            },
            "Kind": {"type": "string", "title": "Kind", "enum": ["card", "cash"]},
        },
        "type": "object",
        "properties": {
            "amount": {"type": "integer", "minimum": 1, "maximum": 500, "description": "in cents"},
            "day": {"type": "string", "format": "date"},
            "to": {"anyOf": [{"$ref": "#/$defs/Address"}, {"type": "null"}], "default": None},
            "kind": {"$ref": "#/$defs/Kind", "default": "card"},
            "schema": {"type": "number", "default": 1.5},
        },
        "required": ["amount", "day"],
        "additionalProperties": False,
    }
    assert refund.spec() == ToolSpec("refund", "Pays money back.\n\nTo one address.", parameters)
    assert ping.spec() == ToolSpec(
        "ping", "Says pong.", {"type": "object", "properties": {}, "additionalProperties": False}
    )


def test_default_declaration() -> None:
    assert (ping.client, ping.idempotent, ping.expires, ping.seconds) == (False, False, 3600.0, 300.0)
    assert ping.needs_approval({})
    assert (refund.is_async, ping.is_async) == (True, False)
    assert repr(ping) == "<tool ping>"


def test_full_declaration() -> None:
    @tool(name="pay-back_2", approval="never", idempotent=True, expires=None, seconds=7)
    def other(amount: int) -> None:
        """Pays."""

    assert isinstance(other, Tool)
    assert (other.name, other.idempotent, other.expires, other.seconds) == ("pay-back_2", True, None, 7)
    assert not other.needs_approval({"amount": 1})
    assert other.function.__name__ == "other"


@pytest.mark.parametrize(
    "arguments",
    [
        GIVEN,
        {**GIVEN, "to": None},
        {**GIVEN, "to": {"street": "Elm", "postcode": "1"}, "kind": "cash", "schema": 2},
    ],
)
def test_valid_arguments_are_returned_with_defaults(arguments: dict[str, Any]) -> None:
    checked = refund.check(arguments)
    assert checked == {"to": None, "kind": "card", "schema": 1.5, **arguments}
    assert checked is not arguments
    assert refund.check(checked) == checked


@pytest.mark.parametrize(
    ("change", "field", "said"),
    [
        ({"amount": "3"}, "amount", "valid integer"),
        ({"amount": 3.0}, "amount", "valid integer"),
        ({"amount": True}, "amount", "valid integer"),
        ({"amount": 501}, "amount", "less than or equal to 500"),
        ({"day": 20260102}, "day", "valid date"),
        ({"day": "yesterday"}, "day", "valid date"),
        ({"kind": "gold"}, "kind", "'card' or 'cash'"),
        ({"to": {"street": 1}}, "to.street", "valid string"),
        ({"to": "Elm"}, "to", "an object"),
        ({"run": {}}, "run", "Extra inputs are not permitted"),
        ({"amout": 3}, "amout", "Extra inputs are not permitted"),
    ],
)
def test_invalid_argument_is_named(change: dict[str, Any], field: str, said: str) -> None:
    for use in (refund.check, lambda arguments: refund.bind(arguments, FakeRun())):
        with pytest.raises(BadArguments, match=f"^{field}: .*{said}") as caught:
            use({**GIVEN, **change})
        assert [one["field"] for one in caught.value.errors] == [field]
        assert said in caught.value.errors[0]["message"]


def test_missing_arguments_are_named() -> None:
    with pytest.raises(BadArguments, match=r"^amount: Field required; day: Field required\.$"):
        refund.check({})


def test_many_errors_are_shortened() -> None:
    with pytest.raises(BadArguments) as caught:
        ping.check({f"x{n}": n for n in range(50)})
    assert len(caught.value.errors) == 20
    assert str(caught.value).count(";") == 4


def test_too_deep_or_too_long_arguments() -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]

    @tool
    def keep(value: Any) -> None:
        """Keeps."""

    with pytest.raises(BadArguments, match=r"^it is nested too deep\.$"):
        keep.check({"value": deep})
    with pytest.raises(BadArguments, match=r"^it cannot be written as JSON\.$"):
        keep.check({"value": 10**5000})


async def test_bound_call_gets_python_values_defaults_and_the_run() -> None:
    run = FakeRun()
    bound = refund.bind({**GIVEN, "to": {"street": "Elm"}}, run)
    assert inspect.iscoroutinefunction(bound)
    assert await bound() == {
        "run": run,
        "amount": 3,
        "day": date(2026, 1, 2),
        "to": Address(street="Elm"),
        "kind": Kind.CARD,
        "schema": 1.5,
    }


def test_sync_function_is_bound_too() -> None:
    bound = ping.bind({}, FakeRun())
    assert not inspect.iscoroutinefunction(bound)
    assert bound() == "pong"


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(["count", "name", "flag"]), st.none() | st.integers() | st.text(max_size=2))
)
def test_bind_accepts_exactly_what_check_accepts(arguments: dict[str, Any]) -> None:
    fits = (
        type(arguments.get("count")) is int
        and isinstance(arguments.get("name", ""), str)
        and not isinstance(arguments.get("flag"), int)
    )
    if not fits:
        with pytest.raises(BadArguments):
            take.check(arguments)
        with pytest.raises(BadArguments):
            take.bind(arguments, FakeRun())
        return
    given_ = {"name": "x", "flag": None, **arguments}
    assert take.check(arguments) == given_
    assert take.bind(arguments, FakeRun())() == (given_["count"], given_["name"], given_["flag"])


def test_types_may_convert_values() -> None:
    @tool
    def take(count: Annotated[int, BeforeValidator(int)]) -> Any:
        """Takes."""
        return count

    assert take.check({"count": "3"}) == {"count": "3"}
    assert take.bind({"count": "3"}, FakeRun())() == 3


# Names that a model class would not let an argument have, and the run in other clothes.
def test_unusual_parameter_names() -> None:
    @tool
    def odd(copy: str, model_config: int, _hidden: bool, self: Literal["a"], handle: Typed[int]) -> Any:
        """Takes odd names."""
        return copy, model_config, _hidden, self, handle

    run = FakeRun()
    arguments = {"copy": "c", "model_config": 1, "_hidden": True, "self": "a"}
    assert odd.bind(arguments, run)() == ("c", 1, True, "a", run)
    assert list(odd.schema["properties"]) == ["copy", "model_config", "_hidden", "self"]


def test_default_without_a_json_form_stays_with_the_function() -> None:
    nothing: Any = object()

    @tool
    def take(count: int = nothing) -> Any:
        """Takes."""
        return count

    assert "default" not in take.schema["properties"]["count"]
    assert take.bind({}, FakeRun())() is nothing


def test_type_may_be_a_type_adapter() -> None:
    """As with workflows, an adapter is used as it is."""
    from server.workflows.tool_arguments import adapter_of

    adapter = TypeAdapter(int)
    assert adapter_of(adapter, "here") is adapter
