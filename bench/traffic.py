"""One run of traffic: an upstream, a server, readers; G generations, R readers each, for some seconds.

Starts them, watches what each costs, and brings the two witnesses together: what the upstream sent and what
the readers got. Several benchmarks are such runs with different settings.
"""

import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bench.figures.verdict import Recording, Verdict, judge
from bench.stand.database import Database
from bench.stand.helper import Helper, helper
from bench.stand.proc import pss
from bench.stand.progress import bar
from bench.stand.revision import PRESENT, Revision
from bench.stand.server import Server, serving
from bench.stand.watch import Look, Use, use, watching

SPARE_SECONDS = 60.0
MARGIN_NS = 500_000_000
"""Left out at both ends of the steady part, in which all generations run."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """How much of it. `rate` in tokens a second (0: as fast as it goes), `delay` before a first token in s."""

    generations: int = 100
    rate: float = 50.0
    seconds: float = 30.0
    readers: int = 1
    ramp: float = 2.0
    delay: float = 0.5

    @property
    def tokens(self) -> int:
        """Of one generation."""
        return max(1, round((self.rate or 1) * self.seconds))


@dataclass(slots=True)
class Outcome:
    """What came of a run: what the readers got, and what it cost. `late` is the upstream's own, in ms.

    `use`, `seconds`, `tokens` (as sent) and `span` are those of the steady part.
    """

    verdict: Verdict
    late: list[float] = field(default_factory=list)
    use: dict[str, Use] = field(default_factory=dict)
    seconds: float = 0.0
    tokens: int = 0
    pss: int = 0
    span: tuple[int, int] = (0, 0)

    @property
    def tokens_a_second(self) -> float:
        """Sent by the upstream."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def cpu(self, group: str) -> float:
        """µs a token."""
        return self.use[group].cpu / self.tokens * 1e6 if self.tokens and group in self.use else 0.0

    def busy(self, group: str) -> float:
        """Cores."""
        return self.use[group].cpu / self.seconds if group in self.use else 0.0


@dataclass(frozen=True, slots=True)
class Site:
    """A server with its upstream and its database, up and ready."""

    server: Server
    upstream: Helper
    database: Database


@contextmanager
def site(database: Database, env: Mapping[str, str] | None = None, revision: Revision = PRESENT) -> Iterator[Site]:
    """Up for as long as the context."""
    with helper("upstream") as upstream:
        port = upstream.until("port", 10)["port"]
        own = {"OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1", "OPENAI_API_KEY": "bench"}
        with serving(database.app_url, {**own, **(env or {})}, revision) as server:
            yield Site(server, upstream, database)


def run(where: Site, traffic: Traffic, what: str = "load") -> Outcome:
    """Runs it, waits for its end, and judges it."""
    name = secrets.token_hex(4)
    script = {"run": name, "rate": traffic.rate, "tokens": traffic.tokens, "delay": traffic.delay}
    asks = [
        {"model": "openai/bench", "input": msgspec.json.encode({**script, "stream": n}).decode()}
        for n in range(traffic.generations)
    ]
    length = traffic.ramp + traffic.delay + traffic.seconds
    roots = {
        "server": where.server.pid,
        "Postgres": where.database.postgres.pid,
        "upstream": where.upstream.pid,
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        helper("reader") as reader,
        watching({**roots, "client": reader.pid}) as watch,
    ):
        path = str(Path(folder) / "got")
        reader.tell(
            port=where.server.port,
            asks=asks,
            ramp=traffic.ramp,
            readers=traffic.readers,
            deadline=length + SPARE_SECONDS,
            path=path,
        )
        # Late in the steady part: later there is less to hold.
        memory = _wait(reader, length, what, lambda: pss(where.server.pid))
        where.upstream.tell(do="log", path=f"{path}.sent")
        where.upstream.until("written", SPARE_SECONDS)
        rows = msgspec.msgpack.decode(Path(path).read_bytes())
        sent = msgspec.msgpack.decode(Path(f"{path}.sent").read_bytes())
    stamps = {int(key.partition("/")[2]): each for key, (each, _) in sent.items()}
    outcome = Outcome(judge((Recording(*row) for row in rows), stamps, traffic.tokens), pss=memory)
    outcome.late = [ns / 1e6 for _, late in sent.values() for ns in late]
    begin, end = _steady(list(stamps.values()))
    _count_cost(outcome, watch.between(begin, end), list(stamps.values()))
    return outcome


def _wait(reader: Helper, length: float, what: str, measure: Callable[[], int]) -> int:
    """Until all is written; the measure is taken when four fifths are over."""
    began = time.monotonic()
    measured = 0
    with bar(what, length) as show:
        while True:
            word = reader.answer(length + 2 * SPARE_SECONDS)
            passed = time.monotonic() - began
            if "written" in word:
                return measured or measure()
            if not measured and passed > length * 0.8:
                measured = measure()
            show(min(passed, length), f"{word['open']} open, {word['ended']} ended")


def _steady(stamps: list[list[int]]) -> tuple[int, int]:
    """From the moment the last generation has begun to the moment the first has ended."""
    begun = [one[0] for one in stamps if one]
    ended = [one[-1] for one in stamps if one]
    return (max(begun) + MARGIN_NS, min(ended) - MARGIN_NS) if begun else (0, 0)


def _count_cost(outcome: Outcome, looks: tuple[Look, Look] | None, stamps: list[list[int]]) -> None:
    if looks is None:
        return  # too short for a steady part: latencies only
    first, last = looks
    outcome.seconds = (last.at - first.at) / 1e9
    outcome.tokens = sum(1 for one in stamps for at in one if first.at <= at < last.at)
    outcome.use = use(first, last)
    outcome.span = (first.at, last.at)
