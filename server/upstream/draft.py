"""One answer as far as it has come, in the words of `model`.

Owns what is kept of an answer while it streams: its text since the last look, its reasoning, refusal, tool calls,
usage and reason; all of it repaired, so that it may enter the log, and bounded. Pure: must not know wire formats.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .model import Finish, ToolCall
from .surrogates import Repair
from .toolcalls import ToolCalls
from .wording import Quoter

__all__ = ["Draft", "Malformed"]

MAX_REASON = 64  # characters
MAX_HELD = 1 << 24  # characters of reasoning, refusal and arguments, which are held until the answer's end


class Malformed(ValueError):
    """The provider sent what its protocol does not know; the text says what."""


class Draft:
    """One answer under way. Methods take what the provider said; `finish` is what it came to.

    `texts`: the text chunks, whoever reads them takes them out. `ending`: the reason has come, only usage may
    follow. `over`: the provider said that nothing follows.
    """

    def __init__(self, quote: Quoter) -> None:
        self.texts: list[str] = []
        self.ending = False
        self.over = False
        self.repaired = 0
        self._quote = quote
        self._repair = Repair()
        self._reason = ""
        self._usage: dict[str, int] = {}
        self._reasoning: list[str] = []
        self._refusal: list[str] = []
        self._calls = ToolCalls()
        self._held = 0

    def text(self, text: str) -> None:
        """A chunk of the answer."""
        self.texts.append(self._repair.feed(text))

    def think(self, text: str) -> None:
        """A piece of the reasoning."""
        self._hold(text)
        self._reasoning.append(text)

    def refuse(self, text: str) -> None:
        """A piece of the model's refusal to answer."""
        self._hold(text)
        self._refusal.append(text)

    def call(self, index: int | None, id: str, name: str, arguments: str, default: str = "") -> None:
        """A piece of a tool call, as `ToolCalls.add` takes it."""
        self._hold(id, name, arguments, default)
        self._calls.add(index, id, name, arguments, default)

    def arguments(self, index: int | None, arguments: str) -> None:
        """More arguments of the tool call at `index`, if one began there."""
        if self._calls.extend(index, arguments):
            self._hold(arguments)

    def spend(self, counts: Mapping[str, Any]) -> None:
        """Counts of tokens by our names, the newest told so far; what is no count is left out."""
        self._usage |= {name: n for name, n in counts.items() if type(n) is int and n >= 0}

    def end(self, reason: str) -> None:
        """The answer ends, for this reason."""
        self.ending = True
        self._reason = self._quote(reason, MAX_REASON)

    def last(self) -> list[str]:
        """The text chunks not taken yet, and maybe one more: half an emoji that waited for its other half."""
        held = self._repair.end()
        self.repaired += self._repair.repaired
        self._repair = Repair()
        return [*self.texts, held] if held else self.texts

    def finish(self) -> Finish:
        """What the answer came to; after `last`."""
        told = "input_tokens" in self._usage and "output_tokens" in self._usage
        calls = (
            ToolCall(self._fit(c.id), self._fit(c.name), self._fit(c.arguments)) for c in self._calls.finished()
        )
        refusal = self._fit("".join(self._refusal))
        reason = self._reason or "stop"
        if refusal and reason == "stop":
            reason = "refusal"  # OpenAI says `stop` and no content; a reader must see that it is no empty answer
        reasoning = self._fit("".join(self._reasoning))
        return Finish(reason, self._usage if told else None, tuple(calls), reasoning, refusal)

    def _hold(self, *texts: str) -> None:
        self._held += sum(map(len, texts))
        if self._held > MAX_HELD:
            raise Malformed(f"more than {MAX_HELD} characters of reasoning and tool calls")

    def _fit(self, text: str) -> str:
        repair = Repair()
        fit = repair.feed(text) + repair.end()
        self.repaired += repair.repaired
        return fit
