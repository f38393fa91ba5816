"""Anthropic's messages as they are streamed.

Owns the meaning of a streamed event, and what is taken down of it for the next request. Events, blocks and deltas
of unknown types are counted or read over, as the provider asks its clients to, and so is a field of a shape that
nobody expected. What is sent is `messages_request`'s. Pure: must not know HTTP or time; what an event's bytes are
is `decoder`'s. Source: https://docs.anthropic.com/en/docs/build-with-claude/streaming
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from .carry import ANTHROPIC, BlockKeeper
from .decoder import Wire
from .draft import Draft, Unknown
from .refusals import error_in, stream_error
from .toolcalls import index_in
from .wording import Quoter

__all__ = ["MESSAGES"]

_COUNTS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
_PIECES = {  # by the type of a delta: the field that holds its text
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
    "input_json_delta": "partial_json",
}


class _Event(msgspec.Struct):
    """Every event; an unknown one may hold anything, so the rest is looked at only where the type is known."""

    type: Any = ""
    index: Any = None
    message: Any = None
    content_block: Any = None
    delta: Any = None
    usage: Any = None
    error: Any = None
    content: Any = None  # this and the next: of a whole message, from a server that knows no streams
    stop_reason: Any = None


def _read(event: _Event, draft: Draft, quote: Quoter) -> None:
    kind = event.type
    if kind == "content_block_delta":  # nearly all are, so asked first
        _read_delta(event, draft)
    elif kind == "error" or event.error:
        raise stream_error(error_in({"type": "error", "error": event.error}), quote)
    elif kind == "message_start":
        _read_usage(_dict(event.message).get("usage"), draft)
    elif kind == "content_block_start":
        _read_block(event.index, _dict(event.content_block), draft)
    elif kind == "content_block_stop":
        draft.close_call(index_in(event.index))
        if isinstance(draft.keeper, BlockKeeper):
            draft.keeper.close(index_in(event.index))
    elif kind == "message_delta":
        _read_usage(event.usage, draft)
        _read_end(_dict(event.delta).get("stop_reason"), draft)
    elif kind == "message_stop":
        draft.over = True
    elif kind == "message":
        _read_message(event, draft)
    elif kind != "ping":
        raise Unknown("a type that nobody knows")


def _read_delta(event: _Event, draft: Draft) -> None:
    delta = _dict(event.delta)
    kind = delta.get("type")
    name = _PIECES.get(kind) if isinstance(kind, str) else None
    text = delta.get(name, "") if name is not None else None
    if name is None or not isinstance(text, str):
        if name is not None or not isinstance(kind, str):
            raise Unknown("a delta of no known shape", lost=True)
        return  # citations and the like, of types to come
    index = index_in(event.index)
    if name == "text":
        draft.text(text)
    elif name == "thinking":
        draft.think(text)
    elif name == "partial_json":
        draft.arguments(index, text)
    else:
        draft.spoke = True  # a signature: of thoughts that may not be shown, but are paid for
    if isinstance(draft.keeper, BlockKeeper):
        draft.keeper.grow(index, name, text)


def _read_block(index: Any, block: dict[str, Any], draft: Draft) -> None:
    place, kind = index_in(index), block.get("type")
    if not isinstance(kind, str):
        raise Unknown("a block without a type")
    if isinstance(draft.keeper, BlockKeeper):
        draft.keeper.begin(place, block)
    text = _text(block.get("text" if kind == "text" else "thinking"))
    if kind == "text" and text:  # empty as a rule: no chunk of text yet
        draft.text(text)
        if isinstance(draft.keeper, BlockKeeper):
            draft.keeper.grow(place, "text", text)
    elif kind == "thinking":
        draft.think(text)
    elif kind == "tool_use":  # not server_tool_use, which the provider runs itself
        # Compact, as the pieces of the arguments are; a tool without arguments sends no piece.
        given = block.get("input")
        default = json.dumps(_dict(given), separators=(",", ":"))
        draft.call(place, _text(block.get("id")), _text(block.get("name")), "", default)
        if given and not isinstance(given, dict):
            draft.lose(place)
    elif kind != "text":
        draft.spoke = True  # thoughts that nobody may read, or a tool that the provider runs


def _read_message(event: _Event, draft: Draft) -> None:
    """A whole message in the place of a stream."""
    for index, block in enumerate(event.content if isinstance(event.content, list) else ()):
        if isinstance(block, dict):
            _read_block(index, block, draft)
            draft.close_call(index)
            if isinstance(draft.keeper, BlockKeeper):
                draft.keeper.close(index)
    _read_usage(event.usage, draft)
    _read_end(event.stop_reason, draft)


def _read_end(reason: Any, draft: Draft) -> None:
    if isinstance(reason, str) and reason:
        draft.end(reason)


def _read_usage(usage: Any, draft: Draft) -> None:
    """Counts so far, of which the last told stands. Input that the cache took or gave is counted apart."""
    counts = _dict(usage)
    told = draft.counts
    told |= {name: counts[name] for name in _COUNTS if type(counts.get(name)) is int and counts[name] >= 0}
    draft.spend(
        {
            "output_tokens": told.get("output_tokens"),
            "cached_input_tokens": told.get("cache_read_input_tokens"),
            "reasoning_tokens": _dict(counts.get("output_tokens_details")).get("thinking_tokens"),
        }
    )
    if "input_tokens" in told:
        draft.spend({"input_tokens": sum(told.get(name, 0) for name in _COUNTS if name != "output_tokens")})


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _mended(value: Any) -> Any:
    raise Unknown("no object")


MESSAGES = Wire(ANTHROPIC, msgspec.json.Decoder(_Event), _read, BlockKeeper, closes_calls=True, mended=_mended)
