"""`reconnect-storm`: thousands of readers reconnect to one process at once while answers run. How late is each?

As after a proxy's restart, each reader's cursor is some events before the end of a conversation that the process
knows. Meanwhile other answers run, with a reader each, and their tokens must not be late. Each turn has a server
and a database of its own; the compared revisions take turns.
"""

import tempfile
import time
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import msgspec

from bench.analysis import charts
from bench.analysis.comparison import Comparison, Measure
from bench.analysis.percentiles import summarise
from bench.analysis.token_delivery import Delivery
from bench.benchmark import Benchmark, Report, progress_bar
from bench.benchmarks.load import add_loss
from bench.harness.child_process import child_process
from bench.harness.conversations import finished_conversations
from bench.harness.git_revision import NOW, Revision, revisions
from bench.harness.postgres import Postgres
from bench.harness.resource_usage import wait_until_quiet
from bench.traffic import SystemUnderTest, Traffic, run, system_under_test

RAMP_SECONDS, DELAY_SECONDS = 1.0, 0.5
POINTS = 200  # of a curve


@dataclass(frozen=True, slots=True)
class Settings:
    """`readers` of `conversations`, each `behind` events before the end; `running` answers of `rate` tokens/s.

    The answers take `seconds`. The readers come when all answers have run for `calm` seconds. `against`: a former
    revision to compare with.
    """

    readers: int = 5_000
    conversations: int = 50
    behind: int = 20
    running: int = 50
    rate: float = 20.0
    seconds: float = 40.0
    calm: float = 4.0
    turns: int = 3
    against: str = ""


ALL_SERVED = "until all readers are served"
DURING = "running streams' tokens during the storm, p99"
MEASURES = (
    Measure(ALL_SERVED, "s", 5.0),
    Measure("until a reader is served, p50", "s"),
    Measure("readers not served within the time", "readers", 0),
    Measure("attempts that were turned away", "attempts"),
    Measure(DURING, "ms", 250.0),
    Measure("running streams' tokens during the storm, most", "ms"),
    Measure("running streams' tokens before it, p99", "ms"),
)


@dataclass(frozen=True, slots=True)
class Turn:
    """One storm: its begin and end (monotonic ns), when each reader was served (s), and the running answers."""

    began: int
    ended: int
    served: list[float]
    unserved: int
    again: dict[str, int]
    delivery: Delivery


def measure(postgres: Postgres, settings: Settings) -> Report:
    """Runs one storm for each turn and revision."""
    comparison = Comparison(MEASURES)
    report = Report()
    curves: dict[str, list[tuple[float, float]]] = {}
    deliveries: list[Delivery] = []
    several = revisions(settings.against, postgres.folder)
    with progress_bar("reconnect-storm", settings.turns * len(several)) as show:
        for done, (_, revision) in enumerate(product(range(settings.turns), several)):
            show(done, revision.name)
            turn = _storm(postgres, revision, settings)
            _note(partial(comparison.note, revision.name), turn, settings)
            curves[revision.name] = served_curve(turn.served)
            report.data.setdefault(f"turned away, {revision.name}", []).append(turn.again)
            if revision.name == NOW:
                deliveries.append(turn.delivery)
    report.add_comparison(comparison)
    add_loss(report, *deliveries)
    title = f"{settings.readers:,} readers come back beside {settings.running} running answers"
    report.pictures["reconnect-storm"] = charts.lines(title, "seconds", "readers served", curves)
    return report


def _storm(postgres: Postgres, revision: Revision, settings: Settings) -> Turn:
    # Room for all readers, whatever the server's default limit is.
    env = {"TOKENTAPE_MAX_STREAMS": str(4 * (settings.readers + settings.running))}
    traffic = Traffic(settings.running, settings.rate, settings.seconds, 1, RAMP_SECONDS, DELAY_SECONDS)
    with (
        tempfile.TemporaryDirectory() as folder,
        postgres.database(revision=revision) as database,
        system_under_test(database, env, revision) as system,
        child_process("reconnecting_readers") as readers,
    ):
        cursors = _cursors(system, settings)
        wait_until_quiet(system.server.pid)
        out = Path(folder) / "served"
        at = time.monotonic_ns() + int((RAMP_SECONDS + DELAY_SECONDS + settings.calm) * 1e9)
        readers.send(
            do="storm",
            port=system.server.port,
            readers=settings.readers,
            cursors=cursors,
            at=at,
            deadline=settings.seconds - settings.calm,
            out=str(out),
        )
        outcome = run(system, traffic, f"reconnect-storm, {revision.name}")
        readers.wait_for("written", settings.seconds)
        found = msgspec.msgpack.decode(out.read_bytes())
        readers.send(do="close")
        readers.wait_for("closed", settings.seconds)
    served = found["served"]
    longest = max(served, default=0.0) if not found["unserved"] else settings.seconds - settings.calm
    ended = found["began"] + int(longest * 1e9)
    return Turn(found["began"], ended, served, found["unserved"], found["again"], outcome.delivery)


def _cursors(system: SystemUnderTest, settings: Settings) -> list[tuple[str, int, int]]:
    """Makes completed conversations. Returns for each: its id, its readers' cursor, the position of its end."""
    made = finished_conversations(system.server, settings.conversations, 2 * settings.behind)
    return [(one.id, one.position - settings.behind, one.position) for one in made]


def _note(note: "partial[None]", turn: Turn, settings: Settings) -> None:
    delivery = turn.delivery
    during, before = split(delivery, turn.began, turn.ended)
    # A reader that was not served in time counts with that time; it would have taken longer.
    seconds = turn.served + [(turn.ended - turn.began) / 1e9] * turn.unserved
    note(ALL_SERVED, max(seconds, default=0.0))
    note("until a reader is served, p50", summarise(seconds).p50)
    note("readers not served within the time", turn.unserved)
    note("attempts that were turned away", sum(turn.again.values()))
    note(DURING, summarise(during).p99)
    note("running streams' tokens during the storm, most", summarise(during).most)
    note("running streams' tokens before it, p99", summarise(before).p99)


def split(delivery: Delivery, began: int, ended: int) -> tuple[list[float], list[float]]:
    """The latencies (ms) of tokens that were sent within a span (monotonic ns), and of those sent before it."""
    during: list[float] = []
    before: list[float] = []
    for sent, ms in zip(delivery.between_sent, delivery.between, strict=True):
        if began <= sent <= ended:
            during.append(ms)
        elif sent < began:
            before.append(ms)
    return during, before


def served_curve(served: list[float]) -> list[tuple[float, float]]:
    """Points (seconds, readers served until then), for a picture."""
    ordered = sorted(served)
    step = max(1, len(ordered) // POINTS)
    picked = [(at, float(n)) for n, at in enumerate(ordered, 1) if n % step == 0 or n == len(ordered)]
    return [(0.0, 0.0), *picked]


BENCHMARK = Benchmark(
    "reconnect-storm",
    "thousands of readers reconnect at once",
    Settings(),
    {"readers": 40, "conversations": 4, "running": 3, "seconds": 3.0, "calm": 0.5, "turns": 1},
    measure,
)
