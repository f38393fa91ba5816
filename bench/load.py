"""Many generations at once, one reader each: is anything lost, how late is a token, what does it cost?"""

from dataclasses import dataclass

from bench.benchmark import Benchmark, Report
from bench.figures import charts
from bench.figures.loss import total
from bench.figures.percentiles import Spread, spread, steps
from bench.figures.verdict import Verdict
from bench.stand.database import Postgres
from bench.stand.watch import OTHERS
from bench.traffic import Outcome, Traffic, run, site

GOAL_MS = 100.0


@dataclass(frozen=True, slots=True)
class Settings(Traffic):
    """As `Traffic`."""


def measure(postgres: Postgres, settings: Settings) -> Report:
    """One run."""
    with postgres.database() as database, site(database) as where:
        outcome = run(where, settings)
    report = Report(data=data_of(outcome))
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
