"""What one reader was given, held against what the log holds: nothing missing, nothing twice, no letter changed.

Pure. It keeps no text, only its digest, so that a reader costs the same however long the answer is.
"""

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

_ENDS = frozenset({"generation.completed", "generation.failed", "generation.cancelled"})


class Told(msgspec.Struct):
    """What of an event counts here."""

    position: int
    type: str
    at: datetime
    delta: str | None = None


decode = msgspec.json.Decoder(Told).decode


@dataclass(slots=True)
class Figures:
    """What was measured, of all readers, in seconds."""

    first: "array[float]" = field(default_factory=lambda: array("d"))
    between: "array[float]" = field(default_factory=lambda: array("d"))
    delay: "array[float]" = field(default_factory=lambda: array("d"))
    tokens: int = 0
    reconnects: int = 0


class Ledger:
    """One reader's account of one generation. `position` is the last it was given, and its cursor."""

    def __init__(self, figures: Figures, requested: int, asked_at: float) -> None:
        self._figures = figures
        self._asked_at = asked_at
        self._last_token_at: float | None = None
        self._text = hashlib.sha256()
        self.position = requested - 1
        self.tokens = 0
        self.missing = 0
        self.repeated = 0
        self.end: str | None = None

    def take(self, events: Sequence[bytes], clock: float, wall: float) -> None:
        """Events as JSON, just received. `clock` is monotonic, in seconds; `wall` is the time of day."""
        for encoded in events:
            event = decode(encoded)
            if event.position <= self.position:
                self.repeated += 1
                continue
            self.missing += event.position - self.position - 1
            self.position = event.position
            self._figures.delay.append(wall - event.at.timestamp())
            if event.delta is not None:
                self._take_token(event.delta, clock)
            elif event.type in _ENDS:
                self.end = event.type

    def _take_token(self, delta: str, clock: float) -> None:
        self._text.update(delta.encode())
        self.tokens += 1
        self._figures.tokens += 1
        if self._last_token_at is None:
            self._figures.first.append(clock - self._asked_at)
        else:
            self._figures.between.append(clock - self._last_token_at)
        self._last_token_at = clock

    def same_text(self, text: str) -> bool:
        """Whether the tokens were, together, this text."""
        return self._text.digest() == hashlib.sha256(text.encode()).digest()
