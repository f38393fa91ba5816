"""Validates request bodies with tool calls by the rules of strict providers, for both wire formats.

The result is None, or what is wrong. Pure. The fake's behaviour `agent` uses it, so a body that a real provider
would refuse fails in tests as well.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
Body = dict[str, Any]


def reason_to_refuse(body: Body) -> str | None:
    """Why a strict provider would refuse the body, None if it would not. The shape tells the format."""
    try:
        (_check_anthropic if "max_tokens" in body else _check_openai)(body)
    except AssertionError as error:
        return str(error) or "no"
    return None


def _check_openai(body: Body) -> None:
    assert "tools" not in body or body["tools"], "tools: empty"
    for tool in body.get("tools", ()):
        assert tool.keys() == {"type", "function"}, "tools: shape"
        assert tool["type"] == "function", "tools: type"
        assert tool["function"].keys() == {"name", "description", "parameters"}, "tools: function"
    _check_names([tool["function"]["name"] for tool in body.get("tools", ())])
    open_calls: list[str] = []
    for message in body["messages"]:
        if message["role"] == "tool":
            assert message.get("tool_call_id") in open_calls, "a result of no call of the turn before"
            open_calls.remove(message["tool_call_id"])
        else:
            assert not open_calls, "a call without a result"
            assert "tool_call_id" not in message, "a result of another role"
        if "tool_calls" in message:
            assert message["role"] == "assistant", "tool_calls: role"
            assert message["tool_calls"], "tool_calls: empty"
            assert message["content"] is None or message["content"], "content: empty beside tool_calls"
            open_calls = [call["id"] for call in message["tool_calls"]]
            for call in message["tool_calls"]:
                assert call.keys() == {"id", "type", "function"}, "tool_calls: shape"
                _check_arguments(json.loads(call["function"]["arguments"]))
        else:
            assert isinstance(message["content"], str), "content: no text"
    assert not open_calls, "a call without a result at the end"


def _check_anthropic(body: Body) -> None:
    assert "tools" not in body or body["tools"], "tools: empty"
    for tool in body.get("tools", ()):
        assert tool.keys() == {"name", "description", "input_schema"}, "tools: shape"
        assert tool["input_schema"].get("type") == "object", "tools: input_schema"
    _check_names([tool["name"] for tool in body.get("tools", ())])
    turns = [{**turn, "content": _blocks(turn["content"])} for turn in body["messages"]]
    assert turns, "no messages"
    nothing = [{"role": "", "content": []}]
    for before, turn in pairwise([*nothing, *turns, *nothing]):
        assert before["role"] != turn["role"], "roles do not alternate"
        assert not turn["role"] or turn["content"], "an empty turn"
        called = [block["id"] for block in before["content"] if block["type"] == "tool_use"]
        kinds = [block["type"] for block in turn["content"]]
        count = kinds.count("tool_result")
        assert kinds[:count] == ["tool_result"] * count, "results do not stand first"
        answered = [block["tool_use_id"] for block in turn["content"][:count]]
        assert sorted(answered) == sorted(called), "calls and results do not match"
        for block in turn["content"]:
            _check_block(turn["role"], block)


def _blocks(content: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _check_block(role: str, block: dict[str, Any]) -> None:
    if block["type"] == "text":
        assert block["text"].strip(), "a blank text"
    elif block["type"] == "tool_use":
        assert role == "assistant", "tool_use: role"
        assert block.keys() == {"type", "id", "name", "input"}, "tool_use: shape"
        _check_arguments(block["input"])
    else:
        assert role == "user", "tool_result: role"
        assert block["type"] == "tool_result", "an unknown block"
        assert "content" not in block or block["content"].strip(), "a blank result"


def _check_names(names: list[str]) -> None:
    assert all(NAME.fullmatch(name) for name in names), "tools: name"
    assert len(set(names)) == len(names), "tools: a name twice"


def _check_arguments(arguments: Any) -> None:
    assert isinstance(arguments, dict), "arguments: no object"
