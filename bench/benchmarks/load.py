"""`load`: many generations at once, one reader each. Is anything lost, how late is a token, what does it cost?

With a former revision beside it, each turn of each revision has a server and a database of its own. Owns the rows
and the comparison of such runs, which other benchmarks use as well.
"""

from dataclasses import dataclass
from itertools import product

from bench.analysis import charts
from bench.analysis.comparison import Comparison, Measure
from bench.analysis.percentiles import Summary, steps, summarise
from bench.analysis.token_delivery import Delivery, total_loss
from bench.benchmark import Benchmark, Report
from bench.harness.git_revision import NOW, revisions
from bench.harness.postgres import Postgres
from bench.harness.resource_usage import OTHERS
from bench.traffic import Outcome, Traffic, run, system_under_test

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
    """As `Traffic`. `against`: a former revision to compare with, in `turns`."""

    turns: int = 1
    against: str = ""


def measure(postgres: Postgres, settings: Settings) -> Report:
    """Runs once for each turn and revision. The detailed rows are those of this checkout's last run."""
    outcome, report = compare(postgres, settings, settings.turns, settings.against, "load")
    add_rows(report, outcome, settings, GOAL_MS)
    curves = {"all but the first": steps(outcome.delivery.between), "first tokens": steps(outcome.delivery.first)}
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
    """Runs the same traffic in turns. Returns this checkout's last outcome, and a report of both revisions.

    Without `against` the report has data, and no rows yet.
    """
    comparison = Comparison(MEASURES)
    outcomes: list[Outcome] = []
    for _, revision in product(range(turns), revisions(against, postgres.folder)):
        with (
            postgres.database(revision=revision) as database,
            system_under_test(database, None, revision) as system,
        ):
            outcome = run(system, traffic, f"{what}, {revision.name}" if against else what)
        between = summarise(outcome.delivery.between)
        first = summarise(outcome.delivery.first)
        costs = (outcome.cpu("server"), outcome.cpu("Postgres"), outcome.pss / 2**20)
        for one, value in zip(MEASURES, (between.p50, between.p99, first.p99, *costs), strict=True):
            if outcome.tokens or one.unit != "µs":  # in a run too short for a steady part, CPU was not measured
                comparison.note(revision.name, one.what, value)
        if revision.name == NOW:
            outcomes.append(outcome)
    report = Report(data=data_of(outcomes[-1]))
    if against:
        report.add_comparison(comparison)
    for earlier in outcomes[:-1]:
        add_loss(report, earlier.delivery)
    return outcomes[-1], report


def data_of(outcome: Outcome) -> dict[str, object]:
    """The results of a run, for programs."""
    return {
        "loss": outcome.delivery.loss,
        "problems": outcome.delivery.problems[:20],
        "late_readers": outcome.delivery.late_readers,
        "between_ms": summarise(outcome.delivery.between),
        "first_ms": summarise(outcome.delivery.first),
        "asked_to_first_ms": summarise(outcome.delivery.asked),
        "upstream_late_ms": summarise(outcome.late),
        "cpu_us_a_token": {name: outcome.cpu(name) for name in outcome.use},
        "busy_cores": {name: outcome.busy(name) for name in outcome.use},
        "busiest_process_cores": {name: one.busiest / outcome.seconds for name, one in outcome.use.items()},
        "rss_bytes": {name: one.rss for name, one in outcome.use.items()},
        "server_pss_bytes": outcome.pss,
        "tokens_a_second": outcome.tokens_a_second,
        "frames_a_chunk": outcome.delivery.frames_a_chunk,
    }


def add_loss(report: Report, *deliveries: Delivery) -> None:
    """Adds a row on whether all readers got everything, and rows for what else went wrong."""
    lost = total_loss(one.loss for one in deliveries)
    report.add("lost or repeated", str(lost), "nothing", lost.clean)
    for problem in sorted({problem for one in deliveries for problem in one.problems})[:3]:
        report.add("a reader's problem", problem, "none", False)


def add_rows(report: Report, outcome: Outcome, traffic: Traffic, goal_ms: float) -> None:
    """Adds the rows of one run."""
    between = summarise(outcome.delivery.between)
    add_loss(report, outcome.delivery)
    report.add("upstream to client", _ms(between), f"p99 < {goal_ms:.0f} ms", between.p99 < goal_ms)
    report.add("the same, a generation's first token", _ms(summarise(outcome.delivery.first)))
    if traffic.readers == 1:
        own = [ms - traffic.delay * 1000 for ms in outcome.delivery.asked]
        report.add("from the request to the first token, less the upstream's wait", _ms(summarise(own)))
    late = outcome.delivery.late_readers
    report.add("readers let in only after the first token", f"{late:,}", "none", not late)
    report.add("the upstream's own lateness", _ms(summarise(outcome.late)))
    report.add(
        "tokens/s, frames a chunk", f"{outcome.tokens_a_second:,.0f}, {outcome.delivery.frames_a_chunk:.2f}"
    )
    for name, one in outcome.use.items():
        if name == OTHERS:
            report.add("everything else on the machine", f"{outcome.busy(name):.2f} cores busy")
            continue
        busiest = f", its busiest process {one.busiest / outcome.seconds:.2f}" if name == "Postgres" else ""
        figure = f"{outcome.cpu(name):.0f} µs, {outcome.busy(name):.2f}{busiest}"
        report.add(f"{name}: CPU a token, cores busy", figure)
    report.add("server memory (PSS)", f"{outcome.pss / 2**20:,.0f} MiB")


def _ms(found: Summary) -> str:
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
