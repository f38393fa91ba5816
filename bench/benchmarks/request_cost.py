"""`request-cost`: what a poll, an opened stream and a started generation cost the server.

Polls are measured in a small conversation and in a very long one.
The CPU figures are the server process's own, from its CPU clock, so that they hold on a machine whose cores the
client shares. What a running generation costs beside the polls is measured in the same turn and subtracted. All
generations are the demo's, so no provider uses a core. In each part the compared revisions take turns.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import msgspec

from bench.analysis import charts
from bench.analysis.comparison import Comparison, Measure
from bench.benchmark import Benchmark, Report, progress_bar
from bench.harness.child_process import child_process
from bench.harness.conversations import (
    Conversation,
    finished_conversation,
    long_conversation,
    snapshot,
    start,
    wait_for,
)
from bench.harness.git_revision import Revision, revisions
from bench.harness.poll_clients import PollPlan, poll
from bench.harness.postgres import Postgres
from bench.harness.raw_http import send_request
from bench.harness.resource_usage import cpu_clock, wait_until_quiet
from bench.harness.server_process import Server, serving

OPEN_SECONDS = 120.0
AT_ONCE = 50
SMALL, LONG = "", ", in a very long conversation"


@dataclass(frozen=True, slots=True)
class Settings:
    """`pollers` send requests without a pause for `seconds`, from `clients` processes.

    The polled answer grows by `rate` tokens/s.

    The long conversation has `generations` of `tokens` tokens (0: this part is left out). `opens` streams are
    opened, `starts` generations requested by `starters` clients. `against`: a former revision to compare with.
    """

    pollers: int = 48
    clients: int = 1
    rate: float = 50.0
    seconds: float = 5.0
    turns: int = 5
    generations: int = 1_000
    tokens: int = 96
    opens: int = 1_000
    starts: int = 200
    starters: int = 8
    against: str = ""


MEASURES = (
    *(
        measure
        for where in (SMALL, LONG)
        for measure in (
            Measure(f"polls of a running snapshot{where}", "/s", 5_000, at_least=True),
            Measure(f"a poll: server CPU{where}", "µs"),
            Measure(f"304s{where}", "/s", 8_000, at_least=True),
            Measure(f"a 304: server CPU{where}", "µs"),
            Measure(f"empty pages of events{where}", "/s"),
            Measure(f"an empty page: server CPU{where}", "µs"),
        )
    ),
    Measure("polls: the long conversation's CPU by the small one's", "×", 1.2),
    Measure("304s: the long conversation's CPU by the small one's", "×", 1.2),
    Measure("empty pages: the long conversation's CPU by the small one's", "×", 1.2),
    # With more than a third, the client would be part of what is measured.
    Measure("a poll: the client's own CPU by the server's", "×", 0.33),
    Measure("opening an SSE stream, one after the other: server CPU", "ms", 0.5),
    Measure(f"opening an SSE stream, {AT_ONCE} at once: server CPU", "ms", 0.5),
    Measure("POST /v1/generations with its run: server CPU", "ms", 2.0),
    Measure("the same: generations taken", "/s"),
)


@dataclass(frozen=True, slots=True)
class ServerUnderTest:
    """One revision's server, with the conversations that the parts need."""

    revision: Revision
    server: Server
    finished: Conversation
    long: Conversation | None


Note = Callable[[str, float], None]
Part = Callable[[ServerUnderTest, Settings, Note], None]


def measure(postgres: Postgres, settings: Settings) -> Report:
    """Measures part by part, turn by turn, revision by revision. All servers run throughout."""
    comparison = Comparison(MEASURES)
    parts: dict[str, Part] = {"polls": _polls, "opens": _opens, "starts": _starts}
    with ExitStack() as stack:
        subjects = [
            stack.enter_context(_server_under_test(postgres, revision, settings))
            for revision in revisions(settings.against, postgres.folder)
        ]
        show = stack.enter_context(progress_bar("request-cost", len(parts) * settings.turns * len(subjects)))
        done = 0
        for name, part in parts.items():
            for _ in range(settings.turns):
                for subject in subjects:
                    show(done, f"{name}, {subject.revision.name}")
                    part(subject, settings, partial(comparison.note, subject.revision.name))
                    done += 1
    return _report(comparison)


@contextmanager
def _server_under_test(postgres: Postgres, revision: Revision, settings: Settings) -> Iterator[ServerUnderTest]:
    # The 304s need an answer that stays silent: the server must not time it out.
    env = {"TOKENTAPE_UPSTREAM_STALL": "3600"}
    with (
        postgres.database(revision=revision) as database,
        serving(database.app_url, env, revision) as server,
    ):
        long = long_conversation(server, settings.generations, settings.tokens) if settings.generations else None
        yield ServerUnderTest(revision, server, finished_conversation(server, 20), long)


def _polls(subject: ServerUnderTest, settings: Settings, note: Note) -> None:
    """Polls in the small conversation, then in the long one; notes the ratio of the costs."""
    small = _polls_in(subject, settings, None, SMALL, note)
    if subject.long is None:
        return
    long = _polls_in(subject, settings, subject.long, LONG, note)
    for name in ("polls", "304s", "empty pages"):
        note(f"{name}: the long conversation's CPU by the small one's", long[name] / small[name])


def _polls_in(
    subject: ServerUnderTest, settings: Settings, conversation: Conversation | None, where: str, note: Note
) -> dict[str, float]:
    """Returns the CPU of each kind of poll, in µs. Each turn has a new answer: all texts are of one length."""
    server = subject.server
    found: dict[str, float] = {}
    growing = start(server, {"tokens": 100_000, "rate": settings.rate}, conversation)
    wait_for(server, growing, lambda seen: bool(seen["text"]))
    own = _idle(server, settings.seconds / 5)
    plan = PollPlan(growing, settings.pollers, settings.seconds)
    found["polls"] = _measure_polls(
        subject, settings, plan, own, "polls of a running snapshot", "a poll", where, note
    )
    send_request(server, "POST", f"{growing}/cancel", body={})
    wait_until_quiet(server.pid)

    # The demo's first token comes at once, its second after half an hour.
    silent = start(server, {"tokens": 2, "rate": 0.0005}, conversation)
    head = wait_for(server, silent, lambda seen: bool(seen["text"]))
    own = _idle(server, settings.seconds / 5)
    plan = PollPlan(silent, settings.pollers, settings.seconds, etag=True)
    found["304s"] = _measure_polls(subject, settings, plan, own, "304s", "a 304", where, note)
    page = f"/v1/conversations/{head['conversation']}/events?after={head['position']}"
    plan = PollPlan(page, settings.pollers, settings.seconds)
    name = "empty pages of events"
    found["empty pages"] = _measure_polls(subject, settings, plan, own, name, "an empty page", where, note)
    send_request(server, "POST", f"{silent}/cancel", body={})
    wait_until_quiet(server.pid)
    return found


def _measure_polls(
    subject: ServerUnderTest,
    settings: Settings,
    plan: PollPlan,
    own: float,
    rate: str,
    each: str,
    where: str,
    note: Note,
) -> float:
    """Polls one path. Notes how many polls a second, and what each costs the server besides its `own` load.

    Returns that cost, in µs.
    """
    polled = poll(subject.server, plan, settings.clients)
    statuses = polled.statuses
    wanted = 304 if plan.etag else 200
    others = len(polled.rows) - statuses[wanted]
    # A poller's first answer brings the ETag.
    if not statuses[wanted] or statuses.keys() - {200, 304} or others > (2 * plan.pollers if plan.etag else 0):
        raise RuntimeError(f"{rate}: the answers' statuses were {dict(statuses)}, not {wanted}")
    used = max(0.0, polled.server_cpu - own * polled.wall)
    cost = used / len(polled.rows) * 1e6
    note(f"{rate}{where}", len(polled.rows) / settings.seconds)
    note(f"{each}: server CPU{where}", cost)
    if rate.startswith("polls") and not where:
        note("a poll: the client's own CPU by the server's", polled.client_cpu / polled.server_cpu)
    return cost


def _opens(subject: ServerUnderTest, settings: Settings, note: Note) -> None:
    """Opens streams on connections of their own, after the last event of a finished conversation."""
    server = subject.server
    order = {
        "do": "open",
        "kind": "HTTP/1.1 SSE",
        "port": server.port,
        "conversation": subject.finished.id,
        "after": subject.finished.position,
    }
    with child_process("idle_clients") as idle_clients:
        for at_once, what in ((1, "one after the other"), (AT_ONCE, f"{AT_ONCE} at once")):
            for warm in (True, False):
                count = max(1, settings.opens // 20) if warm else settings.opens
                wait_until_quiet(server.pid)
                before = cpu_clock(server.pid)
                idle_clients.send(**order, count=count, at_once=at_once)
                idle_clients.wait_for("done", OPEN_SECONDS)
                used = cpu_clock(server.pid) - before
                idle_clients.send(do="close")
                idle_clients.wait_for("done", OPEN_SECONDS)
            note(f"opening an SSE stream, {what}: server CPU", used / settings.opens * 1e3)
    wait_until_quiet(server.pid)


def _starts(subject: ServerUnderTest, settings: Settings, note: Note) -> None:
    """Starts generations that run and end, each in a conversation of its own; nobody reads them."""
    server = subject.server
    body = {"model": "demo", "input": "Tell me.", "parameters": {"tokens": 20, "rate": 0}}
    text = msgspec.json.encode(body).decode()
    wait_until_quiet(server.pid)
    own = _idle(server, min(1.0, settings.seconds))
    began, before = time.monotonic(), cpu_clock(server.pid)
    plan = PollPlan("/v1/generations", settings.starters, 60.0, body=text, count=settings.starts)
    polled = poll(server, plan)
    wait_until_quiet(server.pid)
    used = cpu_clock(server.pid) - before - own * (time.monotonic() - began)
    if len(polled.locations) != settings.starts:
        raise RuntimeError(f"starts: the answers' statuses were {dict(polled.statuses)}, not 202")
    for path in polled.locations:
        status = snapshot(server, path)["status"]
        if status != "completed":
            raise RuntimeError(f"starts: {path} is {status}, not completed, when the server is quiet")
    note("POST /v1/generations with its run: server CPU", used / settings.starts * 1e3)
    begun = [asked_at for asked_at, _, _ in polled.rows]
    answered = [asked_at + int(ms * 1e6) for asked_at, ms, _ in polled.rows]
    note("the same: generations taken", settings.starts / (max(answered) - min(begun)) * 1e9)


def _idle(server: Server, seconds: float) -> float:
    """Measures what the server uses without the measured load. Returns CPU seconds a second."""
    before = cpu_clock(server.pid)
    time.sleep(seconds)
    return (cpu_clock(server.pid) - before) / seconds


def _report(comparison: Comparison) -> Report:
    report = Report()
    report.add_comparison(comparison)
    rates = [f"{name}{where}" for name in ("polls of a running snapshot", "304s") for where in (SMALL, LONG)]
    kinds = ("a poll", "a 304", "an empty page")
    costs = [f"{name}: server CPU{where}" for name in kinds for where in (SMALL, LONG)]
    works = [one.what for one in MEASURES if one.unit == "ms"]
    report.pictures["request-cost-polls"] = charts.bars("Polls", "requests/s", comparison.medians(rates))
    report.pictures["request-cost-cpu"] = charts.bars(
        "The server's CPU for one poll", "µs", comparison.medians(costs)
    )
    report.pictures["request-cost-opens"] = charts.bars("The server's CPU", "ms", comparison.medians(works))
    return report


BENCHMARK = Benchmark(
    "request-cost",
    "a poll, an open, a start: what each costs the server",
    Settings(),
    {"pollers": 4, "seconds": 0.4, "turns": 1, "generations": 4, "tokens": 5, "opens": 20, "starts": 8},
    measure,
)
