"""What an idle reader costs the server in memory, by transport; and whether as many again cost more (a leak)."""

from dataclasses import dataclass
from itertools import product

import msgspec

from bench.benchmark import Benchmark, Report
from bench.figures import charts
from bench.figures.comparison import Comparison, Measure
from bench.stand.database import Postgres
from bench.stand.helper import Helper, helper
from bench.stand.http import ask
from bench.stand.proc import pss, settle
from bench.stand.progress import bar
from bench.stand.revision import Revision, revisions
from bench.stand.server import Server, serving

AT_ONCE = 100  # streams of an HTTP/2 connection: what is usually allowed, and browsers come near
KINDS = {
    "HTTP/1.1 SSE": ("HTTP/1.1 SSE", AT_ONCE, 16.0),
    "HTTP/2 SSE": ("HTTP/2 SSE", AT_ONCE, None),
    "HTTP/2 connection with one SSE": ("HTTP/2 SSE", 1, 32.0),
    "WebSocket": ("WebSocket", AT_ONCE, 28.0),
    "long poll": ("long poll", AT_ONCE, 12.0),
}
"""How each is opened (the kind, how many at once or on a connection), and the most that it should take (KiB)."""
WARM = 20  # of each so many readers, one comes before: what the first of them costs is not counted
OPEN_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Settings:
    """How many of each kind at once; `against` is a former revision to measure beside."""

    readers: int = 1_000
    against: str = ""


def measure(postgres: Postgres, settings: Settings) -> Report:
    """Each kind on a server of its own, that has served a few of that kind before."""
    report = Report()
    several = revisions(settings.against, postgres.folder)
    comparison = Comparison(
        [
            Measure(what, "KiB", goal if what.startswith("an idle") else None)
            for kind, (_, _, goal) in KINDS.items()
            for what in (_held(kind), _kept(kind), _again(kind))
        ]
    )
    with bar("memory", len(KINDS) * len(several)) as show:
        for n, (kind, revision) in enumerate(product(KINDS, several)):
            show(n, f"{kind}, {revision.name}")
            found = _weigh(postgres, revision, kind, settings.readers)
            comparison.note(revision.name, _held(kind), _each(found["full"] - found["empty"], settings))
            comparison.note(revision.name, _kept(kind), _each(found["after"] - found["empty"], settings))
            comparison.note(revision.name, _again(kind), _each(found["again"] - found["full"], settings))
            report.data[f"{kind}, bytes, {revision.name}"] = found
    report.add_comparison(comparison)
    title = f"Memory of an idle reader ({settings.readers:,} at once)"
    report.pictures["memory"] = charts.bars(title, "KiB", comparison.medians([_held(kind) for kind in KINDS]))
    return report


def _held(kind: str) -> str:
    return f"an idle {kind}"


def _kept(kind: str) -> str:
    return f"{kind}: of it kept for the next when all have left"


def _again(kind: str) -> str:
    return f"{kind}: more when as many come again"


def _weigh(postgres: Postgres, revision: Revision, kind: str, readers: int) -> dict[str, int]:
    """The server's bytes without readers, with them, when they have left, and with as many again."""
    way, at_once, _ = KINDS[kind]
    with (
        postgres.database(revision=revision) as database,
        serving(database.app_url, revision=revision) as server,
        helper("idler") as idler,
    ):
        said = msgspec.json.decode(ask(server, "POST", "/v1/conversations", body={}).body)
        opening = {"do": "open", "kind": way, "at_once": at_once, "port": server.port}
        order = {**opening, "conversation": said["id"], "after": said["position"]}
        _tell(idler, {**order, "count": max(1, readers // WARM)})
        _quiet(server)
        _tell(idler, {"do": "close"})
        found = {"empty": _quiet(server)}
        _tell(idler, {**order, "count": readers})
        found["full"] = _quiet(server)
        _tell(idler, {"do": "close"})
        found["after"] = _quiet(server)
        _tell(idler, {**order, "count": readers})
        found["again"] = _quiet(server)
    return found


def _each(size: int, settings: Settings) -> float:
    """KiB a reader."""
    return size / settings.readers / 1024


def _tell(idler: Helper, order: dict[str, object]) -> None:
    idler.tell(**order)
    idler.until("done", OPEN_SECONDS)


def _quiet(server: Server) -> int:
    """The server's memory (PSS, bytes) once it has nothing to do any more."""
    settle(server.pid)
    return pss(server.pid)


BENCHMARK = Benchmark("memory", "an idle reader's memory", Settings(), {"readers": 20}, measure)
