"""Percentiles by nearest rank, so that each one is a value that was really measured. Pure.

Nearest rank (ISO 2602, and what load testers print): the smallest value with at least p % of all at or below.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Summary:
    """How values lie, in their own unit. All zero when there were none (`count` 0)."""

    count: int
    p50: float
    p90: float
    p99: float
    most: float


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of values in ascending order. Raises `ValueError` for none: the caller's."""
    if not ordered:
        raise ValueError("no values have no percentile")
    if not 0 < percent <= 100:
        raise ValueError(f"a percentile lies above 0 and at most at 100, not at {percent}")
    return ordered[math.ceil(len(ordered) * percent / 100) - 1]


def summarise(values: Sequence[float]) -> Summary:
    """The usual five figures of values in any order."""
    if not values:
        return Summary(0, 0.0, 0.0, 0.0, 0.0)
    ordered = sorted(values)
    p50, p90, p99 = (percentile(ordered, percent) for percent in (50, 90, 99))
    return Summary(len(ordered), p50, p90, p99, ordered[-1])


def steps(values: Sequence[float], count: int = 200) -> list[tuple[float, float]]:
    """Points of the distribution for a picture: (percent, value), finer towards 100 where the tail is."""
    if not values:
        return []
    ordered = sorted(values)
    # 99.99 % of a hundred values is the largest of them again: there it ends earlier.
    nines = min(4.0, math.log10(len(ordered)))
    percents = [100 * (1 - 10 ** (-nines * n / count)) for n in range(1, count + 1) if nines]
    return [(percent, percentile(ordered, percent)) for percent in percents]
