"""What "durable, then visible" costs a token: the same traffic with three kinds of commit, taking turns.

- `on`: as the server does it; fsync as fast as this machine's disk.
- `off`: tokens leave before they are durable. The store sets `synchronous_commit=on` for its sessions, which no
  role's or URL's setting overrides; so a trigger turns it off inside each appending transaction.
- `+3 ms`: a cloud disk. `commit_delay` with `commit_siblings=0` sleeps where a slow fsync would wait: in the
  flush of the log, once for all who wait there, before their locks are let go.
"""

from dataclasses import dataclass

from bench.benchmark import Benchmark, Report
from bench.figures import charts
from bench.figures.percentiles import Spread, spread
from bench.figures.verdict import Verdict
from bench.load import add_loss
from bench.stand.database import Database, Postgres
from bench.traffic import Traffic, run, site

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
    """As `Traffic`; each kind has `turns`."""

    generations: int = 20
    seconds: float = 10.0
    turns: int = 3


def measure(postgres: Postgres, settings: Settings) -> Report:
    """All kinds, in turns."""
    first: dict[str, list[float]] = {}
    between: dict[str, list[float]] = {}
    fsyncs: dict[str, int] = {}
    verdicts: list[Verdict] = []
    for turn in range(settings.turns):
        for kind in ("on", "off", "+3 ms"):
            with postgres.database(DELAY if kind == "+3 ms" else None) as database:
                if kind == "off":
                    database.sql(OFF)
                before = _fsyncs(database)
                with site(database) as where:
                    outcome = run(where, settings, f"commits {kind}, turn {turn + 1} of {settings.turns}")
                # Now that its sessions have ended: a session tells what it did a second late.
                fsyncs[kind] = fsyncs.get(kind, 0) + _fsyncs(database) - before
            first.setdefault(kind, []).extend(outcome.verdict.first)
            between.setdefault(kind, []).extend(outcome.verdict.between)
            verdicts.append(outcome.verdict)
    report = Report()
    add_loss(report, *verdicts)
    for kind in first:
        one, rest = spread(first[kind]), spread(between[kind])
        seconds = (settings.seconds + settings.ramp) * settings.turns
        report.add(f"commits {kind}: a first token", _ms(one))
        report.add(f"commits {kind}: the tokens after it", f"{_ms(rest)}; {fsyncs[kind] / seconds:,.0f} fsyncs/s")
        report.data[kind] = {"first_ms": one, "between_ms": rest, "fsyncs": fsyncs[kind]}
    values = {f"{kind}, {name}": getattr(spread(between[kind]), name) for kind in first for name in ("p50", "p99")}
    report.pictures["durability"] = charts.bars("From the upstream to the client, by kind of commit", "ms", values)
    return report


def _fsyncs(database: Database) -> int:
    return int(database.sql(FSYNCS))


def _ms(found: Spread) -> str:
    return f"p50 {found.p50:.1f}, p99 {found.p99:.1f} ms"


BENCHMARK = Benchmark(
    "durability",
    "commit before delivery, and what it costs",
    Settings(),
    {"generations": 2, "seconds": 2.0, "turns": 1, "ramp": 0.1, "delay": 0.2},
    measure,
)
