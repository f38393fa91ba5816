"""What a benchmark is: a name, settings, a run, and a report of rows. Knows no benchmark."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from bench.figures.comparison import Comparison
from bench.stand.database import Postgres
from bench.stand.revision import BEFORE, NOW

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `holds` is None where there is no goal.

    `before` and `ratio` are empty where no former revision was measured.
    """

    what: str
    figure: str
    goal: str = ""
    holds: bool | None = None
    before: str = ""
    ratio: str = ""


@dataclass(slots=True)
class Report:
    """What a run came to: rows for people, data for programs, pictures (name → SVG)."""

    rows: list[Row] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)

    def add(self, what: str, figure: str, goal: str = "", holds: bool | None = None) -> None:
        """One more row."""
        self.rows.append(Row(what, figure, goal, holds))

    def add_comparison(self, comparison: Comparison) -> None:
        """A row for each measure, and all its values."""
        self.rows += [
            Row(one.what, one.now, one.goal, one.holds, one.before, one.ratio)
            for one in comparison.lines(BEFORE, NOW)
        ]
        self.data.update(comparison.values)


@dataclass(frozen=True, slots=True)
class Benchmark(Generic[S]):
    """`settings` are the defaults, `quick` what `--quick` changes; each field is an option on the command line."""

    name: str
    title: str
    settings: S
    quick: Mapping[str, Any]
    run: Callable[[Postgres, S], Report]
