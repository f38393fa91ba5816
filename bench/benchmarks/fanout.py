"""`fanout`: one generation and very many readers. Does everyone get every token, and how late?"""

from dataclasses import dataclass

from bench.analysis import charts
from bench.analysis.percentiles import steps
from bench.benchmark import Benchmark, Report
from bench.benchmarks.load import add_rows, compare
from bench.harness.postgres import Postgres
from bench.traffic import Traffic

GOAL_MS = 250.0


@dataclass(frozen=True, slots=True)
class Settings(Traffic):
    """As `Traffic`. `delay`: long enough for all readers to be connected before the first token.

    `against`: a former revision to compare with, in `turns`.
    """

    generations: int = 1
    readers: int = 500
    seconds: float = 20.0
    ramp: float = 0.0
    delay: float = 5.0
    turns: int = 1
    against: str = ""


def measure(postgres: Postgres, settings: Settings) -> Report:
    """Runs once for each turn and revision. The detailed rows are those of this checkout's last run."""
    outcome, report = compare(postgres, settings, settings.turns, settings.against, "fanout")
    add_rows(report, outcome, settings, GOAL_MS)
    delivered = outcome.cpu("server") / settings.readers
    report.add("server: CPU a token and reader", f"{delivered:.1f} µs")
    report.data["cpu_us_a_token_and_reader"] = delivered
    report.pictures["fanout"] = charts.lines(
        f"From the upstream to each of {settings.readers} readers of one generation",
        "percentile",
        "ms",
        {"all tokens": steps(outcome.delivery.between + outcome.delivery.first)},
        goal=GOAL_MS,
        log_x=True,
    )
    return report


BENCHMARK = Benchmark(
    "fanout", "one generation, many readers", Settings(), {"readers": 20, "seconds": 2.0, "delay": 1.0}, measure
)
