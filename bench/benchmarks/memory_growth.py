"""`memory-growth`: the server's memory over thousands of answers, each read with cuts; it has to level off.

What a process keeps of finished answers (states, tails, encoded events, places of generations) is bounded in
bytes. A bound that does not count all it holds shows here as a line that goes on rising. Memory is the server
process's own (PSS), sampled every so many answers while the next ones run.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.analysis import charts
from bench.analysis.comparison import Comparison, Measure
from bench.benchmark import Benchmark, Report, progress_bar
from bench.harness.child_process import child_process
from bench.harness.git_revision import NOW, Revision, revisions
from bench.harness.postgres import Postgres
from bench.harness.resource_usage import pss, rss, wait_until_quiet
from bench.harness.server_process import serving

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

    Memory is sampled after `every` so many answers. `against`: a former revision to compare with, one after the
    other.
    """

    answers: int = 3_000
    tokens: int = 125
    rate: float = 40.0
    at_once: int = 60
    every: int = 100
    against: str = ""


@dataclass(frozen=True, slots=True)
class Curve:
    """Memory in bytes: (answers, PSS) samples; RSS at the end; PSS at rest. And the seconds that it took."""

    samples: list[tuple[int, int]]
    rss: int
    rested: int
    seconds: float
    problems: list[str]


def measure(postgres: Postgres, settings: Settings) -> Report:
    """Measures one curve for each revision."""
    comparison = Comparison(MEASURES)
    report = Report()
    curves: dict[str, list[tuple[float, float]]] = {}
    problems: list[str] = []
    for revision in revisions(settings.against, postgres.folder):
        curve = _grow(postgres, revision, settings)
        curves[revision.name] = [(float(n), size / MIB) for n, size in curve.samples]
        third = max(2, len(curve.samples) // 3)
        values = (
            curve.samples[0][1] / MIB,
            curve.samples[-1][1] / MIB,
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
        report.add("a reader's problem", problem, "none", False)
    report.pictures["memory-growth"] = charts.lines(
        f"The server's memory over answers of {settings.tokens} tokens, each read with two cuts",
        "answers",
        "MiB",
        curves,
    )
    return report


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The slope of the least-squares line through the points; 0 for a single point."""
    if len(points) < 2:
        return 0.0
    mid_x = sum(x for x, _ in points) / len(points)
    mid_y = sum(y for _, y in points) / len(points)
    across = sum((x - mid_x) ** 2 for x, _ in points)
    return sum((x - mid_x) * (y - mid_y) for x, y in points) / across if across else 0.0


def _grow(postgres: Postgres, revision: Revision, settings: Settings) -> Curve:
    samples: list[tuple[int, int]] = []
    with (
        postgres.database(revision=revision) as database,
        serving(database.app_url, revision=revision) as server,
        child_process("interrupted_readers") as readers,
        progress_bar(f"memory-growth, {revision.name}", settings.answers) as show,
    ):
        began = time.monotonic()
        readers.send(
            port=server.port,
            answers=settings.answers,
            at_once=settings.at_once,
            tokens=settings.tokens,
            rate=settings.rate,
        )
        due = settings.every
        while "ended" in (answer := readers.receive(SILENT_SECONDS)):
            show(answer["ended"], f"{answer['ended']:,} answers")
            if answer["ended"] >= due:
                samples.append((answer["ended"], pss(server.pid)))
                due += settings.every
        seconds = time.monotonic() - began
        resident = rss(server.pid)
        if not samples or samples[-1][0] < settings.answers:
            samples.append((settings.answers, pss(server.pid)))
        wait_until_quiet(server.pid)
        return Curve(samples, resident, pss(server.pid), seconds, answer["problems"])


BENCHMARK = Benchmark(
    "memory-growth",
    "memory over thousands of answers",
    Settings(),
    {"answers": 24, "tokens": 12, "rate": 200.0, "at_once": 4, "every": 6},
    measure,
)
