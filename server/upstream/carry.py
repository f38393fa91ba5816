"""What a provider wants back with the next request: taken down while an answer streams, put back as it was.

Thinking models refuse the turn after a tool call if their own thoughts of the turn before do not come back
unchanged, signatures included. Owns the form in which they are kept (`Finish.carry`, `ToolCall.carry`: JSON under
the name of the wire format, and nobody else's business), for each wire format. Nothing is kept unless tools are
given, for without a call there is no such request. Pure: must not know HTTP, nor which server it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from .model import Message, ToolCall
from .surrogates import clean

__all__ = ["BlockKeeper", "Keeper", "ReasoningKeeper", "carried", "cleaned"]

OPENAI = "openai"
ANTHROPIC = "anthropic"
MERGED = ("text", "summary", "data", "content")  # of OpenRouter's details: what comes in pieces
MOST_DEPTH = 32
PLACE = 16  # characters that a block counts for, whatever is in it
Hold = Callable[[int], None]
"""Told of so many characters that are kept; raises if they are too many."""


def carried(carry: Any, name: str) -> dict[str, Any]:
    """What a wire format kept, empty if it was none of its own. It is read from the log."""
    kept = carry.get(name) if isinstance(carry, dict) else None
    return kept if isinstance(kept, dict) else {}


def cleaned(value: Any, depth: int = MOST_DEPTH) -> Any:
    """JSON whose texts may enter the log; null in the place of what is nested deeper than `depth`."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list | dict) and not depth:
        return None
    if isinstance(value, list):
        return [cleaned(each, depth - 1) for each in value]
    if isinstance(value, dict):
        return {clean(name): cleaned(each, depth - 1) for name, each in value.items()}
    return value


class Keeper:
    """What is taken down of one answer."""

    __slots__ = ("_hold",)

    def __init__(self, hold: Hold) -> None:
        self._hold = hold

    def result(self) -> Any:
        """It as JSON for `Finish.carry`; None if there is nothing to send back."""
        return None


class ReasoningKeeper(Keeper):
    """On OpenAI's wire: reasoning by the name that the server gave it, its details, and what else is signed."""

    __slots__ = ("_details", "_extra", "_name", "_pieces")

    def __init__(self, hold: Hold) -> None:
        super().__init__(hold)
        self._name = ""
        self._pieces: list[str] = []
        self._details: list[dict[str, Any]] = []
        self._extra: dict[str, Any] = {}

    def reasoning(self, name: str, text: str) -> None:
        """A piece of the reasoning, in the field of this name. The first name stands."""
        self._name = self._name or name
        if name == self._name:
            self._hold(len(text))
            self._pieces.append(text)

    def details(self, pieces: Any) -> None:
        """Pieces of OpenRouter's `reasoning_details`: one block comes in many, its signature in the last."""
        for piece in pieces if isinstance(pieces, list) else ():
            if isinstance(piece, dict):
                self._hold(_size(piece))
                self._detail(piece)

    def extra(self, name: str, value: Any) -> None:
        """Something opaque that belongs to the whole message; the newest stands."""
        if value:
            self._hold(_size(value))
            self._extra[name] = value

    def result(self) -> Any:
        kept = dict(self._extra)
        if self._details:
            kept["reasoning_details"] = self._details  # holds all that the plain reasoning does
        elif self._name:
            kept[self._name] = "".join(self._pieces)
        return {OPENAI: cleaned(kept)} if kept else None

    def _detail(self, piece: dict[str, Any]) -> None:
        block = next((each for each in reversed(self._details) if _is_of(piece, each, self._details[-1])), None)
        if block is None:
            self._details.append(dict(piece))
            return
        for name, value in piece.items():
            if name in MERGED and isinstance(value, str) and isinstance(block.get(name), str):
                block[name] += value
            elif value is not None:
                block[name] = value


def _is_of(piece: dict[str, Any], block: dict[str, Any], last: dict[str, Any]) -> bool:
    """Whether it goes on with the block: the same kind and index; without one, a text with the last text."""
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


class BlockKeeper(Keeper):
    """On Anthropic's wire: the order of an answer's blocks, and those whole that are neither text nor a call.

    A text is kept as its length and a call as its place, for both stand in the message anyway.
    """

    __slots__ = ("_blocks", "_calls", "_closed", "_half", "_input", "_signed")

    def __init__(self, hold: Hold) -> None:
        super().__init__(hold)
        self._blocks: dict[Any, dict[str, Any]] = {}  # by index, in the order in which they began
        self._input: dict[Any, list[str]] = {}
        self._closed: set[Any] = set()
        self._calls = 0
        self._half = False  # the last text ended with the first half of a character
        self._signed = False

    def begin(self, index: Any, block: dict[str, Any]) -> None:
        """A block begins, with what it holds from the start."""
        self._hold(PLACE)
        kind = block.get("type")
        if kind == "text":
            block = {"type": kind, "length": 0}
        elif kind == "tool_use":
            block = {"type": kind, "call": self._calls}
            self._calls += 1
        else:
            self._signed = True
            self._hold(_size(block))
        self._blocks[index] = dict(block)

    def grow(self, index: Any, name: str, text: str) -> None:
        """More of a block: `text`, `thinking`, `signature` or `partial_json`."""
        block = self._blocks.setdefault(index, {"type": "text", "length": 0})
        kind = block["type"]
        if kind == "text":
            if name == "text" and text:  # two halves are one character of the message
                block["length"] += len(text) - (self._half and "\udc00" <= text[0] <= "\udfff")
                self._half = "\ud800" <= text[-1] <= "\udbff"
        elif kind != "tool_use":
            self._hold(len(text))
            if name == "partial_json":
                self._input.setdefault(index, []).append(text)
            else:
                before = block.get(name)
                block[name] = (before if isinstance(before, str) else "") + text

    def close(self, index: Any) -> None:
        """The block is whole."""
        self._closed.add(index)
        pieces = "".join(self._input.pop(index, ()))
        if pieces:
            try:
                self._blocks[index]["input"] = msgspec.json.decode(pieces)
            except (ValueError, RecursionError):
                self._closed.discard(index)  # half of a block is refused, none is not

    def result(self) -> Any:
        if not self._signed:
            return None
        kept = [
            block
            for index, block in self._blocks.items()
            if block["type"] in ("text", "tool_use") or index in self._closed
        ]
        return {ANTHROPIC: {"blocks": cleaned(kept)}}


def blocks_of(message: Message, calls: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """An assistant's turn as the blocks that it was made of, in their order; `calls` are its calls' blocks.

    If what is kept does not fit the message (somebody changed its text), thoughts come first, then text and calls.
    """
    kept = carried(message.carry, ANTHROPIC).get("blocks")
    blocks = [each for each in kept if isinstance(each, dict)] if isinstance(kept, list) else []
    lengths = sum(each["length"] for each in blocks if type(each.get("length")) is int)
    places = [each.get("call") for each in blocks if each.get("type") == "tool_use"]
    if lengths != len(message.content) or places != list(range(len(calls))):
        blocks = [each for each in blocks if each.get("type") not in ("text", "tool_use")]
        blocks.append({"type": "text", "length": len(message.content)})
        blocks += [{"type": "tool_use", "call": place} for place in range(len(calls))]
    said = 0
    for block in blocks:
        if block.get("type") == "text" and type(block.get("length")) is int:
            text, said = message.content[said : said + block["length"]], said + block["length"]
            if text.strip():  # a blank text would be refused
                yield {"type": "text", "text": text}
        elif block.get("type") == "tool_use":
            yield calls[block["call"]]
        else:
            yield block


def own_id(call: ToolCall, name: str) -> str | None:
    """The id that the provider gave the call, None if it gave none, or another provider made it."""
    given = carried(call.carry, name).get("id")
    return given if isinstance(given, str) and given else None
