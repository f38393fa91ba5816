"""One answer and one reader, nothing else: how much later a token arrives than the upstream sent it.

What a chat of one person feels, and what is compared with other servers; under load see `load`. Each turn has a
server and a database of its own, and the compared revisions take turns; a server that is idle beside the other one
would wake now and then, and that is what the last percent is made of.
"""

from dataclasses import dataclass
from itertools import product

from bench.benchmark import Benchmark, Report
from bench.figures import charts
from bench.figures.comparison import Comparison, Measure
from bench.figures.percentiles import spread, steps
from bench.figures.verdict import Verdict
from bench.load import add_loss
from bench.stand.database import Postgres
from bench.stand.proc import settle
from bench.stand.progress import bar
from bench.stand.revision import NOW, revisions
from bench.traffic import Traffic, run, site

GOAL_MS = 2.0
MEASURES = (
    Measure("added latency of a token, p50", "ms"),
    Measure("added latency of a token, p99", "ms", GOAL_MS),
    Measure("added latency of a token, most", "ms"),
    Measure("the upstream's own lateness, p99 (of it, if large, the machine was busy)", "ms"),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """`rate` in tokens a second, for `seconds` a turn. `against` is a former revision to measure beside."""

    rate: float = 20.0
    seconds: float = 60.0
    turns: int = 3
    against: str = ""


def measure(postgres: Postgres, settings: Settings) -> Report:
    """An answer a turn and revision; the figures of a turn are percentiles of its tokens, the row their median."""
    comparison = Comparison(MEASURES)
    verdicts: list[Verdict] = []
    latencies: dict[str, list[float]] = {}
    several = revisions(settings.against, postgres.folder)
    traffic = Traffic(1, settings.rate, settings.seconds, 1, ramp=0.0, delay=0.5)
    with bar("alone", settings.turns * len(several)) as show:
        for done, (_, revision) in enumerate(product(range(settings.turns), several)):
            show(done, revision.name)
            with postgres.database(revision=revision) as database, site(database, None, revision) as where:
                settle(where.server.pid)
                outcome = run(where, traffic, f"alone, {revision.name}")
            own = outcome.verdict.between
            found = spread(own)
            latencies.setdefault(revision.name, []).extend(own)
            for what, value in zip(
                MEASURES, (found.p50, found.p99, found.most, spread(outcome.late).p99), strict=True
            ):
                comparison.note(revision.name, what.what, value)
            if revision.name == NOW:
                verdicts.append(outcome.verdict)
    report = Report()
    report.add_comparison(comparison)
    add_loss(report, *verdicts)
    report.pictures["alone"] = charts.lines(
        f"From the upstream to the client, one stream of {settings.rate:g} tokens/s",
        "percentile",
        "ms",
        {name: steps(values) for name, values in latencies.items()},
        goal=GOAL_MS,
        log_x=True,
    )
    return report


BENCHMARK = Benchmark(
    "alone", "one stream alone: added latency", Settings(), {"seconds": 1.5, "turns": 1}, measure
)
