"""Figures of the present code beside those of a former revision, measured in turns of one run. Pure.

A machine is half as fast in one minute as in the next, so the ratio is the median of the turns' ratios, each of
two measurements that were neighbours in time. Knows no benchmark.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure. `goal` is the most that is good, or the least where `at_least`; None: there is no goal."""

    what: str
    unit: str
    goal: float | None = None
    at_least: bool = False

    def holds(self, value: float) -> bool | None:
        """Whether a value meets the goal; None without one."""
        if self.goal is None:
            return None
        return value >= self.goal if self.at_least else value <= self.goal

    @property
    def goal_text(self) -> str:
        """For the table."""
        return "" if self.goal is None else f"{'≥' if self.at_least else '≤'} {number(self.goal)} {self.unit}"


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure's line. `before` and `ratio` (now by before) are empty when nothing former was measured."""

    what: str
    now: str
    before: str
    ratio: str
    goal: str
    holds: bool | None


class Comparison:
    """The values of each measure: revision by revision, one a turn."""

    def __init__(self, measures: Sequence[Measure]) -> None:
        self._measures = {one.what: one for one in measures}
        self.values: dict[str, dict[str, list[float]]] = {}

    def note(self, revision: str, what: str, value: float) -> None:
        """One turn's value. Raises `KeyError` for a measure that was not declared: the caller's fault."""
        self._measures[what]
        self.values.setdefault(what, {}).setdefault(revision, []).append(value)

    def median(self, what: str, revision: str) -> float:
        """Over all turns."""
        return statistics.median(self.values[what][revision])

    def medians(self, whats: Sequence[str]) -> dict[str, float]:
        """For a picture: a bar for each measure and revision."""
        several = any(len(self.values.get(what, ())) > 1 for what in whats)
        return {
            f"{what}, {revision}" if several else what: statistics.median(values)
            for what in whats
            for revision, values in self.values.get(what, {}).items()
        }

    def lines(self, before: str, now: str) -> list[Compared]:
        """In the order in which the measures were declared; one without values has no line."""
        found = []
        for what, measure in self._measures.items():
            values = self.values.get(what, {})
            if now not in values:
                continue
            value = statistics.median(values[now])
            found.append(
                Compared(
                    what,
                    f"{number(value)} {measure.unit}",
                    f"{number(statistics.median(values[before]))} {measure.unit}" if before in values else "",
                    ratio_text(values, before, now),
                    measure.goal_text,
                    measure.holds(value),
                )
            )
        return found


def ratio_text(values: Mapping[str, Sequence[float]], before: str, now: str) -> str:
    """The median of the turns' ratios, now by before, for the table."""
    pairs = zip(values.get(now, ()), values.get(before, ()), strict=False)
    ratios = [later / earlier for later, earlier in pairs if earlier]
    return f"{number(statistics.median(ratios))} ×" if ratios else ""


def number(value: float) -> str:
    """Three digits are what a measurement on a shared machine is worth."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
