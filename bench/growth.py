"""The server's memory over thousands of answers, each read with cuts: it has to level off.

What a process keeps of answers that are over (states, tails, encoded events, places of generations) has bounds in
bytes; a bound that forgets some of what it holds is seen here as a line that goes on rising. Memory is the server
process's own (PSS), looked at every so many answers while the next ones run.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.benchmark import Benchmark, Report
from bench.figures import charts
from bench.figures.comparison import Comparison, Measure
from bench.stand.database import Postgres
from bench.stand.helper import helper
from bench.stand.proc import pss, rss, settle
from bench.stand.progress import bar
from bench.stand.revision import NOW, Revision, revisions
from bench.stand.server import serving

MIB = 2**20
SILENT_SECONDS = 120.0
GOAL_SLOPE = 5.0
LAST = "growth over the last third, in 1,000 answers"
MEASURES = (
    Measure("memory (PSS) after the first answers", "MiB"),
    Measure("memory (PSS) after all answers", "MiB"),
    Measure("resident memory (RSS) after all answers", "MiB"),
    Measure("growth over the first third, in 1,000 answers", "MiB"),
    Measure(LAST, "MiB", GOAL_SLOPE),
    Measure("memory (PSS) at rest, after them", "MiB"),
    Measure("answers a second", "/s"),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """`answers` of `tokens` tokens at `rate` tokens/s (0: as fast as it goes), `at_once` at a time.

    A look `every` so many answers. `against` is a former revision to measure beside, one after the other.
    """

    answers: int = 3_000
    tokens: int = 125
    rate: float = 40.0
    at_once: int = 60
    every: int = 100
    against: str = ""


@dataclass(frozen=True, slots=True)
class Curve:
    """Bytes after so many answers, at the last look and at rest; and how long it took, in seconds."""

    looks: list[tuple[int, int]]
    rss: int
    rested: int
    seconds: float
    problems: list[str]


def measure(postgres: Postgres, settings: Settings) -> Report:
    """A curve a revision."""
    comparison = Comparison(MEASURES)
    report = Report()
    curves: dict[str, list[tuple[float, float]]] = {}
    problems: list[str] = []
    for revision in revisions(settings.against, postgres.folder):
        curve = _grow(postgres, revision, settings)
        curves[revision.name] = [(float(n), size / MIB) for n, size in curve.looks]
        third = max(2, len(curve.looks) // 3)
        values = (
            curve.looks[0][1] / MIB,
            curve.looks[-1][1] / MIB,
            curve.rss / MIB,
            slope(curves[revision.name][:third]) * 1_000,
            slope(curves[revision.name][-third:]) * 1_000,
            curve.rested / MIB,
            settings.answers / curve.seconds,
        )
        for what, value in zip(MEASURES, values, strict=True):
            comparison.note(revision.name, what.what, value)
        if revision.name == NOW:
            problems = curve.problems
    report.add_comparison(comparison)
    report.data["curves_mib"] = curves
    for problem in problems[:3]:
        report.add("a reader's trouble", problem, "none", False)
    report.pictures["growth"] = charts.lines(
        f"The server's memory over answers of {settings.tokens} tokens, each read with two cuts",
        "answers",
        "MiB",
        curves,
    )
    return report


def slope(points: Sequence[tuple[float, float]]) -> float:
    """What a straight line through the points rises by, one step of x: least squares. 0 for a single point."""
    if len(points) < 2:
        return 0.0
    mid_x = sum(x for x, _ in points) / len(points)
    mid_y = sum(y for _, y in points) / len(points)
    across = sum((x - mid_x) ** 2 for x, _ in points)
    return sum((x - mid_x) * (y - mid_y) for x, y in points) / across if across else 0.0


def _grow(postgres: Postgres, revision: Revision, settings: Settings) -> Curve:
    looks: list[tuple[int, int]] = []
    with (
        postgres.database(revision=revision) as database,
        serving(database.app_url, revision=revision) as server,
        helper("cut_readers") as readers,
        bar(f"growth, {revision.name}", settings.answers) as show,
    ):
        began = time.monotonic()
        readers.tell(
            port=server.port,
            answers=settings.answers,
            at_once=settings.at_once,
            tokens=settings.tokens,
            rate=settings.rate,
        )
        due = settings.every
        while "ended" in (word := readers.answer(SILENT_SECONDS)):
            show(word["ended"], f"{word['ended']:,} answers")
            if word["ended"] >= due:
                looks.append((word["ended"], pss(server.pid)))
                due += settings.every
        seconds = time.monotonic() - began
        resident = rss(server.pid)
        if not looks or looks[-1][0] < settings.answers:
            looks.append((settings.answers, pss(server.pid)))
        settle(server.pid)
        return Curve(looks, resident, pss(server.pid), seconds, word["problems"])


BENCHMARK = Benchmark(
    "growth",
    "memory over thousands of answers",
    Settings(),
    {"answers": 24, "tokens": 12, "rate": 200.0, "at_once": 4, "every": 6},
    measure,
)
