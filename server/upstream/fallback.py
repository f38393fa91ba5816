"""What is asked in the place of a request that a server refuses for a field that could be left out.

Owns the reading of such a refusal (400, 422), what is changed for it, that each answer tries a change at most
once, and that what helped is remembered for the server and the model. A change is one of `quirks`: the client's
own parameters are never left out, only called otherwise. Pure: must not know sockets.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from .model import Prompt
from .quirks import TAKEN_BACK, Quirks

__all__ = ["Asking", "ChatAsking", "Fallbacks"]

MOST_MODELS = 1_000  # clients name models: what is remembered of them is bounded
MOST_CHANGES = 4  # of one answer
_UNWANTED = re.compile(
    r"unsupported|not supported|unknown|unrecogni[sz]ed|extra|not permitted|unexpected", re.IGNORECASE
)
_NULL_CONTENT = re.compile(r"\bcontent\b.{0,120}(null|none|nil|required|string|empty)", re.IGNORECASE | re.DOTALL)
_SHORT_IDS = re.compile(r"tool.?call.?id.{0,120}\b9\b", re.IGNORECASE | re.DOTALL)


class Asking:
    """One answer's request body, and what becomes of it when it is refused. This one is never changed."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    def refused(self, status: int, said: bytes) -> bool:
        """Whether to ask again, with another `body`, after a response of this status that said so."""
        return False

    def accepted(self) -> None:
        """The provider answers; what was changed for it helped."""


class Fallbacks:
    """What one server turned out to want, by model, beside what is known of it."""

    def __init__(self, quirks: Quirks) -> None:
        self.quirks = quirks
        self._found: dict[str, Quirks] = {}

    def of(self, model: str) -> Quirks:
        """How to ask this model."""
        return self._found.get(model, self.quirks)

    def remember(self, model: str, quirks: Quirks) -> None:
        """Ask it like this from now on."""
        self._found.pop(model, None)
        self._found[model] = quirks
        if len(self._found) > MOST_MODELS:
            del self._found[next(iter(self._found))]


class ChatAsking(Asking):
    """A request on OpenAI's wire, which can be asked otherwise."""

    def __init__(self, fallbacks: Fallbacks, prompt: Prompt, encode: Callable[[Prompt, Quirks], bytes]) -> None:
        """Raises `BadParameters` as `encode` does."""
        self._fallbacks = fallbacks
        self._prompt = prompt
        self._encode = encode
        self._quirks = fallbacks.of(prompt.model)
        self._changes = 0
        super().__init__(encode(prompt, self._quirks))
        self._asked = {hash(self.body)}

    def refused(self, status: int, said: bytes) -> bool:
        if status not in (400, 422) or self._changes >= MOST_CHANGES:
            return False
        quirks = _changed(self._quirks, said.decode(errors="replace"), self._prompt)
        body = self._encode(self._prompt, quirks)
        if hash(body) in self._asked:
            return False  # names nothing of what was sent, or what was refused before
        self._changes += 1
        self._asked.add(hash(body))
        self._quirks, self.body = quirks, body
        return True

    def accepted(self) -> None:
        if self._changes:
            self._fallbacks.remember(self._prompt.model, self._quirks)


def _changed(quirks: Quirks, said: str, prompt: Prompt) -> Quirks:
    """The quirks without what the refusal names; the same if it names nothing that can be changed."""
    if _names(said, "stream_options") and "stream_options" not in prompt.parameters:
        quirks = replace(quirks, asks_usage=False)
    kept = tuple(name for name in quirks.takes_back if name not in TAKEN_BACK or not _names(said, name))
    quirks = replace(quirks, takes_back=kept)
    if _names(said, "developer"):
        quirks = replace(quirks, developer=False)
    quirks = _renamed(quirks, said, prompt)
    if _NULL_CONTENT.search(said):
        quirks = replace(quirks, null_content=False)
    if _SHORT_IDS.search(said):
        quirks = replace(quirks, call_ids="short")
    return quirks


def _renamed(quirks: Quirks, said: str, prompt: Prompt) -> Quirks:
    """The bound of an answer under its other name, if it is the name that is refused and not its value."""
    given = next((name for name in ("max_tokens", "max_completion_tokens") if name in prompt.parameters), None)
    sent = given and (quirks.max_tokens or given)
    if sent is None or not _names(said, sent):
        return quirks
    other = "max_completion_tokens" if sent == "max_tokens" else "max_tokens"
    wanted = _names(said, other) or _UNWANTED.search(said)
    return replace(quirks, max_tokens=other) if wanted else quirks  # type: ignore[arg-type]


def _names(said: str, field: str) -> bool:
    return re.search(rf"(?<!\w){field}(?!\w)", said) is not None
