"""What strict providers refuse in a request in which tools are called.

Owns the rules of both wire formats, as a judge of bodies: None, or what is wrong. Pure. The fake's `agent` asks
it, so a body that a real provider would refuse fails here, too.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
Body = dict[str, Any]


def refusal(body: Body) -> str | None:
    """What a provider would say to the body; its format is told by its shape."""
    try:
        (_messages if "max_tokens" in body else _chat)(body)
    except AssertionError as error:
        return str(error) or "no"
    return None


def _chat(body: Body) -> None:
    assert "tools" not in body or body["tools"], "tools: empty"
    for tool in body.get("tools", ()):
        assert tool.keys() == {"type", "function"}, "tools: shape"
        assert tool["type"] == "function", "tools: type"
        assert tool["function"].keys() == {"name", "description", "parameters"}, "tools: function"
    _names([tool["function"]["name"] for tool in body.get("tools", ())])
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
                _arguments(json.loads(call["function"]["arguments"]))
        else:
            assert isinstance(message["content"], str), "content: no text"
    assert not open_calls, "a call without a result at the end"


def _messages(body: Body) -> None:
    assert "tools" not in body or body["tools"], "tools: empty"
    for tool in body.get("tools", ()):
        assert tool.keys() == {"name", "description", "input_schema"}, "tools: shape"
        assert tool["input_schema"].get("type") == "object", "tools: input_schema"
    _names([tool["name"] for tool in body.get("tools", ())])
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
            _block(turn["role"], block)


def _blocks(content: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _block(role: str, block: dict[str, Any]) -> None:
    if block["type"] == "text":
        assert block["text"].strip(), "a blank text"
    elif block["type"] == "tool_use":
        assert role == "assistant", "tool_use: role"
        assert block.keys() == {"type", "id", "name", "input"}, "tool_use: shape"
        _arguments(block["input"])
    else:
        assert role == "user", "tool_result: role"
        assert block["type"] == "tool_result", "an unknown block"
        assert "content" not in block or block["content"].strip(), "a blank result"


def _names(names: list[str]) -> None:
    assert all(NAME.fullmatch(name) for name in names), "tools: name"
    assert len(set(names)) == len(names), "tools: a name twice"


def _arguments(arguments: Any) -> None:
    assert isinstance(arguments, dict), "arguments: no object"
