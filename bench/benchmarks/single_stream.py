"""`single-stream`: one answer and one reader alone. How much later does a token arrive than the provider sent it?

It is what one person feels in a chat; for many streams see `load`. Each turn has a server and a database of its
own, and the compared revisions take turns: a second server that is idle would wake now and then, and delay the
slowest percent of the tokens.
"""

from dataclasses import dataclass
from itertools import product

from bench.analysis import charts
from bench.analysis.comparison import Comparison, Measure
from bench.analysis.percentiles import steps, summarise
from bench.analysis.token_delivery import Delivery
from bench.benchmark import Benchmark, Report, progress_bar
from bench.benchmarks.load import add_loss
from bench.harness.git_revision import NOW, revisions
from bench.harness.postgres import Postgres
from bench.harness.resource_usage import wait_until_quiet
from bench.traffic import Traffic, run, system_under_test

GOAL_MS = 2.0
MEASURES = (
    Measure("added latency of a token, p50", "ms"),
    Measure("added latency of a token, p99", "ms", GOAL_MS),
    Measure("added latency of a token, most", "ms"),
    Measure("the upstream's own lateness, p99 (of it, if large, the machine was busy)", "ms"),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """`rate`: tokens a second, for `seconds` in each turn. `against`: a former revision to compare with."""

    rate: float = 20.0
    seconds: float = 60.0
    turns: int = 3
    against: str = ""


def measure(postgres: Postgres, settings: Settings) -> Report:
    """Runs one answer for each turn and revision. A row is the median of the turns' percentiles."""
    comparison = Comparison(MEASURES)
    deliveries: list[Delivery] = []
    latencies: dict[str, list[float]] = {}
    several = revisions(settings.against, postgres.folder)
    traffic = Traffic(1, settings.rate, settings.seconds, 1, ramp=0.0, delay=0.5)
    with progress_bar("single-stream", settings.turns * len(several)) as show:
        for done, (_, revision) in enumerate(product(range(settings.turns), several)):
            show(done, revision.name)
            with (
                postgres.database(revision=revision) as database,
                system_under_test(database, None, revision) as system,
            ):
                wait_until_quiet(system.server.pid)
                outcome = run(system, traffic, f"single-stream, {revision.name}")
            own = outcome.delivery.between
            found = summarise(own)
            latencies.setdefault(revision.name, []).extend(own)
            for what, value in zip(
                MEASURES, (found.p50, found.p99, found.most, summarise(outcome.late).p99), strict=True
            ):
                comparison.note(revision.name, what.what, value)
            if revision.name == NOW:
                deliveries.append(outcome.delivery)
    report = Report()
    report.add_comparison(comparison)
    add_loss(report, *deliveries)
    report.pictures["single-stream"] = charts.lines(
        f"From the upstream to the client, one stream of {settings.rate:g} tokens/s",
        "percentile",
        "ms",
        {name: steps(values) for name, values in latencies.items()},
        goal=GOAL_MS,
        log_x=True,
    )
    return report


BENCHMARK = Benchmark(
    "single-stream", "one stream alone: added latency", Settings(), {"seconds": 1.5, "turns": 1}, measure
)
