"""Polling the snapshot of a running generation, as fast as it goes and once a second by many, taking turns.

One generation grows all the time, one is silent; the second is what `If-None-Match` is for (304).
"""

import time
from collections import Counter, defaultdict
from dataclasses import dataclass

import msgspec

from bench.benchmark import Benchmark, Report
from bench.figures import charts
from bench.figures.percentiles import spread
from bench.stand.database import Postgres
from bench.stand.http import ask
from bench.stand.polling import Asking, Rows, poll
from bench.stand.proc import cpu_clock
from bench.stand.progress import bar
from bench.traffic import Site, site


@dataclass(frozen=True, slots=True)
class Settings:
    """`pollers` ask without a pause, `patient` ones once a second; each way lasts `seconds`, `turns` times."""

    pollers: int = 32
    patient: int = 400
    rate: float = 50.0
    seconds: float = 5.0
    turns: int = 3


WAYS = tuple(
    (which, etag, patient)
    for which, etag in (("growing", False), ("growing", True), ("silent", True))
    for patient in (False, True)
)


def measure(postgres: Postgres, settings: Settings) -> Report:
    """All ways, in turns, on two generations that run throughout: one that grows and one that is silent."""
    found: dict[str, Rows] = {}
    cpu: dict[str, float] = defaultdict(float)
    done = 0
    with (
        postgres.database() as database,
        site(database, {"TOKENTAPE_UPSTREAM_STALL": "3600"}) as where,
        bar("polls", settings.turns * len(WAYS)) as show,
    ):
        paths = {
            "growing": _begin(where, {"rate": settings.rate, "tokens": 1_000_000, "delay": 0}),
            "silent": _begin(where, {"rate": 1, "tokens": 1, "delay": 86_400}),
        }
        before = cpu_clock(where.server.pid)
        time.sleep(settings.seconds)
        alone = cpu_clock(where.server.pid) - before  # what the generations themselves cost in that time
        for _ in range(settings.turns):
            for which, etag, patient in WAYS:
                pace = "once a second" if patient else "without a pause"
                name = f"{which}, {'with' if etag else 'no'} ETag, {pace}"
                crowd, pause = (settings.patient, 1.0) if patient else (settings.pollers, 0.0)
                polled = poll(where.server, Asking(paths[which], crowd, settings.seconds, pause, etag))
                found.setdefault(name, []).extend(polled.rows)
                cpu[name] += polled.server_cpu - alone
                done += 1
                show(done, name)
        for path in paths.values():
            ask(where.server, "POST", f"{path}/cancel", body={})
    return _report(found, cpu, settings)


def _begin(where: Site, script: dict[str, object]) -> str:
    """Starts a generation; its snapshot's path."""
    said = msgspec.json.encode({"run": "polls", "stream": script["delay"], **script}).decode()
    asked = ask(where.server, "POST", "/v1/generations", body={"model": "openai/bench", "input": said})
    return f"/v1/generations/{msgspec.json.decode(asked.body)['id']}"


def _report(found: dict[str, Rows], cpu: dict[str, float], settings: Settings) -> Report:
    report = Report()
    rates: dict[str, float] = {}
    for name, rows in found.items():
        statuses = Counter(status for _, _, status in rows)
        times = spread([ms for _, ms, _ in rows])
        rates[name] = len(rows) / (settings.seconds * settings.turns)
        said = ", ".join(f"{count:,} x {status}" for status, count in sorted(statuses.items()))
        micros = cpu[name] / max(1, len(rows)) * 1e6
        figure = (
            f"{rates[name]:,.0f}/s, p50 {times.p50:.1f}, p99 {times.p99:.1f} ms, {micros:.0f} µs CPU each ({said})"
        )
        good = not statuses.keys() - {200, 304}
        report.add(f"polls: {name}", figure, "200 or 304", good)
        report.data[name] = {"a_second": rates[name], "ms": times, "statuses": statuses, "cpu_us": micros}
    fast = {name: rate for name, rate in rates.items() if "without" in name}
    report.pictures["polls"] = charts.bars("Polls of a running generation", "requests/s", fast)
    return report


BENCHMARK = Benchmark(
    "polls",
    "pollers of a running generation",
    Settings(),
    {"pollers": 2, "patient": 4, "seconds": 1.0, "turns": 1},
    measure,
)
