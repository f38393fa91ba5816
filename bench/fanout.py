"""One generation and very many readers: everybody gets every token, soon."""

from dataclasses import dataclass

from bench.benchmark import Benchmark, Report
from bench.figures import charts
from bench.figures.percentiles import steps
from bench.load import add_rows, data_of
from bench.stand.database import Postgres
from bench.traffic import Traffic, run, site

GOAL_MS = 250.0


@dataclass(frozen=True, slots=True)
class Settings(Traffic):
    """As `Traffic`. `delay` is long enough for all readers to be there before the first token."""

    generations: int = 1
    readers: int = 500
    seconds: float = 20.0
    ramp: float = 0.0
    delay: float = 5.0


def measure(postgres: Postgres, settings: Settings) -> Report:
    """One run."""
    with postgres.database() as database, site(database) as where:
        outcome = run(where, settings, "fanout")
    report = Report(data=data_of(outcome))
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
