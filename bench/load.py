"""Many generations at once, one reader each: is anything lost, how late is a token, what does it cost?

With a former revision beside it, each turn of each has a server and a database of its own.
"""

from dataclasses import dataclass
from itertools import product

from bench.benchmark import Benchmark, Report
from bench.figures import charts
from bench.figures.comparison import Comparison, Measure
from bench.figures.loss import total
from bench.figures.percentiles import Spread, spread, steps
from bench.figures.verdict import Verdict
from bench.stand.database import Postgres
from bench.stand.revision import NOW, revisions
from bench.stand.watch import OTHERS
from bench.traffic import Outcome, Traffic, run, site

GOAL_MS = 100.0
MEASURES = (
    Measure("side by side: upstream to client, p50", "ms"),
    Measure("side by side: upstream to client, p99", "ms"),
    Measure("side by side: a generation's first token, p99", "ms"),
    Measure("side by side: server CPU a token", "µs"),
    Measure("side by side: Postgres CPU a token", "µs"),
    Measure("side by side: server memory (PSS)", "MiB"),
)


@dataclass(frozen=True, slots=True)
class Settings(Traffic):
    """As `Traffic`; `against` is a former revision to measure beside, in `turns`."""

    turns: int = 1
    against: str = ""


def measure(postgres: Postgres, settings: Settings) -> Report:
    """A run a turn and revision; the rows with more detail are those of the present one's last."""
    outcome, report = compare(postgres, settings, settings.turns, settings.against, "load")
    add_rows(report, outcome, settings, GOAL_MS)
    curves = {"all but the first": steps(outcome.verdict.between), "first tokens": steps(outcome.verdict.first)}
    report.pictures["load"] = charts.lines(
        f"From the upstream to the client, {settings.generations} generations x {settings.rate:g} tokens/s",
        "percentile",
        "ms",
        curves,
        goal=GOAL_MS,
        log_x=True,
    )
    return report


def compare(postgres: Postgres, traffic: Traffic, turns: int, against: str, what: str) -> tuple[Outcome, Report]:
    """Runs of the same traffic in turns: the present revision's last, and a report of both side by side.

    Without `against` the report has data, and no rows yet.
    """
    comparison = Comparison(MEASURES)
    outcomes: list[Outcome] = []
    for _, revision in product(range(turns), revisions(against, postgres.folder)):
        with postgres.database(revision=revision) as database, site(database, None, revision) as where:
            outcome = run(where, traffic, f"{what}, {revision.name}" if against else what)
        between = spread(outcome.verdict.between)
        first = spread(outcome.verdict.first)
        costs = (outcome.cpu("server"), outcome.cpu("Postgres"), outcome.pss / 2**20)
        for one, value in zip(MEASURES, (between.p50, between.p99, first.p99, *costs), strict=True):
            if outcome.tokens or one.unit != "µs":  # too short for a steady part: CPU was not measured
                comparison.note(revision.name, one.what, value)
        if revision.name == NOW:
            outcomes.append(outcome)
    report = Report(data=data_of(outcomes[-1]))
    if against:
        report.add_comparison(comparison)
    for earlier in outcomes[:-1]:
        add_loss(report, earlier.verdict)
    return outcomes[-1], report


def data_of(outcome: Outcome) -> dict[str, object]:
    """The figures of a run, for programs."""
    return {
        "loss": outcome.verdict.loss,
        "problems": outcome.verdict.problems[:20],
        "late_readers": outcome.verdict.late_readers,
        "between_ms": spread(outcome.verdict.between),
        "first_ms": spread(outcome.verdict.first),
        "asked_to_first_ms": spread(outcome.verdict.asked),
        "upstream_late_ms": spread(outcome.late),
        "cpu_us_a_token": {name: outcome.cpu(name) for name in outcome.use},
        "busy_cores": {name: outcome.busy(name) for name in outcome.use},
        "busiest_process_cores": {name: one.busiest / outcome.seconds for name, one in outcome.use.items()},
        "rss_bytes": {name: one.rss for name, one in outcome.use.items()},
        "server_pss_bytes": outcome.pss,
        "tokens_a_second": outcome.tokens_a_second,
        "frames_a_chunk": outcome.verdict.frames_a_chunk,
    }


def add_loss(report: Report, *verdicts: Verdict) -> None:
    """Whether all readers got everything, and what else went wrong."""
    lost = total(one.loss for one in verdicts)
    report.add("lost or repeated", str(lost), "nothing", lost.clean)
    for problem in sorted({problem for one in verdicts for problem in one.problems})[:3]:
        report.add("a reader's trouble", problem, "none", False)


def add_rows(report: Report, outcome: Outcome, traffic: Traffic, goal_ms: float) -> None:
    """The figures of a run, for people."""
    between = spread(outcome.verdict.between)
    add_loss(report, outcome.verdict)
    report.add("upstream to client", _ms(between), f"p99 < {goal_ms:.0f} ms", between.p99 < goal_ms)
    report.add("the same, a generation's first token", _ms(spread(outcome.verdict.first)))
    if traffic.readers == 1:
        own = [ms - traffic.delay * 1000 for ms in outcome.verdict.asked]
        report.add("from the request to the first token, less the upstream's wait", _ms(spread(own)))
    late = outcome.verdict.late_readers
    report.add("readers let in only after the first token", f"{late:,}", "none", not late)
    report.add("the upstream's own lateness", _ms(spread(outcome.late)))
    report.add("tokens/s, frames a chunk", f"{outcome.tokens_a_second:,.0f}, {outcome.verdict.frames_a_chunk:.2f}")
    for name, one in outcome.use.items():
        if name == OTHERS:
            report.add("everything else on the machine", f"{outcome.busy(name):.2f} cores busy")
            continue
        busiest = f", its busiest process {one.busiest / outcome.seconds:.2f}" if name == "Postgres" else ""
        figure = f"{outcome.cpu(name):.0f} µs, {outcome.busy(name):.2f}{busiest}"
        report.add(f"{name}: CPU a token, cores busy", figure)
    report.add("server memory (PSS)", f"{outcome.pss / 2**20:,.0f} MiB")


def _ms(found: Spread) -> str:
    if not found.count:
        return "none"
    return f"p50 {found.p50:.1f}, p90 {found.p90:.1f}, p99 {found.p99:.1f}, most {found.most:.1f} ms"


BENCHMARK = Benchmark(
    "load",
    "many generations at once",
    Settings(),
    {"generations": 5, "seconds": 2.0, "ramp": 0.2, "delay": 0.2},
    measure,
)
