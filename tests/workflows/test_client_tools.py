"""Tools that clients run: taken as declared, arguments and all."""

from __future__ import annotations

from typing import Any

import pytest

from server.providers import ToolSpec
from server.workflows import AnyTool, ClientTool, Tool, tool

SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}


@tool
def here() -> None:
    """Runs on the server."""


def test_what_is_declared_by_default() -> None:
    found = ClientTool({"name": "open", "description": "Opens."})
    assert (found.client, found.idempotent, found.expires, found.seconds) == (True, True, 3600.0, None)
    assert found.spec() == ToolSpec("open", "Opens.", {"type": "object", "properties": {}})
    assert found.needs_approval({"x": 1})
    assert repr(found) == "<client's tool open>"


@pytest.mark.parametrize(("approval", "asks"), [("always", True), ("never", False), (None, True)])
def test_what_is_declared_otherwise(approval: str | None, asks: bool) -> None:
    found = ClientTool(
        {"name": "open", "description": "Opens.", "parameters": SCHEMA, "approval": approval, "expires": 5.5}
    )
    assert found.needs_approval({}) is asks
    assert found.expires == 5.5
    assert found.spec().parameters == SCHEMA


def test_what_is_left_null_is_not_declared() -> None:
    found = ClientTool({"name": "open", "description": "Opens.", "parameters": None, "expires": None})
    assert found.spec().parameters == {"type": "object", "properties": {}}
    assert found.expires == 3600.0


@pytest.mark.parametrize(
    ("declared", "expires"),
    [({}, 3600.0), ({"expires": None}, 3600.0), ({"expires": 0}, 0), ({"expires": 0.0}, 0.0), ({"expires": 1}, 1)],
)
def test_a_time_of_zero_is_not_the_default(declared: dict[str, Any], expires: float) -> None:
    assert ClientTool({"name": "open", "description": "Opens.", **declared}).expires == expires


@pytest.mark.parametrize("arguments", [{}, {"x": 1}, {"x": "no integer", "y": [None]}])
def test_arguments_are_the_clients_own_affair(arguments: dict[str, Any]) -> None:
    checked = ClientTool({"name": "open", "description": "Opens.", "parameters": SCHEMA}).check(arguments)
    assert checked == arguments
    assert checked is not arguments


def test_the_two_kinds_are_told_apart() -> None:
    both: list[AnyTool] = [here, ClientTool({"name": "open", "description": "Opens."})]
    assert [one.client for one in both] == [False, True]
    assert [isinstance(one, Tool) for one in both] == [True, False]
