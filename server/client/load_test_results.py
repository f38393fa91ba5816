"""What a load test measures: the check of one reader's delivery, its times, percentiles and a histogram. Pure.

The check compares what a reader received with what the log holds: no event missing or repeated, no text changed.
It keeps no text, only its digest, so that a reader costs the same however long the answer is.
"""

import hashlib
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

_ENDS = frozenset({"generation.completed", "generation.failed", "generation.cancelled"})


class ReadEvent(msgspec.Struct):
    """The fields of an event that the check needs."""

    position: int
    type: str
    at: datetime
    delta: str | None = None


decode = msgspec.json.Decoder(ReadEvent).decode


@dataclass(slots=True)
class ReadTimes:
    """The times of all readers, in seconds.

    `first`: from the request to the first token. `between`: between two tokens. `delay`: from an event's own time
    to its arrival.
    """

    first: "array[float]" = field(default_factory=lambda: array("d"))
    between: "array[float]" = field(default_factory=lambda: array("d"))
    delay: "array[float]" = field(default_factory=lambda: array("d"))
    tokens: int = 0
    reconnects: int = 0


class DeliveryCheck:
    """Checks what one reader receives of one generation. `position`: the reader's cursor."""

    def __init__(self, times: ReadTimes, requested_position: int, requested_at: float) -> None:
        self._times = times
        self._requested_at = requested_at
        self._last_token_at: float | None = None
        self._text = hashlib.sha256()
        self.position = requested_position - 1
        self.tokens = 0
        self.missing = 0
        self.repeated = 0
        self.end: str | None = None

    def take(self, events: Sequence[bytes], clock: float, wall: float) -> None:
        """Checks events, as JSON, that were just received.

        `clock`: monotonic time in seconds; `wall`: seconds since 1970.
        """
        for encoded in events:
            event = decode(encoded)
            if event.position <= self.position:
                self.repeated += 1
                continue
            self.missing += event.position - self.position - 1
            self.position = event.position
            self._times.delay.append(wall - event.at.timestamp())
            if event.delta is not None:
                self._take_token(event.delta, clock)
            elif event.type in _ENDS:
                self.end = event.type

    def _take_token(self, delta: str, clock: float) -> None:
        self._text.update(delta.encode())
        self.tokens += 1
        self._times.tokens += 1
        if self._last_token_at is None:
            self._times.first.append(clock - self._requested_at)
        else:
            self._times.between.append(clock - self._last_token_at)
        self._last_token_at = clock

    def same_text(self, text: str) -> bool:
        """Whether all received tokens together are `text`."""
        return self._text.digest() == hashlib.sha256(text.encode()).digest()


@dataclass(frozen=True, slots=True)
class Summary:
    """A list of values in figures, in their unit. Percentiles are values that were measured (nearest rank)."""

    count: int
    least: float
    p50: float
    p99: float
    most: float


def summarise(values: Sequence[float]) -> Summary | None:
    """Summarises values in any order; None if there are none."""
    if not values:
        return None
    ordered = sorted(values)
    return Summary(len(ordered), ordered[0], percentile(ordered, 50), percentile(ordered, 99), ordered[-1])


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of values in ascending order: `percent` % of them are at most this."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


@dataclass(frozen=True, slots=True)
class Bin:
    """How many values are below `below` and not in an earlier bin."""

    below: float
    count: int


def histogram(values: Sequence[float]) -> list[Bin]:
    """Bins with the bounds 1, 2, 5, 10 …, from the bin of the least value to that of the greatest.

    Values of zero or less (of two clocks that differ) are in the first bin.
    """
    if not values:
        return []
    counts: dict[int, int] = {}
    for value in values:
        step = _step(value)
        counts[step] = counts.get(step, 0) + 1
    return [Bin(_bound(step), counts.get(step, 0)) for step in range(min(counts), max(counts) + 1)]


_LEAST = -15
"""The step of 0.00001."""


def _bound(step: int) -> float:
    return float(f"{(1, 2, 5)[step % 3]}e{step // 3}")


def _step(value: float) -> int:
    if value < _bound(_LEAST):
        return _LEAST
    step = 3 * math.floor(math.log10(value))
    while _bound(step) <= value:
        step += 1
    return step
