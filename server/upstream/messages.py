"""The wire format of Anthropic's messages.

Owns the request's body, the meaning of a streamed event, and Anthropic's words for why an answer ended. Pure: must
not know HTTP or time; what an event's bytes are is `decoder`'s. Signatures of reasoning are read over, and so are
events, blocks and deltas of unknown types, as the provider asks its clients to.
Source: https://docs.anthropic.com/en/docs/build-with-claude/streaming
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from .bodies import NOTHING, encoded, refuse
from .decoder import Wire
from .draft import Draft, Malformed
from .errors import BadParameters
from .model import Message, Prompt
from .refusals import stream_error
from .turns import is_result, sent_arguments, turns
from .wording import Quoter

__all__ = ["MESSAGES", "encode_body"]

_OURS = ("model", "messages", "stream", "system")
_SYSTEM = ("system", "developer")

REASONS: Mapping[str, str] = {  # any other word stays as it is
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "refusal": "refusal",
}


def encode_body(prompt: Prompt, max_tokens: int) -> bytes:
    """The request's JSON. Raises `BadParameters` (the client's fault) for what would break the stream."""
    refuse(prompt, _OURS)
    body: dict[str, Any] = {"model": prompt.model, "max_tokens": max_tokens, "stream": True}
    # A text of nothing but blanks would be refused (400), and with it every later prompt of its conversation.
    said = [message for message in prompt.messages if message.content.strip() or _is_of_tools(message)]
    system = [message.content for message in said if message.role in _SYSTEM]
    if system:
        body["system"] = "\n\n".join(system)
    # Turns that alternate, as stricter servers of this format want it; Anthropic joins them the same way.
    body["messages"] = [_turn(turn) for turn in turns(each for each in said if each.role not in _SYSTEM)]
    if not body["messages"]:
        raise BadParameters("input", NOTHING)
    if prompt.tools:
        body["tools"] = [
            {"name": tool.name, "description": tool.description, "input_schema": dict(tool.parameters)}
            for tool in prompt.tools
        ]
    return encoded(body, prompt)


def _is_of_tools(message: Message) -> bool:
    return bool(message.calls) or is_result(message)


def _turn(turn: list[Message]) -> dict[str, Any]:
    role = "assistant" if turn[0].role == "assistant" else "user"
    if len(turn) == 1 and not _is_of_tools(turn[0]):
        return {"role": role, "content": turn[0].content}
    return {"role": role, "content": [block for message in turn for block in _blocks(message)]}


def _blocks(message: Message) -> Iterator[dict[str, Any]]:
    text = message.content if message.content.strip() else None
    if is_result(message):
        result = {"type": "tool_result", "tool_use_id": message.call}
        yield result if text is None else {**result, "content": text}
        return
    if text is not None:
        yield {"type": "text", "text": text}
    for call in message.calls:
        given = msgspec.Raw(sent_arguments(call).encode())  # digit by digit what the model wrote
        yield {"type": "tool_use", "id": call.id, "name": call.name, "input": given}


class _Event(msgspec.Struct):
    """Every event; an unknown one may hold anything, so the rest is looked at only where the type is known."""

    type: str = ""
    index: Any = None
    message: Any = None
    content_block: Any = None
    delta: Any = None
    usage: Any = None
    error: Any = None


class _Delta(msgspec.Struct, gc=False):
    type: str
    text: str = ""
    thinking: str = ""
    partial_json: str = ""


class _Block(msgspec.Struct, gc=False):
    type: str
    text: str = ""
    thinking: str = ""
    id: str = ""
    name: str = ""
    input: Any = None


class _End(msgspec.Struct, gc=False):
    stop_reason: str | None = None


class _Start(msgspec.Struct, gc=False):
    usage: Any = None


def _read(event: _Event, draft: Draft, quote: Quoter) -> None:
    if event.type == "content_block_delta":  # nearly all are, so asked first
        _read_delta(_index(event), msgspec.convert(event.delta, _Delta), draft)
    elif event.type == "error" or (event.error is not None and not event.type):
        raise stream_error(event.error, quote)
    elif event.type == "message_start":
        draft.spend(_usage(msgspec.convert(event.message, _Start).usage))
    elif event.type == "content_block_start":
        _read_block(_index(event), msgspec.convert(event.content_block, _Block), draft)
    elif event.type == "message_delta":
        draft.spend(_usage(event.usage))
        reason = msgspec.convert(event.delta, _End).stop_reason
        if reason:
            draft.end(REASONS.get(reason, reason))
    elif event.type == "message_stop":
        draft.over = True
    elif not event.type:
        raise Malformed("no type")


def _read_delta(index: int, delta: _Delta, draft: Draft) -> None:
    if delta.type == "text_delta":
        draft.text(delta.text)
    elif delta.type == "thinking_delta":
        draft.think(delta.thinking)
    elif delta.type == "input_json_delta":
        draft.arguments(index, delta.partial_json)


def _read_block(index: int, block: _Block, draft: Draft) -> None:
    if block.type == "text" and block.text:  # empty as a rule: no chunk of text yet
        draft.text(block.text)
    elif block.type == "thinking":
        draft.think(block.thinking)
    elif block.type == "tool_use":  # not server_tool_use, which the provider runs itself
        # Compact, as the pieces of the arguments are; a tool without arguments sends no piece.
        default = json.dumps(block.input or {}, separators=(",", ":"))
        draft.call(index, block.id, block.name, "", default)


def _index(event: _Event) -> int:
    if type(event.index) is not int:
        raise Malformed("a block without index")
    return event.index


def _usage(usage: Any) -> dict[str, Any]:
    """Counts so far; the last told stands. Anthropic counts the input that its cache took or gave apart."""
    if not isinstance(usage, dict):
        return {}
    counts = {
        "output_tokens": usage.get("output_tokens"),
        "cached_input_tokens": usage.get("cache_read_input_tokens"),
    }
    parts = [usage.get(f"{name}input_tokens") for name in ("", "cache_read_", "cache_creation_")]
    if parts[0] is not None:
        counts["input_tokens"] = sum(part for part in parts if type(part) is int)
    details = usage.get("output_tokens_details")
    if isinstance(details, dict):
        counts["reasoning_tokens"] = details.get("thinking_tokens")
    return counts


MESSAGES = Wire(msgspec.json.Decoder(_Event), _read)
