"""Sums of measurements: percentiles and a histogram. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Summary:
    """Of a list of values, in their unit. Percentiles are values that were measured (nearest rank)."""

    count: int
    least: float
    p50: float
    p99: float
    most: float


def summarise(values: Sequence[float]) -> Summary | None:
    """None of no values."""
    if not values:
        return None
    ordered = sorted(values)
    return Summary(len(ordered), ordered[0], percentile(ordered, 50), percentile(ordered, 99), ordered[-1])


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of all are not above."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


@dataclass(frozen=True, slots=True)
class Bin:
    """How many values are below `below` and in no bin before."""

    below: float
    count: int


def histogram(values: Sequence[float]) -> list[Bin]:
    """Bins whose bounds go 1, 2, 5, 10 …, from the one of the least value to the one of the greatest.

    Values of nothing or less (two clocks that differ) are in the first.
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
