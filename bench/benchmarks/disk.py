"""`disk`: what a token costs on disk, in the tables and their indexes and in the write-ahead log."""

from dataclasses import dataclass

from bench.analysis import charts
from bench.benchmark import Benchmark, Report
from bench.benchmarks.load import add_loss
from bench.harness.postgres import Database, Postgres
from bench.traffic import Traffic, run, system_under_test

TABLES = """
SELECT c.relname, pg_table_size(c.oid), pg_indexes_size(c.oid)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'eventstore' AND c.relkind = 'r' ORDER BY 1
"""
WAL = "SELECT wal_bytes, wal_fpi, wal_records FROM pg_stat_wal"


@dataclass(frozen=True, slots=True)
class Settings(Traffic):
    """As `Traffic`, so that tokens are committed in batches as in production."""

    generations: int = 40
    seconds: float = 20.0


def measure(postgres: Postgres, settings: Settings) -> Report:
    """Runs once, and compares the sizes before and after."""
    with postgres.database() as database:
        with system_under_test(database) as system:
            database.sql("CHECKPOINT")  # else chance decides which pages the write-ahead log contains whole
            before, log = _sizes(database), _wal(database)
            outcome = run(system, settings, "disk")
            after, grown = _sizes(database), [new - old for new, old in zip(_wal(database), log, strict=True)]
    report = Report()
    tokens = settings.generations * settings.tokens
    parts = {name: (size - before.get(name, 0)) / tokens for name, size in after.items()}
    whole = sum(parts.values())
    add_loss(report, outcome.delivery)
    report.add("tables and indexes", f"{whole:.0f} bytes a token")
    for name, size in sorted(parts.items(), key=lambda item: -item[1]):
        if size >= 0.5:
            report.add(name, f"{size:.0f} bytes a token")
    bytes_, whole_pages, records = grown
    report.add(
        "write-ahead log",
        f"{bytes_ / tokens:.0f} bytes a token, {records / tokens:.1f} records; {whole_pages:,} whole pages in all",
    )
    report.data = {"tokens": tokens, "bytes_a_token": parts, "wal_bytes_a_token": bytes_ / tokens}
    report.pictures["disk"] = charts.bars(
        "Bytes of a token on disk", "bytes", {"tables and indexes": whole, "write-ahead log": bytes_ / tokens}
    )
    return report


def _sizes(database: Database) -> dict[str, int]:
    found: dict[str, int] = {}
    for line in database.sql(TABLES).splitlines():
        name, table, indexes = line.split("|")
        found[f"table {name}"] = int(table)
        found[f"indexes of {name}"] = int(indexes)
    return found


def _wal(database: Database) -> list[int]:
    return [int(float(word)) for word in database.sql(WAL).split("|")]


BENCHMARK = Benchmark(
    "disk",
    "bytes on disk a token",
    Settings(),
    {"generations": 4, "seconds": 2.0, "ramp": 0.1, "delay": 0.2},
    measure,
)
