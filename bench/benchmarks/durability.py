"""`durability`: what commit before delivery costs a token: the same traffic with three kinds of commit, in turns.

- `on`: as the server commits, with fsync on this machine's disk.
- `off`: tokens are delivered before they are durable. The store sets `synchronous_commit=on` for its
  sessions, which no setting of a role or a URL overrides; so a trigger turns it off inside each append.
- `+3 ms`: a cloud disk. `commit_delay` with `commit_siblings=0` sleeps where a slow fsync would wait:
  in the flush of the log, once for all sessions that wait there, before they release their locks.
"""

from dataclasses import dataclass

from bench.analysis import charts
from bench.analysis.percentiles import Summary, summarise
from bench.analysis.token_delivery import Delivery
from bench.benchmark import Benchmark, Report
from bench.benchmarks.load import add_loss
from bench.harness.postgres import Database, Postgres
from bench.traffic import Traffic, run, system_under_test

OFF = """
CREATE FUNCTION public.bench_commits_later() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    RETURN NULL;
END $$;
CREATE TRIGGER bench_commits_later AFTER INSERT ON eventstore.events
    FOR EACH STATEMENT EXECUTE FUNCTION public.bench_commits_later();
"""
DELAY = {"commit_delay": "3000", "commit_siblings": "0"}
FSYNCS = "SELECT coalesce(sum(fsyncs), 0) FROM pg_stat_io WHERE object = 'wal'"


@dataclass(frozen=True, slots=True)
class Settings(Traffic):
    """As `Traffic`. `turns`: runs of each kind of commit."""

    generations: int = 20
    seconds: float = 10.0
    turns: int = 3


def measure(postgres: Postgres, settings: Settings) -> Report:
    """Runs each kind of commit, in turns."""
    first: dict[str, list[float]] = {}
    between: dict[str, list[float]] = {}
    fsyncs: dict[str, int] = {}
    deliveries: list[Delivery] = []
    for turn in range(settings.turns):
        for kind in ("on", "off", "+3 ms"):
            with postgres.database(DELAY if kind == "+3 ms" else None) as database:
                if kind == "off":
                    database.sql(OFF)
                before = _fsyncs(database)
                with system_under_test(database) as system:
                    outcome = run(system, settings, f"commits {kind}, turn {turn + 1} of {settings.turns}")
                # Read after the server's sessions have ended: a session reports its statistics up to a second
                # late.
                fsyncs[kind] = fsyncs.get(kind, 0) + _fsyncs(database) - before
            first.setdefault(kind, []).extend(outcome.delivery.first)
            between.setdefault(kind, []).extend(outcome.delivery.between)
            deliveries.append(outcome.delivery)
    report = Report()
    add_loss(report, *deliveries)
    for kind in first:
        one, rest = summarise(first[kind]), summarise(between[kind])
        seconds = (settings.seconds + settings.ramp) * settings.turns
        report.add(f"commits {kind}: a first token", _ms(one))
        report.add(f"commits {kind}: the tokens after it", f"{_ms(rest)}; {fsyncs[kind] / seconds:,.0f} fsyncs/s")
        report.data[kind] = {"first_ms": one, "between_ms": rest, "fsyncs": fsyncs[kind]}
    values = {
        f"{kind}, {name}": getattr(summarise(between[kind]), name) for kind in first for name in ("p50", "p99")
    }
    report.pictures["durability"] = charts.bars("From the upstream to the client, by kind of commit", "ms", values)
    return report


def _fsyncs(database: Database) -> int:
    return int(database.sql(FSYNCS))


def _ms(found: Summary) -> str:
    return f"p50 {found.p50:.1f}, p99 {found.p99:.1f} ms"


BENCHMARK = Benchmark(
    "durability",
    "commit before delivery, and what it costs",
    Settings(),
    {"generations": 2, "seconds": 2.0, "turns": 1, "ramp": 0.1, "delay": 0.2},
    measure,
)
