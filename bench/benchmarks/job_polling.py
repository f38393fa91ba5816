"""`job-polling`: one job, polled by one client and by many, in turns.

Measures the polls, and checks that the provider is asked once, however many clients poll.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.analysis import charts
from bench.analysis.percentiles import summarise
from bench.benchmark import Benchmark, Report, progress_bar
from bench.harness.poll_clients import PollPlan, Rows, poll
from bench.harness.postgres import Postgres
from bench.harness.raw_http import send_request
from bench.traffic import SystemUnderTest, system_under_test


@dataclass(frozen=True, slots=True)
class Settings:
    """In each turn one job is polled by one client, then another by `crowd` clients. `rate`: tokens a second."""

    crowd: int = 200
    rate: float = 50.0
    seconds: float = 5.0
    turns: int = 3


WAYS = (("without a pause", 0.0, False), ("every second, with ETag", 1.0, True))


def measure(postgres: Postgres, settings: Settings) -> Report:
    """Polls with one client and with many, each way, in turns."""
    found: dict[tuple[int, str], Rows] = {}
    asked: dict[tuple[int, str], list[int]] = {}
    crowds = (1, settings.crowd)
    with (
        postgres.database() as database,
        system_under_test(database) as system,
        progress_bar("job-polling", settings.turns * len(crowds) * len(WAYS)) as show,
    ):
        done = 0
        for _ in range(settings.turns):
            for name, pause, etag in WAYS:
                for crowd in crowds:
                    before = _provider_requests(system)
                    path = _start_job(system, settings, done)
                    rows = poll(system.server, PollPlan(path, crowd, settings.seconds, pause, etag)).rows
                    send_request(system.server, "POST", f"{path}/cancel", body={})
                    found.setdefault((crowd, name), []).extend(rows)
                    asked.setdefault((crowd, name), []).append(_provider_requests(system) - before)
                    done += 1
                    show(done, f"{crowd} {name}")
    return _report(found, asked, settings)


def _start_job(system: SystemUnderTest, settings: Settings, number: int) -> str:
    tokens = round(
        settings.rate * settings.seconds * 10
    )  # more than the pollers will see; the job is cancelled after them
    script = {"run": "jobs", "stream": number, "rate": settings.rate, "tokens": tokens, "delay": 0}
    text = msgspec.json.encode(script).decode()
    asked = send_request(system.server, "POST", "/v1/generations", body={"model": "openai/bench", "input": text})
    return f"/v1/generations/{msgspec.json.decode(asked.body)['id']}"


def _provider_requests(system: SystemUnderTest) -> int:
    """How many requests have reached the provider."""
    with tempfile.TemporaryDirectory() as folder:
        system.upstream.send(do="log", path=str(Path(folder) / "log"))
        return int(system.upstream.wait_for("written", 10)["asked"])


def _report(
    found: dict[tuple[int, str], Rows], asked: dict[tuple[int, str], list[int]], settings: Settings
) -> Report:
    report = Report()
    rates: dict[str, float] = {}
    for (crowd, name), rows in found.items():
        times = summarise([ms for _, ms, _ in rows])
        rate = len(rows) / (settings.seconds * settings.turns)
        calls = asked[crowd, name]
        statuses = {status for _, _, status in rows}
        figure = f"{rate:,.0f}/s, p50 {times.p50:.1f}, p99 {times.p99:.1f} ms; upstream asked {set(calls)} times"
        good = set(calls) == {1} and not statuses - {200, 304}
        report.add(f"jobs: {crowd} polling, {name}", figure, "the upstream is asked once", good)
        rates[f"{crowd}, {name}"] = rate
        report.data[f"{crowd}, {name}"] = {"a_second": rate, "ms": times, "asked": calls}
    report.pictures["job-polling"] = charts.bars("Polls of one job", "requests/s", rates)
    return report


BENCHMARK = Benchmark(
    "job-polling", "one job, polled by many", Settings(), {"crowd": 4, "seconds": 1.0, "turns": 1}, measure
)
