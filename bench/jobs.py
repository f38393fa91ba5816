"""A job polled by one, and by a crowd, in turns: what that costs, and that the upstream does not hear of it."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.benchmark import Benchmark, Report
from bench.figures import charts
from bench.figures.percentiles import spread
from bench.stand.database import Postgres
from bench.stand.http import ask
from bench.stand.polling import Asking, Rows, poll
from bench.stand.progress import bar
from bench.traffic import Site, site


@dataclass(frozen=True, slots=True)
class Settings:
    """Each turn is a job of its own for one poller, then one for `crowd`; `rate` in tokens a second."""

    crowd: int = 200
    rate: float = 50.0
    seconds: float = 5.0
    turns: int = 3


WAYS = (("without a pause", 0.0, False), ("every second, with ETag", 1.0, True))


def measure(postgres: Postgres, settings: Settings) -> Report:
    """One poller and the crowd, each way, taking turns."""
    found: dict[tuple[int, str], Rows] = {}
    asked: dict[tuple[int, str], list[int]] = {}
    crowds = (1, settings.crowd)
    with (
        postgres.database() as database,
        site(database) as where,
        bar("jobs", settings.turns * len(crowds) * len(WAYS)) as show,
    ):
        done = 0
        for _ in range(settings.turns):
            for name, pause, etag in WAYS:
                for crowd in crowds:
                    before = _asked(where)
                    path = _begin(where, settings, done)
                    rows = poll(where.server, Asking(path, crowd, settings.seconds, pause, etag)).rows
                    ask(where.server, "POST", f"{path}/cancel", body={})
                    found.setdefault((crowd, name), []).extend(rows)
                    asked.setdefault((crowd, name), []).append(_asked(where) - before)
                    done += 1
                    show(done, f"{crowd} {name}")
    return _report(found, asked, settings)


def _begin(where: Site, settings: Settings, number: int) -> str:
    tokens = round(settings.rate * settings.seconds * 10)  # more than the pollers will see: cancelled after them
    script = {"run": "jobs", "stream": number, "rate": settings.rate, "tokens": tokens, "delay": 0}
    said = msgspec.json.encode(script).decode()
    asked = ask(where.server, "POST", "/v1/generations", body={"model": "openai/bench", "input": said})
    return f"/v1/generations/{msgspec.json.decode(asked.body)['id']}"


def _asked(where: Site) -> int:
    """Requests that have reached the upstream."""
    with tempfile.TemporaryDirectory() as folder:
        where.upstream.tell(do="log", path=str(Path(folder) / "log"))
        return int(where.upstream.until("written", 10)["asked"])


def _report(
    found: dict[tuple[int, str], Rows], asked: dict[tuple[int, str], list[int]], settings: Settings
) -> Report:
    report = Report()
    rates: dict[str, float] = {}
    for (crowd, name), rows in found.items():
        times = spread([ms for _, ms, _ in rows])
        rate = len(rows) / (settings.seconds * settings.turns)
        calls = asked[crowd, name]
        statuses = {status for _, _, status in rows}
        figure = f"{rate:,.0f}/s, p50 {times.p50:.1f}, p99 {times.p99:.1f} ms; upstream asked {set(calls)} times"
        good = set(calls) == {1} and not statuses - {200, 304}
        report.add(f"jobs: {crowd} polling, {name}", figure, "the upstream is asked once", good)
        rates[f"{crowd}, {name}"] = rate
        report.data[f"{crowd}, {name}"] = {"a_second": rate, "ms": times, "asked": calls}
    report.pictures["jobs"] = charts.bars("Polls of one job", "requests/s", rates)
    return report


BENCHMARK = Benchmark(
    "jobs", "one job, polled by many", Settings(), {"crowd": 4, "seconds": 1.0, "turns": 1}, measure
)
