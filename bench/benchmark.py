"""What a benchmark is: a name, settings, a run, and a report of rows. Knows no benchmark."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from bench.stand.database import Postgres

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `holds` is None where there is no goal."""

    what: str
    figure: str
    goal: str = ""
    holds: bool | None = None


@dataclass(slots=True)
class Report:
    """What a run came to: rows for people, data for programs, pictures (name → SVG)."""

    rows: list[Row] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)

    def add(self, what: str, figure: str, goal: str = "", holds: bool | None = None) -> None:
        """One more row."""
        self.rows.append(Row(what, figure, goal, holds))


@dataclass(frozen=True, slots=True)
class Benchmark(Generic[S]):
    """`settings` are the defaults, `quick` what `--quick` changes; each field is an option on the command line."""

    name: str
    title: str
    settings: S
    quick: Mapping[str, Any]
    run: Callable[[Postgres, S], Report]
