"""One generation and very many readers: everybody gets every token, soon."""

from dataclasses import dataclass

from bench.benchmark import Benchmark, Report
from bench.figures import charts
from bench.figures.percentiles import steps
from bench.load import add_rows, compare
from bench.stand.database import Postgres
from bench.traffic import Traffic

GOAL_MS = 250.0


@dataclass(frozen=True, slots=True)
class Settings(Traffic):
    """As `Traffic`. `delay` is long enough for all readers to be there before the first token.

    `against` is a former revision to measure beside, in `turns`.
    """

    generations: int = 1
    readers: int = 500
    seconds: float = 20.0
    ramp: float = 0.0
    delay: float = 5.0
    turns: int = 1
    against: str = ""


def measure(postgres: Postgres, settings: Settings) -> Report:
    """A run a turn and revision; the rows with more detail are those of the present one's last."""
    outcome, report = compare(postgres, settings, settings.turns, settings.against, "fanout")
    add_rows(report, outcome, settings, GOAL_MS)
    delivered = outcome.cpu("server") / settings.readers
    report.add("server: CPU a token and reader", f"{delivered:.1f} µs")
    report.data["cpu_us_a_token_and_reader"] = delivered
    report.pictures["fanout"] = charts.lines(
        f"From the upstream to each of {settings.readers} readers of one generation",
        "percentile",
        "ms",
        {"all tokens": steps(outcome.verdict.between + outcome.verdict.first)},
        goal=GOAL_MS,
        log_x=True,
    )
    return report


BENCHMARK = Benchmark(
    "fanout", "one generation, many readers", Settings(), {"readers": 20, "seconds": 2.0, "delay": 1.0}, measure
)
