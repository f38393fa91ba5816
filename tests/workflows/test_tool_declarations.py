"""Functions and options that cannot be a tool: refused where they are declared, by name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, Field

from server.workflows import tool


class Address(BaseModel):
    street: str


def documented(function: Callable[..., Any]) -> Callable[..., Any]:
    function.__doc__ = "Does something."
    return function


def positional(amount: int, /) -> None: ...
def spread(*amounts: int) -> None: ...
def named(**amounts: int) -> None: ...
def untyped(amount) -> None: ...  # type: ignore[no-untyped-def]
def field_default(amount: int = Field(1, ge=0)) -> None: ...
def unknown(amount: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821
def no_json(amount: Callable[[], int]) -> None: ...
def no_type(amount: Asking) -> None: ...
def number(amount: 3) -> None: ...  # type: ignore[valid-type]
def half(amount: "list[") -> None: ...  # type: ignore[valid-type]  # noqa: F722
def yields(amount: int) -> Any:
    yield amount


async def yields_later(amount: int) -> Any:
    yield amount


class Asking:
    async def __call__(self, amount: int) -> bool:
        return True


async def asking(amount: int) -> bool:
    return True


def fine(amount: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (positional, "the tool positional: amount: .*int.* has no name"),
        (spread, r"the tool spread: \*amounts.* has no name"),
        (named, r"the tool named: \*\*amounts.* has no name"),
        (untyped, "the tool untyped: the parameter amount needs a type"),
        (field_default, r"the tool field_default: .*amount: Annotated\[…, Field\(…\)\] = …"),
        (unknown, "the tool unknown: .*Missing.* not under TYPE_CHECKING alone"),
        (no_json, "the tool no_json, parameter amount: .* no type that JSON can be read as"),
        (no_type, "the tool no_type, parameter amount: .* no type that JSON can be read as"),
        (number, "the tool number, parameter amount: 3 is no type"),
        (half, "the tool half: .* cannot be read"),
        (yields, "the tool yields yields, but"),
        (yields_later, "the tool yields_later yields, but"),
        (functools.partial(fine, 1), "@tool belongs on a function, not on functools.partial"),
        (Address, "@tool belongs on a function"),
    ],
)
def test_invalid_functions(function: Any, said: str) -> None:
    if inspect.isfunction(function):
        documented(function)
    with pytest.raises(TypeError, match=f"^{said}"):
        tool(function)


@pytest.mark.parametrize("doc", [None, "", "  \n "])
def test_tool_needs_a_docstring(doc: str | None) -> None:
    def silent() -> None: ...

    silent.__doc__ = doc
    with pytest.raises(TypeError, match="silent needs a docstring"):
        tool(silent)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"name": ""}, "1 to 64 letters"),
        ({"name": "pay back"}, "1 to 64 letters"),
        ({"name": "pay\n"}, "1 to 64 letters"),
        ({"name": "p" * 65}, "1 to 64 letters"),
        ({"name": "é"}, "1 to 64 letters"),
        ({"name": 3}, "1 to 64 letters"),
        ({"approval": "sometimes"}, 'approval is "always", "never" or a function'),
        ({"approval": None}, 'approval is "always", "never" or a function'),
        ({"approval": True}, 'approval is "always", "never" or a function'),
        ({"approval": asking}, "cannot be async"),
        ({"approval": Asking()}, "cannot be async"),
        ({"approval": lambda: True}, r"has to take the tool's arguments \(amount\)"),
        ({"approval": lambda amount, other: True}, r"has to take the tool's arguments \(amount\)"),
        ({"expires": 0}, "expires has to be seconds"),
        ({"expires": float("nan")}, "expires has to be seconds"),
        ({"expires": 1e9}, "expires has to be seconds"),
        ({"expires": True}, "expires has to be seconds"),
        ({"seconds": None}, "seconds has to be seconds"),
        ({"seconds": -1}, "seconds has to be seconds"),
        ({"seconds": float("inf")}, "seconds has to be seconds"),
        ({"seconds": "5"}, "seconds has to be seconds"),
        ({"approvers": 0}, "approvers has to be a number of people from 1 to 5, not 0"),
        ({"approvers": 6}, "approvers has to be a number of people from 1 to 5, not 6"),
        ({"approvers": True}, "approvers has to be a number of people"),
        ({"approvers": 2.0}, "approvers has to be a number of people"),
        ({"approvers": "2"}, "approvers has to be a number of people"),
        ({"another_person": 1}, "another_person has to be True or False"),
        ({"approval": "never", "approvers": 2}, 'no meaning with approval="never"'),
        ({"approval": "never", "another_person": True}, 'no meaning with approval="never"'),
    ],
)
def test_invalid_options(words: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError, match=f"^the tool fine: .*{said}"):
        tool(**words)(documented(fine))
