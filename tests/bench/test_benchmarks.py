"""Every benchmark runs with tiny settings, loses nothing, and leaves a table, data and pictures.

Nothing is said about speed: no figure of a machine that does other things too means anything.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench.benchmark import Benchmark, markdown_table, write_report
from bench.benchmarks import ALL
from bench.harness.postgres import Postgres

LONG = frozenset({"capacity", "durability", "fanout", "job-polling", "replay", "snapshot-polling"})
"""These take longest, and use the same parts as the others."""


def _mark(one: Benchmark[Any]) -> Any:
    return pytest.param(one, id=one.name, marks=[pytest.mark.soak] if one.name in LONG else [])


@pytest.mark.usefixtures("forked_servers", "short_waits")
@pytest.mark.timeout(300)  # some start PostgreSQL or a server several times over
@pytest.mark.parametrize("one", [_mark(one) for one in ALL])
def test_benchmark_runs_and_writes_its_report(
    one: Benchmark[Any], bench_postgres: Postgres, tmp_path: Path
) -> None:
    settings = dataclasses.replace(one.settings, **one.quick)
    report = one.run(bench_postgres, settings)
    assert report.rows
    for row in report.rows:
        assert "problem" not in row.what, row.figure
        if row.what == "lost or repeated":
            assert row.holds, row.figure
    write_report(one, settings, report, tmp_path, quick=True)
    written = json.loads((tmp_path / f"{one.name}.json").read_text())
    assert written["name"] == one.name
    assert written["data"]
    assert len(written["rows"]) == len(report.rows)
    assert len(markdown_table(report).splitlines()) == len(report.rows) + 2
    assert report.pictures
    for name in report.pictures:
        ElementTree.parse(tmp_path / f"{name}.svg")  # our own
    assert bench_postgres.sql("SELECT count(*) FROM pg_database WHERE datname LIKE 'bench%'") == "0"
