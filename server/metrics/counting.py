"""The two things to count with: a histogram, and a counter by labels. Plain numbers of one process. Pure.

prometheus-client's own take a lock and look up labels at each call; these stand in the way of every token.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence


class Histogram:
    """How many values were at most each of `bounds`, which rise."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Counts one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self._counts)

    def buckets(self) -> list[tuple[str, float]]:
        """The upper bounds as text, `+Inf` last, each with how many values were at most that."""
        found, below = [], 0
        for bound, count in zip((*map(_text, self._bounds), "+Inf"), self._counts, strict=True):
            below += count
            found.append((bound, float(below)))
        return found


class Counter:
    """Counts by label values. Past `most` different ones, a new one counts as `other` in every label."""

    __slots__ = ("_most", "counts")

    def __init__(self, most: int = 1_000) -> None:
        self._most = most
        self.counts: dict[tuple[str, ...], int] = {}

    def add(self, *labels: str, count: int = 1) -> None:
        """Adds to one."""
        if labels not in self.counts and len(self.counts) >= self._most:
            labels = ("other",) * len(labels)
        self.counts[labels] = self.counts.get(labels, 0) + count

    def expect(self, labels: Iterable[tuple[str, ...]]) -> None:
        """Shows these as 0 from now on: who looks at a rate would miss the first of something unseen."""
        for one in labels:
            self.counts.setdefault(one, 0)


def _text(bound: float) -> str:
    return repr(float(bound))
