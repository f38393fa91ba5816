"""Runs traffic through a server: a mock provider, a number of generations, readers of each, for some seconds.

Owns the start of these processes, the measurement of what each costs, and the comparison of what the provider sent
with what the readers received. Several benchmarks are such runs with different settings; it must not know them.
"""

import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bench.analysis.token_delivery import Delivery, Recording, measure_delivery
from bench.benchmark import progress_bar
from bench.harness.child_process import ChildProcess, child_process
from bench.harness.git_revision import PRESENT, Revision
from bench.harness.postgres import Database
from bench.harness.resource_usage import ResourceSample, ResourceUse, monitor_resources, pss, resource_use
from bench.harness.server_process import Server, serving

SPARE_SECONDS = 60.0
MARGIN_NS = 500_000_000
"""Left out at both ends of the steady part, in which all generations run."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """How much traffic.

    `rate`: tokens a second of each generation (0: as fast as it goes). `ramp`: seconds over which the generations
    are started. `delay`: seconds before a first token.
    """

    generations: int = 100
    rate: float = 50.0
    seconds: float = 30.0
    readers: int = 1
    ramp: float = 2.0
    delay: float = 0.5

    @property
    def tokens(self) -> int:
        """How many tokens one generation has."""
        return max(1, round((self.rate or 1) * self.seconds))


@dataclass(slots=True)
class Outcome:
    """The outcome of a run. `late`: how late the provider itself sent each token, in ms.

    `use`, `seconds`, `tokens` (as sent) and `span` are those of the steady part.
    """

    delivery: Delivery
    late: list[float] = field(default_factory=list)
    use: dict[str, ResourceUse] = field(default_factory=dict)
    seconds: float = 0.0
    tokens: int = 0
    pss: int = 0
    span: tuple[int, int] = (0, 0)

    @property
    def tokens_a_second(self) -> float:
        """Tokens that the provider sent, a second."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def cpu(self, group: str) -> float:
        """CPU of a group of processes, in µs a token."""
        return self.use[group].cpu / self.tokens * 1e6 if self.tokens and group in self.use else 0.0

    def busy(self, group: str) -> float:
        """How many cores a group of processes kept busy."""
        return self.use[group].cpu / self.seconds if group in self.use else 0.0


@dataclass(frozen=True, slots=True)
class SystemUnderTest:
    """A server that is ready, with its mock provider (`upstream`) and its database."""

    server: Server
    upstream: ChildProcess
    database: Database


@contextmanager
def system_under_test(
    database: Database, env: Mapping[str, str] | None = None, revision: Revision = PRESENT
) -> Iterator[SystemUnderTest]:
    """Starts the mock provider and the server. They run while the context lasts."""
    with child_process("mock_provider") as upstream:
        port = upstream.wait_for("port", 10)["port"]
        own = {"OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1", "OPENAI_API_KEY": "bench"}
        with serving(database.app_url, {**own, **(env or {})}, revision) as server:
            yield SystemUnderTest(server, upstream, database)


def run(system: SystemUnderTest, traffic: Traffic, what: str = "load") -> Outcome:
    """Runs the traffic to its end and measures it. `what`: the label of the progress bar."""
    name = secrets.token_hex(4)
    script = {"run": name, "rate": traffic.rate, "tokens": traffic.tokens, "delay": traffic.delay}
    asks = [
        {"model": "openai/bench", "input": msgspec.json.encode({**script, "stream": n}).decode()}
        for n in range(traffic.generations)
    ]
    length = traffic.ramp + traffic.delay + traffic.seconds
    roots = {
        "server": system.server.pid,
        "Postgres": system.database.postgres.pid,
        "upstream": system.upstream.pid,
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        child_process("stream_readers") as reader,
        monitor_resources({**roots, "client": reader.pid}) as monitor,
    ):
        path = str(Path(folder) / "got")
        reader.send(
            port=system.server.port,
            asks=asks,
            ramp=traffic.ramp,
            readers=traffic.readers,
            deadline=length + SPARE_SECONDS,
            path=path,
        )
        # Memory is measured late in the steady part: after it the server holds fewer streams.
        memory = _wait(reader, length, what, lambda: pss(system.server.pid))
        system.upstream.send(do="log", path=f"{path}.sent")
        system.upstream.wait_for("written", SPARE_SECONDS)
        rows = msgspec.msgpack.decode(Path(path).read_bytes())
        sent = msgspec.msgpack.decode(Path(f"{path}.sent").read_bytes())
    sent_at = {int(key.partition("/")[2]): each for key, (each, _) in sent.items()}
    outcome = Outcome(measure_delivery((Recording(*row) for row in rows), sent_at, traffic.tokens), pss=memory)
    outcome.late = [ns / 1e6 for _, late in sent.values() for ns in late]
    begin, end = _steady(list(sent_at.values()))
    _count_cost(outcome, monitor.between(begin, end), list(sent_at.values()))
    return outcome


def _wait(reader: ChildProcess, length: float, what: str, measure: Callable[[], int]) -> int:
    """Waits until the readers have written their recordings. Returns `measure()`, called at 80 % of `length`."""
    began = time.monotonic()
    measured = 0
    with progress_bar(what, length) as show:
        while True:
            answer = reader.receive(length + 2 * SPARE_SECONDS)
            passed = time.monotonic() - began
            if "written" in answer:
                return measured or measure()
            if not measured and passed > length * 0.8:
                measured = measure()
            show(min(passed, length), f"{answer['open']} open, {answer['ended']} ended")


def _steady(sent_at: list[list[int]]) -> tuple[int, int]:
    """From the moment the last generation has begun to the moment the first has ended."""
    begun = [one[0] for one in sent_at if one]
    ended = [one[-1] for one in sent_at if one]
    return (max(begun) + MARGIN_NS, min(ended) - MARGIN_NS) if begun else (0, 0)


def _count_cost(
    outcome: Outcome, samples: tuple[ResourceSample, ResourceSample] | None, sent_at: list[list[int]]
) -> None:
    if samples is None:
        return  # too short for a steady part: latencies only
    first, last = samples
    outcome.seconds = (last.at - first.at) / 1e9
    outcome.tokens = sum(1 for one in sent_at for at in one if first.at <= at < last.at)
    outcome.use = resource_use(first, last)
    outcome.span = (first.at, last.at)
