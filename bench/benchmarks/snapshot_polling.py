"""`snapshot-polling`: polls of a running generation's snapshot.

A few clients poll without a pause, many poll once a second, in turns. One generation grows all the time, one is
silent; the silent one shows what `If-None-Match` saves (304).
"""

import time
from collections import Counter, defaultdict
from dataclasses import dataclass

import msgspec

from bench.analysis import charts
from bench.analysis.percentiles import summarise
from bench.benchmark import Benchmark, Report, progress_bar
from bench.harness.poll_clients import PollPlan, Rows, poll
from bench.harness.postgres import Postgres
from bench.harness.raw_http import send_request
from bench.harness.resource_usage import cpu_clock
from bench.traffic import SystemUnderTest, system_under_test


@dataclass(frozen=True, slots=True)
class Settings:
    """`pollers` poll without a pause, `patient` ones once a second. Each way lasts `seconds`, `turns` times."""

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
    """Polls in all ways, in turns, two generations that run throughout: a growing one and a silent one."""
    found: dict[str, Rows] = {}
    cpu: dict[str, float] = defaultdict(float)
    done = 0
    with (
        postgres.database() as database,
        system_under_test(database, {"TOKENTAPE_UPSTREAM_STALL": "3600"}) as system,
        progress_bar("snapshot-polling", settings.turns * len(WAYS)) as show,
    ):
        paths = {
            "growing": _start_generation(system, {"rate": settings.rate, "tokens": 1_000_000, "delay": 0}),
            "silent": _start_generation(system, {"rate": 1, "tokens": 1, "delay": 86_400}),
        }
        before = cpu_clock(system.server.pid)
        time.sleep(settings.seconds)
        alone = cpu_clock(system.server.pid) - before  # what the generations cost without any poller
        for _ in range(settings.turns):
            for which, etag, patient in WAYS:
                pace = "once a second" if patient else "without a pause"
                name = f"{which}, {'with' if etag else 'no'} ETag, {pace}"
                crowd, pause = (settings.patient, 1.0) if patient else (settings.pollers, 0.0)
                polled = poll(system.server, PollPlan(paths[which], crowd, settings.seconds, pause, etag))
                found.setdefault(name, []).extend(polled.rows)
                cpu[name] += polled.server_cpu - alone
                done += 1
                show(done, name)
        for path in paths.values():
            send_request(system.server, "POST", f"{path}/cancel", body={})
    return _report(found, cpu, settings)


def _start_generation(system: SystemUnderTest, script: dict[str, object]) -> str:
    """Starts a generation. Returns its snapshot's path."""
    text = msgspec.json.encode({"run": "polls", "stream": script["delay"], **script}).decode()
    asked = send_request(system.server, "POST", "/v1/generations", body={"model": "openai/bench", "input": text})
    return f"/v1/generations/{msgspec.json.decode(asked.body)['id']}"


def _report(found: dict[str, Rows], cpu: dict[str, float], settings: Settings) -> Report:
    report = Report()
    rates: dict[str, float] = {}
    for name, rows in found.items():
        statuses = Counter(status for _, _, status in rows)
        times = summarise([ms for _, ms, _ in rows])
        rates[name] = len(rows) / (settings.seconds * settings.turns)
        counts = ", ".join(f"{count:,} x {status}" for status, count in sorted(statuses.items()))
        micros = cpu[name] / max(1, len(rows)) * 1e6
        figure = (
            f"{rates[name]:,.0f}/s, p50 {times.p50:.1f}, p99 {times.p99:.1f} ms, "
            f"{micros:.0f} µs CPU each ({counts})"
        )
        good = not statuses.keys() - {200, 304}
        report.add(f"polls: {name}", figure, "200 or 304", good)
        report.data[name] = {"a_second": rates[name], "ms": times, "statuses": statuses, "cpu_us": micros}
    fast = {name: rate for name, rate in rates.items() if "without" in name}
    report.pictures["snapshot-polling"] = charts.bars("Polls of a running generation", "requests/s", fast)
    return report


BENCHMARK = Benchmark(
    "snapshot-polling",
    "pollers of a running generation",
    Settings(),
    {"pollers": 2, "patient": 4, "seconds": 1.0, "turns": 1},
    measure,
)
