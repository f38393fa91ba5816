"""`replay`: a finished generation read again: events a second to one reader, over every transport, warm and cold.

Cold: the server and PostgreSQL have just been started, so their caches are empty (the machine's file cache is
not).
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import msgspec

from bench.analysis import charts
from bench.analysis.comparison import Comparison, Measure
from bench.analysis.sse_recording import parse_recording
from bench.benchmark import Benchmark, Report
from bench.harness.git_revision import Revision, revisions
from bench.harness.postgres import Database, Postgres
from bench.harness.raw_http import HttpResponse, send_request
from bench.harness.server_process import Server, serving
from bench.traffic import SystemUnderTest, system_under_test

GOAL = 50_000
AROUND = 3  # requested, started, completed
Read = Callable[[Server, str], tuple[list[int], float]]


@dataclass(frozen=True, slots=True)
class Settings:
    """How long the answer is, in tokens, and how often it is read warm (the median counts).

    `against`: a former revision to compare with.
    """

    tokens: int = 5_000
    turns: int = 7
    against: str = ""


class _Event(msgspec.Struct):
    position: int


class _Page(msgspec.Struct):
    events: list[_Event]
    next: int
    closed: bool


_LINE, _PAGE = msgspec.json.Decoder(_Event), msgspec.json.Decoder(_Page)


def measure(postgres: Postgres, settings: Settings) -> Report:
    """Writes one answer on each revision's server, then reads it again and again, the revisions taking turns."""
    comparison = Comparison(
        [
            Measure(f"{name}, warm", "events/s", GOAL if "500" not in name else None, at_least=True)
            for name in READS
        ]
        + [Measure(f"{name}, cold", "events/s") for name in COLD]
    )
    with ExitStack() as databases:
        paths: list[tuple[Revision, Database, str]] = []
        with ExitStack() as servers:
            warm: list[tuple[Revision, SystemUnderTest, str]] = []
            for revision in revisions(settings.against, postgres.folder):
                database = databases.enter_context(postgres.database(revision=revision))
                system = servers.enter_context(system_under_test(database, None, revision))
                warm.append((revision, system, _finished(system.server, settings.tokens)))
                paths.append((revision, database, warm[-1][2]))
            for name, read in READS.items():
                for turn in range(settings.turns + 1):
                    for revision, system, path in warm:
                        rate = _rate(read, system.server, path, settings.tokens)
                        if turn:  # the first turn warms the caches
                            comparison.note(revision.name, f"{name}, warm", rate)
        for name in COLD:
            for revision, database, path in paths:
                postgres.restart()
                with serving(database.app_url, None, revision) as server:
                    rate = _rate(READS[name], server, path, settings.tokens)
                comparison.note(revision.name, f"{name}, cold", rate)
    report = Report()
    report.add_comparison(comparison)
    title = f"{settings.tokens:,} tokens replayed to one reader"
    whats = [f"{name}, warm" for name in READS] + [f"{name}, cold" for name in COLD]
    report.pictures["replay"] = charts.bars(title, "events/s", comparison.medians(whats))
    return report


def _finished(server: Server, tokens: int) -> str:
    """Makes a finished generation. Returns the path of its events."""
    script = {"run": "replay", "stream": 0, "rate": 0, "tokens": tokens, "delay": 0}
    asked = send_request(
        server,
        "POST",
        "/v1/generations",
        body={"model": "openai/bench", "input": msgspec.json.encode(script).decode()},
    )
    path = f"/v1/generations/{msgspec.json.decode(asked.body)['id']}/events"
    send_request(server, "GET", path, "text/event-stream")  # the response ends when the generation does
    return path


def _rate(read: Read, server: Server, path: str, tokens: int) -> float:
    positions, seconds = read(server, path)
    if positions != list(range(positions[0], positions[0] + tokens + AROUND)):
        raise RuntimeError(f"{len(positions)} events came, not {tokens + AROUND} in a row")
    return len(positions) / seconds


def _sse(server: Server, path: str) -> tuple[list[int], float]:
    answer = send_request(server, "GET", path, "text/event-stream")
    found = parse_recording([(0, answer.raw)])
    if not found.ended:
        raise RuntimeError("the stream has no end")
    return [event.position for event in found.events], answer.seconds


def _ndjson(server: Server, path: str) -> tuple[list[int], float]:
    answer = send_request(server, "GET", path, "application/x-ndjson")
    return [_LINE.decode(line).position for line in answer.body.splitlines() if line], answer.seconds


def _pages(limit: int) -> Read:
    def read(server: Server, path: str) -> tuple[list[int], float]:
        positions: list[int] = []
        seconds, after, closed = 0.0, 0, False
        while not closed:
            answer: HttpResponse = send_request(server, "GET", f"{path}?after={after}&limit={limit}")
            page = _PAGE.decode(answer.body)
            positions += [event.position for event in page.events]
            seconds += answer.seconds
            after, closed = page.next, page.closed
        return positions, seconds

    return read


READS: dict[str, Read] = {
    "SSE": _sse,
    "NDJSON": _ndjson,
    "JSON pages of 5,000": _pages(5_000),
    "JSON pages of 500": _pages(500),
}
COLD = ("SSE", "NDJSON", "JSON pages of 5,000")

BENCHMARK = Benchmark("replay", "a finished answer, read again", Settings(), {"tokens": 200, "turns": 1}, measure)
