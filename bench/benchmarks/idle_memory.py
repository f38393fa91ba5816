"""`idle-memory`: the server's memory for an idle reader, by transport.

The readers leave, and as many come again: if those cost much more memory, the server leaks.
"""

from dataclasses import dataclass
from itertools import product

import msgspec

from bench.analysis import charts
from bench.analysis.comparison import Comparison, Measure
from bench.benchmark import Benchmark, Report, progress_bar
from bench.harness.child_process import ChildProcess, child_process
from bench.harness.git_revision import Revision, revisions
from bench.harness.postgres import Postgres
from bench.harness.raw_http import send_request
from bench.harness.resource_usage import pss, wait_until_quiet
from bench.harness.server_process import Server, serving

AT_ONCE = 100  # streams of an HTTP/2 connection: the usual limit, which browsers come near
KINDS = {
    "HTTP/1.1 SSE": ("HTTP/1.1 SSE", AT_ONCE, 16.0),
    "HTTP/2 SSE": ("HTTP/2 SSE", AT_ONCE, None),
    "HTTP/2 connection with one SSE": ("HTTP/2 SSE", 1, 32.0),
    "WebSocket": ("WebSocket", AT_ONCE, 28.0),
    "long poll": ("long poll", AT_ONCE, 12.0),
}
"""How each is opened (the kind, how many at once or on one connection), and its goal (KiB at most)."""
WARM_UP_DIVISOR = 20  # one in so many readers comes first: what the first readers cost is not counted
OPEN_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Settings:
    """`readers`: how many of each kind at once. `against`: a former revision to compare with."""

    readers: int = 1_000
    against: str = ""


def measure(postgres: Postgres, settings: Settings) -> Report:
    """Measures each kind on a server of its own, which has served a few readers of that kind before."""
    report = Report()
    several = revisions(settings.against, postgres.folder)
    comparison = Comparison(
        [
            Measure(what, "KiB", goal if what.startswith("an idle") else None)
            for kind, (_, _, goal) in KINDS.items()
            for what in (_held(kind), _kept(kind), _again(kind))
        ]
    )
    with progress_bar("idle-memory", len(KINDS) * len(several)) as show:
        for n, (kind, revision) in enumerate(product(KINDS, several)):
            show(n, f"{kind}, {revision.name}")
            found = _measure_kind(postgres, revision, kind, settings.readers)
            comparison.note(revision.name, _held(kind), _each(found["full"] - found["empty"], settings))
            comparison.note(revision.name, _kept(kind), _each(found["after"] - found["empty"], settings))
            comparison.note(revision.name, _again(kind), _each(found["again"] - found["full"], settings))
            report.data[f"{kind}, bytes, {revision.name}"] = found
    report.add_comparison(comparison)
    title = f"Memory of an idle reader ({settings.readers:,} at once)"
    report.pictures["idle-memory"] = charts.bars(title, "KiB", comparison.medians([_held(kind) for kind in KINDS]))
    return report


def _held(kind: str) -> str:
    return f"an idle {kind}"


def _kept(kind: str) -> str:
    return f"{kind}: of it kept for the next when all have left"


def _again(kind: str) -> str:
    return f"{kind}: more when as many come again"


def _measure_kind(postgres: Postgres, revision: Revision, kind: str, readers: int) -> dict[str, int]:
    """The server's bytes without readers, with them, when they have left, and with as many again."""
    way, at_once, _ = KINDS[kind]
    with (
        postgres.database(revision=revision) as database,
        serving(database.app_url, revision=revision) as server,
        child_process("idle_clients") as idle_clients,
    ):
        created = msgspec.json.decode(send_request(server, "POST", "/v1/conversations", body={}).body)
        opening = {"do": "open", "kind": way, "at_once": at_once, "port": server.port}
        order = {**opening, "conversation": created["id"], "after": created["position"]}
        _send_and_wait(idle_clients, {**order, "count": max(1, readers // WARM_UP_DIVISOR)})
        _memory_at_rest(server)
        _send_and_wait(idle_clients, {"do": "close"})
        found = {"empty": _memory_at_rest(server)}
        _send_and_wait(idle_clients, {**order, "count": readers})
        found["full"] = _memory_at_rest(server)
        _send_and_wait(idle_clients, {"do": "close"})
        found["after"] = _memory_at_rest(server)
        _send_and_wait(idle_clients, {**order, "count": readers})
        found["again"] = _memory_at_rest(server)
    return found


def _each(size: int, settings: Settings) -> float:
    """KiB a reader."""
    return size / settings.readers / 1024


def _send_and_wait(idle_clients: ChildProcess, order: dict[str, object]) -> None:
    idle_clients.send(**order)
    idle_clients.wait_for("done", OPEN_SECONDS)


def _memory_at_rest(server: Server) -> int:
    """The server's memory (PSS, bytes) once it has nothing to do any more."""
    wait_until_quiet(server.pid)
    return pss(server.pid)


BENCHMARK = Benchmark("idle-memory", "an idle reader's memory", Settings(), {"readers": 20}, measure)
