"""Validates request bodies with tool calls and files by the rules of strict providers, for both wire formats.

The result is None, or what is wrong. Pure. The fake's behaviour `agent` uses it, and so does every behaviour for a
body with files: what a real provider would refuse fails in tests as well.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from itertools import pairwise
from typing import Any

SIGNATURES = {
    "image/png": b"\x89PNG",
    "image/jpeg": b"\xff\xd8\xff",
    "image/gif": b"GIF8",
    "image/webp": b"RIFF",
    "application/pdf": b"%PDF-",
}
IMAGES = frozenset(SIGNATURES) - {"application/pdf"}
FILES = frozenset({"image_url", "file", "image", "document"})
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
Body = dict[str, Any]


def reason_to_refuse(body: Body) -> str | None:
    """Why a strict provider would refuse the body, None if it would not. The shape tells the format."""
    try:
        (_check_anthropic if "max_tokens" in body else _check_openai)(body)
    except AssertionError as error:
        return str(error) or "no"
    return None


def has_files(body: Body) -> bool:
    """Whether a message of the body has a part that is an image or another file."""
    contents = [message.get("content") for message in body.get("messages", ()) if isinstance(message, dict)]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return any(isinstance(part, dict) and part.get("type") in FILES for part in parts)


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
            _check_openai_content(message["role"], message["content"])
    assert not open_calls, "a call without a result at the end"


def _check_openai_content(role: str, content: Any) -> None:
    if isinstance(content, str):
        return
    assert role == "user", "content: a list of another role"
    assert content, "content: an empty list"
    for part in content:
        if part["type"] == "text":
            assert part.keys() == {"type", "text"}, "content: text: shape"
            assert part["text"].strip(), "content: a blank text"
        elif part["type"] == "image_url":
            assert part.keys() == {"type", "image_url"}, "content: image_url: shape"
            assert part["image_url"].keys() == {"url"}, "content: image_url: fields"
            assert _data_url(part["image_url"]["url"]) in IMAGES, "content: image_url: type"
        else:
            assert part["type"] == "file", "content: an unknown part"
            assert part.keys() == {"type", "file"}, "content: file: shape"
            assert part["file"].keys() == {"filename", "file_data"}, "content: file: fields"
            assert part["file"]["filename"].lower().endswith(".pdf"), "content: file: name"
            assert _data_url(part["file"]["file_data"]) == "application/pdf", "content: file: type"


def _data_url(url: str) -> str:
    """The media type of a data URL whose bytes are of that type."""
    head, comma, data = url.partition(",")
    assert comma, "data URL: no data"
    assert head.startswith("data:"), "data URL: scheme"
    assert head.endswith(";base64"), "data URL: not in base64"
    media_type = head.removeprefix("data:").removesuffix(";base64")
    _check_bytes(media_type, data)
    return media_type


def _check_bytes(media_type: str, data: str) -> None:
    try:
        decoded = base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise AssertionError("base64") from error
    assert decoded.startswith(SIGNATURES[media_type]), "bytes of another type"


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
    elif block["type"] in ("image", "document"):
        _check_file(role, block)
    elif block["type"] == "tool_use":
        assert role == "assistant", "tool_use: role"
        assert block.keys() == {"type", "id", "name", "input"}, "tool_use: shape"
        _check_arguments(block["input"])
    else:
        assert role == "user", "tool_result: role"
        assert block["type"] == "tool_result", "an unknown block"
        assert "content" not in block or block["content"].strip(), "a blank result"


def _check_file(role: str, block: dict[str, Any]) -> None:
    source = block["source"]
    assert role == "user", f"{block['type']}: role"
    assert source.keys() == {"type", "media_type", "data"}, f"{block['type']}: source"
    if block["type"] == "image":
        assert block.keys() == {"type", "source"}, "image: shape"
        assert source["type"] == "base64", "image: source: type"
        assert source["media_type"] in IMAGES, "image: media_type"
        _check_bytes(source["media_type"], source["data"])
        return
    assert block.keys() <= {"type", "source", "title"}, "document: shape"
    if source["type"] == "text":
        assert source["media_type"] == "text/plain", "document: a text of another type"
        assert source["data"].strip(), "document: a blank text"
    else:
        assert source["type"] == "base64", "document: source: type"
        assert source["media_type"] == "application/pdf", "document: media_type"
        _check_bytes(source["media_type"], source["data"])


def _check_names(names: list[str]) -> None:
    assert all(NAME.fullmatch(name) for name in names), "tools: name"
    assert len(set(names)) == len(names), "tools: a name twice"


def _check_arguments(arguments: Any) -> None:
    assert isinstance(arguments, dict), "arguments: no object"
