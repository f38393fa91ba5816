"""`key-cost`: what keys and limits add to a poll and to an opened stream.

Three servers run side by side, each on a database of its own: one that asks for no key, one that asks for one, and
one whose callers have limits too, none of which is reached. They take turns in each part. The figures are the
server processes' own CPU; the ratios are of one turn each.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import trio

from bench.analysis import charts
from bench.analysis.comparison import Comparison, Measure
from bench.benchmark import Benchmark, Report, progress_bar
from bench.harness.child_process import child_process
from bench.harness.conversations import Conversation, finished_conversation, start, wait_for
from bench.harness.git_revision import NOW
from bench.harness.poll_clients import PollPlan, poll
from bench.harness.postgres import Postgres
from bench.harness.raw_http import send_request
from bench.harness.resource_usage import cpu_clock, wait_until_quiet
from bench.harness.server_process import Server, serving
from server.auth.credentials import generate
from server.auth.postgres_auth_store import PostgresAuthStore
from server.auth.principal import ALL_SCOPES

OPEN_SECONDS = 120.0
AT_ONCE = 50
NO_KEYS, KEYS, LIMITS = "without keys", "with keys", "with keys and limits"
KINDS = (NO_KEYS, KEYS, LIMITS)
NEVER_REACHED = (
    "key.requests=1000000/s, key.requests=60000000/minute, tenant.requests=1000000/s, key.readers=1000000, "
    "tenant.readers=1000000"
)
PARTS = {"a 304": "µs", "opening an SSE stream": "ms"}


@dataclass(frozen=True, slots=True)
class Settings:
    """`pollers` send requests without a pause for `seconds`; `opens` streams are opened. Each part has `turns`."""

    pollers: int = 48
    seconds: float = 5.0
    opens: int = 1_000
    turns: int = 7


MEASURES = (
    *(Measure(f"{part}, {kind}: server CPU", unit) for part, unit in PARTS.items() for kind in KINDS),
    *(Measure(f"{part}, {KEYS}, by {NO_KEYS}", "×", 1.05) for part in PARTS),
    # Limits are only paid for by those who set some; five of them are set here.
    *(Measure(f"{part}, {LIMITS}, by {NO_KEYS}", "×") for part in PARTS),
)


@dataclass(frozen=True, slots=True)
class ServerUnderTest:
    """One of the servers, with what is polled and what is opened on it."""

    server: Server
    finished: Conversation
    silent: str


def measure(postgres: Postgres, settings: Settings) -> Report:
    """Measures part by part, turn by turn, server by server. All servers run throughout."""
    comparison = Comparison(MEASURES)
    parts = {"a 304": _polls, "opening an SSE stream": _opens}
    with ExitStack() as stack:
        subjects = {kind: stack.enter_context(_server_under_test(postgres, kind)) for kind in KINDS}
        show = stack.enter_context(progress_bar("key-cost", len(parts) * settings.turns * len(KINDS)))
        done = 0
        for name, part in parts.items():
            part(subjects[NO_KEYS], settings)  # the first one also warms up the client
            for turn in range(settings.turns):
                costs: dict[str, float] = {}
                # In another order each turn: who comes first meets another machine than who comes last.
                for kind in (*KINDS[turn % 3 :], *KINDS[: turn % 3]):
                    show(done, f"{name}, {kind}")
                    costs[kind] = part(subjects[kind], settings)
                    comparison.note(NOW, f"{name}, {kind}: server CPU", costs[kind])
                    done += 1
                for kind in (KEYS, LIMITS):
                    comparison.note(NOW, f"{name}, {kind}, by {NO_KEYS}", costs[kind] / costs[NO_KEYS])
    report = Report()
    report.add_comparison(comparison)
    ratios = [one.what for one in MEASURES if one.unit == "×"]
    report.pictures["key-cost"] = charts.bars(
        "The server's CPU, by that without keys", "×", comparison.medians(ratios)
    )
    return report


@contextmanager
def _server_under_test(postgres: Postgres, kind: str) -> Iterator[ServerUnderTest]:
    env = {"TOKENTAPE_UPSTREAM_STALL": "3600"}
    if kind == LIMITS:
        env["TOKENTAPE_LIMITS"] = NEVER_REACHED
    with postgres.database() as database:
        key = "" if kind == NO_KEYS else trio.run(_make_key, database.owner_url)
        with serving(database.app_url, env) as server:
            if key:
                server = replace(server, authorization=f"Bearer {key}")
            # The demo's first token comes at once, its second after half an hour.
            silent = start(server, {"tokens": 2, "rate": 0.0005})
            wait_for(server, silent, lambda seen: bool(seen["text"]))
            yield ServerUnderTest(server, finished_conversation(server, 20), silent)
            send_request(server, "POST", f"{silent}/cancel", body={})


async def _make_key(owner_url: str) -> str:
    key = generate("key")
    store = PostgresAuthStore(owner_url)
    async with store.open():
        await store.add_key(key, "default", "bench", ALL_SCOPES, None)
    return key.text


def _polls(subject: ServerUnderTest, settings: Settings) -> float:
    """What a 304 costs, in µs."""
    wait_until_quiet(subject.server.pid)
    polled = poll(subject.server, PollPlan(subject.silent, settings.pollers, settings.seconds, etag=True))
    if polled.statuses.keys() - {200, 304} or not polled.statuses[304]:
        raise RuntimeError(f"polls: the answers' statuses were {dict(polled.statuses)}, not 304")
    return polled.server_cpu / len(polled.rows) * 1e6


def _opens(subject: ServerUnderTest, settings: Settings) -> float:
    """What it costs to open a stream after the last event of a finished conversation, in ms."""
    server = subject.server
    with child_process("idle_clients") as idle_clients:
        wait_until_quiet(server.pid)
        before = cpu_clock(server.pid)
        idle_clients.send(
            do="open",
            kind="HTTP/1.1 SSE",
            port=server.port,
            conversation=subject.finished.id,
            after=subject.finished.position,
            authorization=server.authorization,
            count=settings.opens,
            at_once=AT_ONCE,
        )
        idle_clients.wait_for("done", OPEN_SECONDS)
        used = cpu_clock(server.pid) - before
        idle_clients.send(do="close")
        idle_clients.wait_for("done", OPEN_SECONDS)
    wait_until_quiet(server.pid)
    return used / settings.opens * 1e3


BENCHMARK = Benchmark(
    "key-cost",
    "what keys and limits add to a poll and to an open",
    Settings(),
    {"pollers": 4, "seconds": 0.4, "opens": 20, "turns": 1},
    measure,
)
