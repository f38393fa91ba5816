"""What a benchmark is, what it reports, and how a report is printed and kept.

Owns the table on the terminal (it can be pasted into RESULTS.md), the JSON file, the pictures and the progress
bar. It must not know any single benchmark.
"""

import datetime
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from bench.analysis.comparison import Comparison
from bench.harness.git_revision import BEFORE, NOW
from bench.harness.postgres import Postgres

S = TypeVar("S")
HOLDS = {True: "yes", False: "NO", None: ""}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `holds`: whether the goal is met; None where there is no goal.

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
    """What a run measured: rows for people, data for programs, pictures (name → SVG)."""

    rows: list[Row] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)

    def add(self, what: str, figure: str, goal: str = "", holds: bool | None = None) -> None:
        """Adds a row."""
        self.rows.append(Row(what, figure, goal, holds))

    def add_comparison(self, comparison: Comparison) -> None:
        """Adds a row for each measure, and all measured values as data."""
        self.rows += [
            Row(one.what, one.now, one.goal, one.holds, one.before, one.ratio)
            for one in comparison.lines(BEFORE, NOW)
        ]
        self.data.update(comparison.values)


@dataclass(frozen=True, slots=True)
class Benchmark(Generic[S]):
    """One benchmark. `settings` are the defaults; each of their fields is an option on the command line.

    `quick`: the settings that `--quick` changes.
    """

    name: str
    title: str
    settings: S
    quick: Mapping[str, Any]
    run: Callable[[Postgres, S], Report]


def print_heading(benchmark: Benchmark[Any], settings: Any) -> None:
    """Prints which benchmark runs now, and with which settings."""
    text = ", ".join(f"{name} {value}" for name, value in asdict(settings).items() if value != "")
    print(f"\n## {benchmark.name}: {benchmark.title}\n\n{text}\n", flush=True)


def write_report(
    benchmark: Benchmark[Any],
    settings: Any,
    report: Report,
    folder: Path,
    *,
    quick: bool,
    pictures: Path | None = None,
) -> None:
    """Prints the table; writes the JSON file and the pictures into `folder`, the pictures into `pictures` too."""
    print(markdown_table(report), flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "name": benchmark.name,
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release()},
        "settings": asdict(settings),
        "rows": report.rows,
        "data": report.data,
    }
    text = msgspec.json.format(msgspec.json.encode(content), indent=2)
    (folder / f"{benchmark.name}.json").write_bytes(text + b"\n")
    for name, picture in report.pictures.items():
        for place in (folder, pictures) if pictures is not None else (folder,):
            (place / f"{name}.svg").write_text(picture, "utf-8")


def markdown_table(report: Report) -> str:
    """The rows as Markdown, with columns for a former revision where one was measured."""
    if any(row.before for row in report.rows):
        lines = ["| | before | now | ratio | goal | holds |", "|---|---|---|---|---|---|"]
        lines += [
            f"| {row.what} | {row.before} | {row.figure} | {row.ratio} | {row.goal} | {HOLDS[row.holds]} |"
            for row in report.rows
        ]
        return "\n".join(lines)
    lines = ["| | figure | goal | holds |", "|---|---|---|---|"]
    lines += [f"| {row.what} | {row.figure} | {row.goal} | {HOLDS[row.holds]} |" for row in report.rows]
    return "\n".join(lines)


@contextmanager
def progress_bar(what: str, total: float) -> Iterator[Callable[[float, str], None]]:
    """Shows a bar on standard error if that is a terminal, else nothing.

    Yields a function to be called with how much of `total` is done, and a few words on what is being done.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[now]}"),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    ) as progress:
        task = progress.add_task(what, total=total, now="")
        yield lambda done, now: progress.update(task, completed=done, now=now)
