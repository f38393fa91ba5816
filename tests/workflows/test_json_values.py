"""Values of apps converted to plain JSON: texts are repaired, and values that would be lost are refused."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, computed_field

from server.workflows import NotJson, to_jsonable
from server.workflows.json_values import MAX_DEPTH

HALVES = st.text(st.sampled_from("ab\x00\ud83d\ude00é😀"), max_size=5)
FIT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=5)
JSON = st.recursive(
    FIT
    | st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIT, inner, max_size=3),
    max_leaves=10,
)
Point = namedtuple("Point", "x y")


class Colour(enum.StrEnum):
    RED = "red"


class Page(BaseModel):
    title: str
    day: date = date(2026, 1, 2)


class Broken(BaseModel):
    @computed_field  # type: ignore[prop-decorator]
    @property
    def total(self) -> int:
        raise KeyError("total")


@dataclasses.dataclass
class Box:
    width: float


class Text(str):
    __slots__ = ()


class Count(int):
    pass


class Table(dict[Any, Any]):
    pass


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, None),
        (True, True),
        (3, 3),
        (0.5, 0.5),
        ("x", "x"),
        (Page(title="a"), {"title": "a", "day": "2026-01-02"}),
        ([Page(title="a\x00")], [{"title": "a\ufffd", "day": "2026-01-02"}]),
        (Box(1.5), {"width": 1.5}),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00Z"),
        (Decimal("1.10"), "1.10"),
        (Colour.RED, "red"),
        (Text("a\x00"), "a\ufffd"),
        (Count(3), 3),
        (Table({Text("a"): Count(1)}), {"a": 1}),
        ((1, {2}), [1, [2]]),
        (Point(1, "\ud83d"), [1, "\ufffd"]),
        ({1: "a", Colour.RED: "b"}, {"1": "a", "red": "b"}),
        (OrderedDict(a=1), {"a": 1}),
        ("\ud83d\ude00\ud83d", "😀\ufffd"),
        ({"\ud83d": ["\x00", {"\x00": "\ude00"}]}, {"\ufffd": ["\ufffd", {"\ufffd": "\ufffd"}]}),
        ((n for n in range(2)), [0, 1]),
        (2**63 - 1, 2**63 - 1),
        (-(2**63), -(2**63)),
    ],
)
def test_json_of_each_type(value: Any, plain: Any) -> None:
    made = to_jsonable(value)
    assert made == plain
    assert type(made) is type(plain)
    assert json.loads(json.dumps(made)) == plain


def circle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


async def unawaited() -> None: ...


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (object(), "a value of the type object cannot be written as JSON"),
        (unawaited, "a value of the type function cannot be written as JSON"),
        (math.nan, "nan is no JSON number"),
        ({"rows": [1, {"mean": math.inf}]}, "rows.1.mean: inf is no JSON number"),
        ([2**63], "0: integers have to fit in 64 bits"),
        (-(2**63) - 1, "integers have to fit in 64 bits"),
        ({"raw": b"\xff"}, "raw: bytes or names that are no Unicode text"),
        ({"\ud83d": 1, 2: 3}, "bytes or names that are no Unicode text"),
        ({"\x00": 1, "\ud83d": 2}, "two names are both '.ufffd'"),
        ({"box": Broken()}, "box: a value of the type Broken cannot be written as JSON.$"),
        (circle(), r"0\.0\.0\.0\.0…: nested deeper than 64 levels"),
        ({"of": {1: circle()}}, "of: a value of the type dict cannot be written as JSON"),
    ],
)
def test_value_that_json_cannot_hold_is_named_by_its_path(value: Any, said: str) -> None:
    with pytest.raises(NotJson, match=f"^{said}"):
        to_jsonable(value)


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"a": inner}], ids=["lists", "objects"])
def test_nesting_limit(wrap: Callable[[Any], Any]) -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH):
        value = wrap(value)
    assert to_jsonable(value) == value
    with pytest.raises(NotJson, match="nested deeper than 64 levels"):
        to_jsonable(wrap(value))


@settings(deadline=None)
@given(JSON)
def test_plain_json_is_unchanged(value: Any) -> None:
    assert json.dumps(to_jsonable(value)) == json.dumps(value)


@settings(deadline=None)
@given(
    st.recursive(HALVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(HALVES, inner, max_size=1))
)
def test_result_is_storable_and_stable(value: Any) -> None:
    made = to_jsonable(value)
    text = json.dumps(made, ensure_ascii=False)
    text.encode()  # no surrogate is left
    assert "\\u0000" not in text
    assert to_jsonable(made) == made
