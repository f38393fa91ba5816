"""What a provider wants back with the next request: collected while an answer streams, sent back unchanged.

Reasoning models refuse the request after a tool call unless their own reasoning of the message before comes back
unchanged, signatures included. Owns the form in which it is stored (`Finish.carry` and `ToolCall.carry`: JSON
under the name of the wire format), for each wire format. Nothing is collected unless the prompt has tools, because
without a tool call there is no such request. Pure: must not know HTTP, nor which server it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from server.providers.interface import Message, ToolCall
from server.unicode_safety import repair_text

__all__ = ["CarriedBlocks", "CarriedFields", "CarriedReasoning", "read_carried", "repair_json_text"]

OPENAI = "openai"
ANTHROPIC = "anthropic"
MERGED = ("text", "summary", "data", "content")  # the fields of OpenRouter's details that come in pieces
MAX_DEPTH = 32
BLOCK_OVERHEAD = 16  # characters added to the size of each block, so that empty blocks count too
Reserve = Callable[[int], None]
"""Counts characters that are kept; raises if they are too many."""


def read_carried(carry: Any, name: str) -> dict[str, Any]:
    """The fields stored under the name of a wire format, empty if there are none. `carry` is read from the log."""
    kept = carry.get(name) if isinstance(carry, dict) else None
    return kept if isinstance(kept, dict) else {}


def repair_json_text(value: Any, depth: int = MAX_DEPTH) -> Any:
    """JSON whose texts are repaired for the log; null replaces what is nested deeper than `depth`."""
    if isinstance(value, str):
        return repair_text(value)
    if isinstance(value, list | dict) and not depth:
        return None
    if isinstance(value, list):
        return [repair_json_text(each, depth - 1) for each in value]
    if isinstance(value, dict):
        return {repair_text(name): repair_json_text(each, depth - 1) for name, each in value.items()}
    return value


class CarriedFields:
    """Collects what the provider of one answer wants back."""

    __slots__ = ("_reserve",)

    def __init__(self, reserve: Reserve) -> None:
        self._reserve = reserve

    def result(self) -> Any:
        """The JSON for `Finish.carry`; None if there is nothing to send back."""
        return None


class CarriedReasoning(CarriedFields):
    """In OpenAI's format: the reasoning in the server's own field, its details, and other opaque fields."""

    __slots__ = ("_details", "_extra", "_name", "_pieces")

    def __init__(self, reserve: Reserve) -> None:
        super().__init__(reserve)
        self._name = ""
        self._pieces: list[str] = []
        self._details: list[dict[str, Any]] = []
        self._extra: dict[str, Any] = {}

    def reasoning(self, name: str, text: str) -> None:
        """A piece of the reasoning from the field `name`. Only the field that came first is kept."""
        self._name = self._name or name
        if name == self._name:
            self._reserve(len(text))
            self._pieces.append(text)

    def details(self, pieces: Any) -> None:
        """Pieces of OpenRouter's `reasoning_details`: a block comes in many, its signature in the last one."""
        for piece in pieces if isinstance(pieces, list) else ():
            if isinstance(piece, dict):
                self._reserve(_size(piece))
                self._detail(piece)

    def extra(self, name: str, value: Any) -> None:
        """An opaque field of the whole message; a newer value replaces the older one."""
        if value:
            self._reserve(_size(value))
            self._extra[name] = value

    def result(self) -> Any:
        kept = dict(self._extra)
        if self._details:
            kept["reasoning_details"] = self._details  # contains the plain reasoning as well
        elif self._name:
            kept[self._name] = "".join(self._pieces)
        return {OPENAI: repair_json_text(kept)} if kept else None

    def _detail(self, piece: dict[str, Any]) -> None:
        block = next(
            (each for each in reversed(self._details) if _continues(piece, each, self._details[-1])), None
        )
        if block is None:
            self._details.append(dict(piece))
            return
        for name, value in piece.items():
            if name in MERGED and isinstance(value, str) and isinstance(block.get(name), str):
                block[name] += value
            elif value is not None:
                block[name] = value


def _continues(piece: dict[str, Any], block: dict[str, Any], last: dict[str, Any]) -> bool:
    """Whether a piece continues a block: same type and index, or without an index a text after the last text."""
    if piece.get("type") != block.get("type") or piece.get("index") != block.get("index"):
        return False
    if piece.get("id") and block.get("id") and piece["id"] != block["id"]:
        return False
    return piece.get("index") is not None or (block is last and piece.get("type") == "reasoning.text")


def _size(value: Any) -> int:
    try:
        return len(msgspec.json.encode(value))
    except (TypeError, ValueError, RecursionError):
        return len(str(value))


class CarriedBlocks(CarriedFields):
    """In Anthropic's format: the order of an answer's blocks, and the content of those that are no text and no
    call.

    A text block is kept as its length and a call as its number, because the message itself holds both.
    """

    __slots__ = ("_blocks", "_calls", "_closed", "_ends_in_half_pair", "_input", "_signed")

    def __init__(self, reserve: Reserve) -> None:
        super().__init__(reserve)
        self._blocks: dict[Any, dict[str, Any]] = {}  # by index, in the order in which they began
        self._input: dict[Any, list[str]] = {}
        self._closed: set[Any] = set()
        self._calls = 0
        self._ends_in_half_pair = False  # the last text ended with the first half of a surrogate pair
        self._signed = False

    def begin(self, index: Any, block: dict[str, Any]) -> None:
        """A block begins, with the content that it has from the start."""
        self._reserve(BLOCK_OVERHEAD)
        kind = block.get("type")
        if kind == "text":
            block = {"type": kind, "length": 0}
        elif kind == "tool_use":
            block = {"type": kind, "call": self._calls}
            self._calls += 1
        else:
            self._signed = True
            self._reserve(_size(block))
        self._blocks[index] = dict(block)

    def grow(self, index: Any, name: str, text: str) -> None:
        """A piece of a block's `text`, `thinking`, `signature` or `partial_json`."""
        block = self._blocks.setdefault(index, {"type": "text", "length": 0})
        kind = block["type"]
        if kind == "text":
            if name == "text" and text:  # the two halves of a pair are one character of the message
                block["length"] += len(text) - (self._ends_in_half_pair and "\udc00" <= text[0] <= "\udfff")
                self._ends_in_half_pair = "\ud800" <= text[-1] <= "\udbff"
        elif kind != "tool_use":
            self._reserve(len(text))
            if name == "partial_json":
                self._input.setdefault(index, []).append(text)
            else:
                before = block.get(name)
                block[name] = (before if isinstance(before, str) else "") + text

    def close(self, index: Any) -> None:
        """The block is complete."""
        self._closed.add(index)
        pieces = "".join(self._input.pop(index, ()))
        if pieces:
            try:
                self._blocks[index]["input"] = msgspec.json.decode(pieces)
            except (ValueError, RecursionError):
                self._closed.discard(index)  # the provider refuses an incomplete block, but not a missing one

    def result(self) -> Any:
        if not self._signed:
            return None
        kept = [
            block
            for index, block in self._blocks.items()
            if block["type"] in ("text", "tool_use") or index in self._closed
        ]
        return {ANTHROPIC: {"blocks": repair_json_text(kept)}}


def blocks_of(message: Message, calls: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The blocks of an assistant's message in their original order; `calls` are the blocks of its tool calls.

    If the stored blocks do not fit the message (its text was changed), reasoning comes first, then text, then
    calls.
    """
    kept = read_carried(message.carry, ANTHROPIC).get("blocks")
    blocks = [each for each in kept if isinstance(each, dict)] if isinstance(kept, list) else []
    lengths = sum(each["length"] for each in blocks if type(each.get("length")) is int)
    places = [each.get("call") for each in blocks if each.get("type") == "tool_use"]
    if lengths != len(message.text) or places != list(range(len(calls))):
        blocks = [each for each in blocks if each.get("type") not in ("text", "tool_use")]
        blocks.append({"type": "text", "length": len(message.text)})
        blocks += [{"type": "tool_use", "call": place} for place in range(len(calls))]
    position = 0
    for block in blocks:
        if block.get("type") == "text" and type(block.get("length")) is int:
            end = position + block["length"]
            text, position = message.text[position:end], end
            if text.strip():  # the provider refuses a blank text
                yield {"type": "text", "text": text}
        elif block.get("type") == "tool_use":
            yield calls[block["call"]]
        else:
            yield block


def provider_call_id(call: ToolCall, name: str) -> str | None:
    """The id that the provider gave the call; None if it gave none, or if another provider made the call."""
    given = read_carried(call.carry, name).get("id")
    return given if isinstance(given, str) and given else None
