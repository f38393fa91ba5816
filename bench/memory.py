"""What an idle reader costs the server in memory, by transport; and whether as many again cost more (a leak)."""

import time
from dataclasses import dataclass

import msgspec

from bench.benchmark import Benchmark, Report
from bench.figures import charts
from bench.stand.database import Postgres
from bench.stand.helper import Helper, helper
from bench.stand.http import ask
from bench.stand.proc import costs, descendants, pss
from bench.stand.progress import bar
from bench.stand.server import Server, serving

KINDS = ("HTTP/1.1 SSE", "HTTP/2 SSE", "WebSocket", "long poll")
WARM = 20  # of each so many readers, one comes before: what the first of them costs is not counted
LOOK_SECONDS, SETTLE_SECONDS, QUIET = 0.25, 15.0, 0.05
OPEN_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Settings:
    """How many of each kind at once."""

    readers: int = 1_000


def measure(postgres: Postgres, settings: Settings) -> Report:
    """Each kind on a server of its own, that has served a few of that kind before."""
    report = Report()
    held: dict[str, float] = {}
    with bar("memory", len(KINDS)) as show:
        for n, kind in enumerate(KINDS):
            show(n, kind)
            found = _weigh(postgres, kind, settings.readers)
            held[kind] = _each(found["full"] - found["empty"], settings)
            kept = _each(found["after"] - found["empty"], settings)
            grown = _each(found["again"] - found["full"], settings)
            report.add(
                f"an idle {kind}",
                f"{held[kind]:.1f} KiB; {kept:.1f} KiB of it is kept for the next when all have left; "
                f"as many again: {grown:+.1f} KiB",
            )
            report.data[kind] = found
    title = f"Memory of an idle reader ({settings.readers:,} at once)"
    report.pictures["memory"] = charts.bars(title, "KiB", held)
    return report


def _weigh(postgres: Postgres, kind: str, readers: int) -> dict[str, int]:
    """The server's bytes without readers, with them, when they have left, and with as many again."""
    with postgres.database() as database, serving(database.app_url) as server, helper("idler") as idler:
        said = msgspec.json.decode(ask(server, "POST", "/v1/conversations", body={}).body)
        order = {"kind": kind, "port": server.port, "conversation": said["id"], "after": said["position"]}
        _tell(idler, {**order, "do": "open", "count": max(1, readers // WARM)})
        _quiet(server)
        _tell(idler, {"do": "close"})
        found = {"empty": _quiet(server)}
        _tell(idler, {**order, "do": "open", "count": readers})
        found["full"] = _quiet(server)
        _tell(idler, {"do": "close"})
        found["after"] = _quiet(server)
        _tell(idler, {**order, "do": "open", "count": readers})
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
    until = time.monotonic() + SETTLE_SECONDS
    quiet = 0
    while quiet < 2 and time.monotonic() < until:
        before = _cpu(server)
        time.sleep(LOOK_SECONDS)
        quiet = quiet + 1 if _cpu(server) - before <= QUIET * LOOK_SECONDS else 0
    return pss(server.pid)


def _cpu(server: Server) -> float:
    return sum(one.cpu for one in costs(descendants(server.pid)).values())


BENCHMARK = Benchmark("memory", "an idle reader's memory", Settings(), {"readers": 20}, measure)
