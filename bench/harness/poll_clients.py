"""Polls a server from child processes, and measures what that costs the server and the clients.

Owns how many client processes there are and how their recordings are brought together; it must not know what is
polled.
"""

import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bench.harness.child_process import child_process
from bench.harness.resource_usage import cpu_clock
from bench.harness.server_process import Server

SPARE_SECONDS = 30.0
Rows = list[tuple[int, float, int]]
"""For each request: when it was sent (monotonic ns), how long the answer took (ms), the status."""


@dataclass(frozen=True, slots=True)
class PollPlan:
    """What is polled, and how.

    `pause`: seconds between an answer and the next request. `etag`: send the last ETag as If-None-Match. `body`:
    if not empty, each request is a POST of it. `count`: end after so many answers; 0: poll for all `seconds`.
    """

    path: str
    pollers: int
    seconds: float
    pause: float = 0.0
    etag: bool = False
    body: str = ""
    count: int = 0


@dataclass(slots=True)
class PollResult:
    """All answers. CPU in seconds, the server's own over `wall` seconds; `locations`: of each answer."""

    rows: Rows = field(default_factory=list)
    locations: list[str] = field(default_factory=list)
    server_cpu: float = 0.0
    client_cpu: float = 0.0
    wall: float = 0.0
    reconnects: int = 0

    @property
    def statuses(self) -> Counter[int]:
        """How many answers had each status."""
        return Counter(status for _, _, status in self.rows)


def poll(server: Server, plan: PollPlan, clients: int = 1) -> PollResult:
    """Polls from `clients` processes, the pollers shared out among them.

    Raises `ChildProcessFailed` when a process fails.
    """
    result = PollResult()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        processes = [
            stack.enter_context(child_process("polling_clients")) for _ in range(min(clients, plan.pollers))
        ]
        began, before = time.monotonic(), cpu_clock(server.pid)
        for n, process in enumerate(processes):
            process.send(
                port=server.port,
                path=plan.path,
                pollers=_share(plan.pollers, n, len(processes)),
                pause=plan.pause,
                etag=plan.etag,
                seconds=plan.seconds,
                body=plan.body,
                authorization=server.authorization,
                count=_share(plan.count, n, len(processes)),
                out=str(folder / str(n)),
            )
        for process in processes:
            process.wait_for("written", plan.seconds + SPARE_SECONDS)
        result.server_cpu = cpu_clock(server.pid) - before
        result.wall = time.monotonic() - began
        for n in range(len(processes)):
            part = msgspec.msgpack.decode((folder / str(n)).read_bytes())
            result.rows += part["rows"]
            result.locations += part["locations"]
            result.client_cpu += part["cpu"]
            result.reconnects += part["reconnects"]
    return result


def _share(whole: int, number: int, parts: int) -> int:
    return whole // parts + (number < whole % parts)
