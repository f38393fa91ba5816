"""One answer as far as it has come, in the words of `model`.

Owns what is kept of an answer while it streams: its chunks since the last look, and what stands in the finish
(refusal, tool calls, usage, reason, what the provider wants back); all of it repaired, so that it may enter the
log, and bounded. Pure: must not know wire formats.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .carry import Keeper, cleaned
from .finish_reasons import reason_in
from .model import ArgumentsDelta, Chunk, Finish, Reasoning, ToolCall
from .surrogates import Repair
from .toolcalls import ToolCalls
from .wording import Quoter

__all__ = ["Draft", "Failed", "Malformed", "Unknown"]

MAX_REASON = 64  # characters
PIECE = 2  # characters that a piece of a call counts for, whatever is in it
MAX_CALLS = 1024  # each takes far more than its characters; no run carries out so many
MAX_HELD = 1 << 24  # characters of refusal, arguments and what goes back, which are held until the answer's end


class Malformed(ValueError):
    """The provider sent what its protocol does not know, and part of the answer is lost; the text says what."""


class Unknown(ValueError):
    """The provider sent something that nobody understands: to be counted, and passed by.

    `lost`: it looks like a part of the answer, so a piece of a call may have been in it.
    """

    def __init__(self, what: str, *, lost: bool = False) -> None:
        super().__init__(what)
        self.lost = lost


class Failed(Exception):
    """The provider said that the answer failed, with this finish reason and no other word."""


class Draft:
    """One answer under way. Methods take what the provider said; `finish` is what it came to.

    `chunks`: what came since they were taken out last. `spoke`: something of the answer has come. `ending`: the
    reason has come, only usage may follow. `over`: the provider said that nothing follows. `damaged`: characters
    of the message that is read now were lost. `counts`: for a wire format, what it was told of usage so far.
    """

    def __init__(self, quote: Quoter) -> None:
        self.chunks: list[Chunk] = []
        self.spoke = False
        self.ending = False
        self.over = False
        self.damaged = False
        self.keeper: Keeper | None = None
        self.counts: dict[str, int] = {}
        self.choice: Any = None  # the one that is read, of several
        self._repaired = 0
        self._quote = quote
        self._text = Repair()
        self._thought = Repair()
        self._reason = ""
        self._usage: dict[str, int] = {}
        self._refusal: list[str] = []
        self._calls = ToolCalls()
        self._held = 0

    @property
    def repaired(self) -> int:
        """Characters replaced by U+FFFD so far."""
        return self._repaired + self._text.repaired + self._thought.repaired + self._calls.repaired

    def text(self, text: str) -> None:
        """A chunk of the answer."""
        if text:
            self.spoke = True  # an empty one, which some send at once, is nothing to lose
        self.chunks.append(self._text.feed(text))

    def think(self, text: str) -> None:
        """A piece of the reasoning."""
        if text:
            self.spoke = True
        if fit := self._thought.feed(text):
            self.chunks.append(Reasoning(fit))

    def refuse(self, text: str) -> None:
        """A piece of the model's refusal to answer."""
        if text:
            self.spoke = True
        self.hold(len(text))
        self._refusal.append(text)

    def call(self, index: int | None, id: str, name: str, arguments: str, default: str = "") -> None:
        """A piece of a tool call, as `ToolCalls.add` takes it."""
        self.spoke = True
        self.hold(PIECE + len(id) + len(name) + len(arguments) + len(default))
        self._told(self._calls.add(index, id, name, arguments, default, damaged=self.damaged))
        if len(self._calls) > MAX_CALLS:
            raise Malformed(f"more than {MAX_CALLS} tool calls")

    def arguments(self, index: int | None, arguments: str) -> None:
        """More arguments of the tool call at `index`, if one began there."""
        piece = self._calls.extend(index, arguments, damaged=self.damaged)
        if piece is not None:
            self.spoke = True
            self.hold(len(arguments))
            self._told(piece)
        elif index is None and arguments:
            self.lose()

    def lose(self, index: int | None = None) -> None:
        """A piece of the call at `index`, or of nobody knows which, was there and could not be read."""
        self._calls.lose(index)

    def extra(self, values: Mapping[str, Any]) -> None:
        """What the provider wants back with the call whose piece came last."""
        self._calls.extra(values)

    def close_call(self, index: int | None) -> None:
        """The provider says that the call at `index` is whole."""
        self._calls.close(index)

    def spend(self, counts: Mapping[str, Any]) -> None:
        """Counts of tokens by our names, the newest told so far; what is no count is left out."""
        self._usage |= {name: n for name, n in counts.items() if type(n) is int and n >= 0}

    def end(self, word: str) -> None:
        """The answer ends, for this reason in the provider's words. Raises `Failed` if it is a failure's."""
        reason = reason_in(word)
        if reason is None:
            raise Failed(word)
        if not self.ending:  # a second one (some send `stop` after `tool_calls`) changes nothing
            self.ending = True
            self._reason = self._quote(reason, MAX_REASON) or "unknown"

    def hold(self, size: int) -> None:
        """So many characters are kept to the end. Raises `Malformed` if they are too many."""
        self._held += size
        if self._held > MAX_HELD:
            raise Malformed(f"more than {MAX_HELD} characters of refusal, tool calls and signed thoughts")

    def last(self) -> list[Chunk]:
        """The chunks not taken yet, and those that held half an emoji which waited for its other half."""
        if thought := self._thought.end():
            self.chunks.append(Reasoning(thought))
        if text := self._text.end():
            self.chunks.append(text)
        for piece in self._calls.end():
            self._told(piece)
        return self.chunks

    def finish(self, carry_as: str, *, closes_calls: bool) -> Finish:
        """What the answer came to; after `last`, and only once it is `ending`.

        `carry_as`: the wire format's name, for what calls carry. `closes_calls`: it says itself which are whole.
        """
        told = "input_tokens" in self._usage and "output_tokens" in self._usage
        refusal = self._fit("".join(self._refusal))
        reason = self._reason
        if refusal and reason == "stop":
            reason = "refusal"  # OpenAI says `stop` and no content; a reader must see that it is no empty answer
        usage = self._usage if told else None
        if not Finish(reason, None).ended_well:
            self._calls.open_last()
        elif not closes_calls:
            self._calls.close_all()
        calls = tuple(self._call(call, extra, carry_as) for call, extra in self._calls.finished())
        carry = self.keeper.result() if self.keeper is not None and calls else None
        return Finish(reason, usage, calls, refusal, carry)

    def _call(self, call: ToolCall, extra: dict[str, Any], carry_as: str) -> ToolCall:
        id = self._fit(call.id)
        kept = {**({"id": id} if id else {}), **cleaned(extra)}
        carry = {carry_as: kept} if kept else None
        return ToolCall(id, self._fit(call.name), call.arguments, carry, call.whole)

    def _told(self, piece: ArgumentsDelta) -> None:
        if piece.delta:
            self.chunks.append(piece)

    def _fit(self, text: str) -> str:
        repair = Repair()
        fit = repair.feed(text) + repair.end()
        self._repaired += repair.repaired
        return fit
