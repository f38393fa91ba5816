"""Tools that clients run: taken as declared in the request."""

from __future__ import annotations

from typing import Any

import pytest

from server.providers import ToolSpec
from server.workflows import AnyTool, ClientTool, Tool, tool

SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}


@tool
def server_tool() -> None:
    """Runs on the server."""


def test_default_declaration() -> None:
    found = ClientTool({"name": "open", "description": "Opens."})
    assert (found.client, found.idempotent, found.expires, found.seconds) == (True, True, 3600.0, None)
    assert found.spec() == ToolSpec("open", "Opens.", {"type": "object", "properties": {}})
    assert found.needs_approval({"x": 1})
    assert repr(found) == "<client's tool open>"


@pytest.mark.parametrize(("approval", "asks"), [("always", True), ("never", False), (None, True)])
def test_full_declaration(approval: str | None, asks: bool) -> None:
    found = ClientTool(
        {"name": "open", "description": "Opens.", "parameters": SCHEMA, "approval": approval, "expires": 5.5}
    )
    assert found.needs_approval({}) is asks
    assert found.expires == 5.5
    assert found.spec().parameters == SCHEMA


@pytest.mark.parametrize(
    ("declared", "rule"),
    [
        ({}, (1, False)),
        ({"approvers": None, "another_person": None}, (1, False)),
        ({"approvers": 2, "another_person": True}, (2, True)),
    ],
)
def test_approvers(declared: dict[str, Any], rule: tuple[int, bool]) -> None:
    found = ClientTool({"name": "open", "description": "Opens.", **declared})
    assert (found.approvers, found.another_person) == rule


def test_null_means_not_declared() -> None:
    found = ClientTool({"name": "open", "description": "Opens.", "parameters": None, "expires": None})
    assert found.spec().parameters == {"type": "object", "properties": {}}
    assert found.expires == 3600.0


@pytest.mark.parametrize(
    ("declared", "expires"),
    [({}, 3600.0), ({"expires": None}, 3600.0), ({"expires": 0}, 0), ({"expires": 0.0}, 0.0), ({"expires": 1}, 1)],
)
def test_expiry_of_zero_is_not_the_default(declared: dict[str, Any], expires: float) -> None:
    assert ClientTool({"name": "open", "description": "Opens.", **declared}).expires == expires


@pytest.mark.parametrize("arguments", [{}, {"x": 1}, {"x": "no integer", "y": [None]}])
def test_arguments_are_not_checked(arguments: dict[str, Any]) -> None:
    checked = ClientTool({"name": "open", "description": "Opens.", "parameters": SCHEMA}).check(arguments)
    assert checked == arguments
    assert checked is not arguments


def test_client_and_server_tools_are_told_apart() -> None:
    both: list[AnyTool] = [server_tool, ClientTool({"name": "open", "description": "Opens."})]
    assert [one.client for one in both] == [False, True]
    assert [isinstance(one, Tool) for one in both] == [True, False]
