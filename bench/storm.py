"""Thousands of readers come back to one process at once, while answers are under way: who waits how long?

As after a proxy's restart: each reader's cursor is some events behind the end of a conversation that this process
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

from bench.benchmark import Benchmark, Report
from bench.figures import charts
from bench.figures.comparison import Comparison, Measure
from bench.figures.percentiles import spread
from bench.figures.verdict import Verdict
from bench.load import add_loss
from bench.stand.conversations import several_finished
from bench.stand.database import Postgres
from bench.stand.helper import helper
from bench.stand.proc import settle
from bench.stand.progress import bar
from bench.stand.revision import NOW, Revision, revisions
from bench.traffic import Site, Traffic, run, site

RAMP_SECONDS, DELAY_SECONDS = 1.0, 0.5
POINTS = 200  # of a curve


@dataclass(frozen=True, slots=True)
class Settings:
    """`readers` of `conversations`, each `behind` events; `running` answers of `rate` tokens/s for `seconds`.

    The readers come when all answers have run for `calm` seconds. `against`: a former revision to measure beside.
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
    verdict: Verdict


def measure(postgres: Postgres, settings: Settings) -> Report:
    """A storm a turn and revision."""
    comparison = Comparison(MEASURES)
    report = Report()
    curves: dict[str, list[tuple[float, float]]] = {}
    verdicts: list[Verdict] = []
    several = revisions(settings.against, postgres.folder)
    with bar("storm", settings.turns * len(several)) as show:
        for done, (_, revision) in enumerate(product(range(settings.turns), several)):
            show(done, revision.name)
            turn = _storm(postgres, revision, settings)
            _note(partial(comparison.note, revision.name), turn, settings)
            curves[revision.name] = served_curve(turn.served)
            report.data.setdefault(f"turned away, {revision.name}", []).append(turn.again)
            if revision.name == NOW:
                verdicts.append(turn.verdict)
    report.add_comparison(comparison)
    add_loss(report, *verdicts)
    title = f"{settings.readers:,} readers come back beside {settings.running} running answers"
    report.pictures["storm"] = charts.lines(title, "seconds", "readers served", curves)
    return report


def _storm(postgres: Postgres, revision: Revision, settings: Settings) -> Turn:
    # Room for the readers, whatever a process takes by default.
    env = {"TOKENTAPE_MAX_STREAMS": str(4 * (settings.readers + settings.running))}
    traffic = Traffic(settings.running, settings.rate, settings.seconds, 1, RAMP_SECONDS, DELAY_SECONDS)
    with (
        tempfile.TemporaryDirectory() as folder,
        postgres.database(revision=revision) as database,
        site(database, env, revision) as where,
        helper("returning_readers") as crowd,
    ):
        cursors = _cursors(where, settings)
        settle(where.server.pid)
        out = Path(folder) / "served"
        at = time.monotonic_ns() + int((RAMP_SECONDS + DELAY_SECONDS + settings.calm) * 1e9)
        crowd.tell(
            do="storm",
            port=where.server.port,
            readers=settings.readers,
            cursors=cursors,
            at=at,
            deadline=settings.seconds - settings.calm,
            out=str(out),
        )
        outcome = run(where, traffic, f"storm, {revision.name}")
        crowd.until("written", settings.seconds)
        found = msgspec.msgpack.decode(out.read_bytes())
        crowd.tell(do="close")
        crowd.until("closed", settings.seconds)
    served = found["served"]
    longest = max(served, default=0.0) if not found["unserved"] else settings.seconds - settings.calm
    ended = found["began"] + int(longest * 1e9)
    return Turn(found["began"], ended, served, found["unserved"], found["again"], outcome.verdict)


def _cursors(where: Site, settings: Settings) -> list[tuple[str, int, int]]:
    """Conversations that are complete, the cursor that their readers come with, and the position of the end."""
    made = several_finished(where.server, settings.conversations, 2 * settings.behind)
    return [(one.id, one.position - settings.behind, one.position) for one in made]


def _note(note: "partial[None]", turn: Turn, settings: Settings) -> None:
    verdict = turn.verdict
    during, before = split(verdict, turn.began, turn.ended)
    # One that was not served in the time counts with that time: it took longer.
    seconds = turn.served + [(turn.ended - turn.began) / 1e9] * turn.unserved
    note(ALL_SERVED, max(seconds, default=0.0))
    note("until a reader is served, p50", spread(seconds).p50)
    note("readers not served within the time", turn.unserved)
    note("attempts that were turned away", sum(turn.again.values()))
    note(DURING, spread(during).p99)
    note("running streams' tokens during the storm, most", spread(during).most)
    note("running streams' tokens before it, p99", spread(before).p99)


def split(verdict: Verdict, began: int, ended: int) -> tuple[list[float], list[float]]:
    """The latencies (ms) of tokens that were sent within a span (monotonic ns), and of those sent before it."""
    during: list[float] = []
    before: list[float] = []
    for sent, ms in zip(verdict.between_sent, verdict.between, strict=True):
        if began <= sent <= ended:
            during.append(ms)
        elif sent < began:
            before.append(ms)
    return during, before


def served_curve(served: list[float]) -> list[tuple[float, float]]:
    """How many readers were served by when: (s, readers)."""
    ordered = sorted(served)
    step = max(1, len(ordered) // POINTS)
    picked = [(at, float(n)) for n, at in enumerate(ordered, 1) if n % step == 0 or n == len(ordered)]
    return [(0.0, 0.0), *picked]


BENCHMARK = Benchmark(
    "storm",
    "thousands of readers come back at once",
    Settings(),
    {"readers": 40, "conversations": 4, "running": 3, "seconds": 3.0, "calm": 0.5, "turns": 1},
    measure,
)
