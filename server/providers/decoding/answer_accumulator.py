"""Accumulates one streamed answer: the chunks to hand on, and all that its `Finish` needs.

Owns what is kept of an answer while it streams: the chunks since they were last taken, and for the end the
refusal, the tool calls, the usage, the finish reason and what the provider wants back. Every text is repaired so
that it may enter the log, and what is kept is bounded in size.
Pure: must not know any wire format.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.providers.interface import ArgumentsDelta, Chunk, Finish, Reasoning, ToolCall
from server.unicode_safety import TextRepair

from .carried_fields import CarriedFields, repair_json_text
from .finish_reasons import finish_reason
from .redaction import Redactor
from .tool_call_assembly import ToolCallAssembler

MAX_REASON = 64  # characters
PIECE_OVERHEAD = 2  # characters added to the length of each piece of a call, so that empty pieces count too
MAX_CALLS = 1024  # a call takes far more memory than its characters; no run executes so many
MAX_KEPT = 1 << 24  # characters of refusal, arguments and carried fields, which are kept until the answer's end


class MalformedMessage(ValueError):
    """The provider broke its protocol, and a part of the answer is lost; the text says how."""


class UnknownMessage(ValueError):
    """The provider sent a message of unknown meaning, which is counted and skipped.

    `lost`: it looks like a part of the answer, so a piece of a tool call may have been in it.
    """

    def __init__(self, what: str, *, lost: bool = False) -> None:
        super().__init__(what)
        self.lost = lost


class AnswerFailed(Exception):
    """The provider gave a finish reason that means failure; the text is the provider's word."""


class AnswerAccumulator:
    """One answer while it streams. A wire format calls the methods; `finish` makes the result.

    `chunks`: what arrived since they were last taken. `started`: a part of the answer has arrived, so it is paid
    for. `has_reason`: the finish reason has arrived, only usage may follow. `closed`: the provider said that
    nothing follows. `damaged`: characters of the message that is read now were lost. `carried`: collects what the
    provider wants back, None if nothing will be sent back. `counts`: the token counts so far, for the wire
    format's own use. `choice`: the index of the choice that is read, where a server sends several.
    """

    def __init__(self, redact: Redactor) -> None:
        self.chunks: list[Chunk] = []
        self.started = False
        self.has_reason = False
        self.closed = False
        self.damaged = False
        self.carried: CarriedFields | None = None
        self.counts: dict[str, int] = {}
        self.choice: Any = None
        self._repaired = 0
        self._redact = redact
        self._text = TextRepair()
        self._reasoning = TextRepair()
        self._reason = ""
        self._usage: dict[str, int] = {}
        self._refusal: list[str] = []
        self._calls = ToolCallAssembler()
        self._kept = 0

    @property
    def repaired(self) -> int:
        """Characters replaced by U+FFFD so far."""
        return self._repaired + self._text.repaired + self._reasoning.repaired + self._calls.repaired

    def add_text(self, text: str) -> None:
        """A chunk of the answer's text."""
        if text:
            self.started = True  # an empty text, which some servers send at once, is no part of the answer
        self.chunks.append(self._text.feed(text))

    def add_reasoning(self, text: str) -> None:
        """A piece of the reasoning."""
        if text:
            self.started = True
        if repaired := self._reasoning.feed(text):
            self.chunks.append(Reasoning(repaired))

    def add_refusal(self, text: str) -> None:
        """A piece of the model's refusal to answer."""
        if text:
            self.started = True
        self.reserve(len(text))
        self._refusal.append(text)

    def add_call(self, index: int | None, id: str, name: str, arguments: str, default: str = "") -> None:
        """A piece of a tool call; the arguments are those of `ToolCallAssembler.add`."""
        self.started = True
        self.reserve(PIECE_OVERHEAD + len(id) + len(name) + len(arguments) + len(default))
        self._add_piece(self._calls.add(index, id, name, arguments, default, damaged=self.damaged))
        if len(self._calls) > MAX_CALLS:
            raise MalformedMessage(f"more than {MAX_CALLS} tool calls")

    def add_arguments(self, index: int | None, arguments: str) -> None:
        """A further piece of the arguments of the call at `index`; ignored if no call began there."""
        piece = self._calls.extend(index, arguments, damaged=self.damaged)
        if piece is not None:
            self.started = True
            self.reserve(len(arguments))
            self._add_piece(piece)
        elif index is None and arguments:
            self.lose_piece()

    def lose_piece(self, index: int | None = None) -> None:
        """A piece of the call at `index` arrived and could not be read; None: it is unknown which call's."""
        self._calls.lose_piece(index)

    def add_call_fields(self, values: Mapping[str, Any]) -> None:
        """Fields to send back with the call whose piece came last."""
        self._calls.add_fields(values)

    def close_call(self, index: int | None) -> None:
        """The provider closed the call at `index`: it is whole."""
        self._calls.close(index)

    def count_usage(self, counts: Mapping[str, Any]) -> None:
        """Token counts by the API's names. A newer count replaces the older one."""
        self._usage |= {name: n for name, n in counts.items() if type(n) is int and n >= 0}

    def end(self, word: str) -> None:
        """The answer ends with this finish reason of the provider. Raises `AnswerFailed` if it means failure."""
        reason = finish_reason(word)
        if reason is None:
            raise AnswerFailed(word)
        if not self.has_reason:  # some servers send a second one (`stop` after `tool_calls`): the first one counts
            self.has_reason = True
            self._reason = self._redact(reason, MAX_REASON) or "unknown"

    def reserve(self, size: int) -> None:
        """Count characters that are kept until the end. Raises `MalformedMessage` if they are too many."""
        self._kept += size
        if self._kept > MAX_KEPT:
            raise MalformedMessage(f"more than {MAX_KEPT} characters of refusal, tool calls and signed thoughts")

    def flush(self) -> list[Chunk]:
        """The chunks not taken yet, and any half surrogate pair that still waited for its second half."""
        if reasoning := self._reasoning.end():
            self.chunks.append(Reasoning(reasoning))
        if text := self._text.end():
            self.chunks.append(text)
        for piece in self._calls.end():
            self._add_piece(piece)
        return self.chunks

    def finish(self, carry_as: str, *, closes_calls: bool) -> Finish:
        """The finish of the answer; call it after `flush`, and only if `has_reason`.

        `carry_as`: the wire format's name, the key for what calls carry. `closes_calls`: the format itself says
        which calls are whole.
        """
        complete = "input_tokens" in self._usage and "output_tokens" in self._usage
        refusal = self._repair("".join(self._refusal))
        reason = self._reason
        if refusal and reason == "stop":
            reason = "refusal"  # OpenAI sends `stop` and no content, which would look like an empty answer
        usage = self._usage if complete else None
        if not Finish(reason, None).ended_well:
            self._calls.reopen_last()
        elif not closes_calls:
            self._calls.close_all()
        calls = tuple(self._finish_call(call, extra, carry_as) for call, extra in self._calls.finished())
        carry = self.carried.result() if self.carried is not None and calls else None
        return Finish(reason, usage, calls, refusal, carry)

    def _finish_call(self, call: ToolCall, extra: dict[str, Any], carry_as: str) -> ToolCall:
        id = self._repair(call.id)
        kept = {**({"id": id} if id else {}), **repair_json_text(extra)}
        carry = {carry_as: kept} if kept else None
        return ToolCall(id, self._repair(call.name), call.arguments, carry, call.whole)

    def _add_piece(self, piece: ArgumentsDelta) -> None:
        if piece.delta:
            self.chunks.append(piece)

    def _repair(self, text: str) -> str:
        repair = TextRepair()
        repaired = repair.feed(text) + repair.end()
        self._repaired += repair.repaired
        return repaired
