"""Polls by helper processes, and what they cost the server and themselves.

Owns how many client processes there are and how their recordings are brought together; must not know what is
polled.
"""

import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bench.stand.helper import helper
from bench.stand.proc import cpu_clock
from bench.stand.server import Server

SPARE_SECONDS = 30.0
Rows = list[tuple[int, float, int]]
"""When it was asked (monotonic ns), how long the answer took (ms), its status."""


@dataclass(frozen=True, slots=True)
class Asking:
    """Who asks what. `pause` in seconds between an answer and the next request.

    With a `body` it is a POST. `count` answers are wanted; 0: as many as there is time for.
    """

    path: str
    pollers: int
    seconds: float
    pause: float = 0.0
    etag: bool = False
    body: str = ""
    count: int = 0


@dataclass(slots=True)
class Polled:
    """What came of it. CPU in seconds, the server's own over `wall` seconds; `locations` of what was made."""

    rows: Rows = field(default_factory=list)
    locations: list[str] = field(default_factory=list)
    server_cpu: float = 0.0
    client_cpu: float = 0.0
    wall: float = 0.0
    reconnects: int = 0

    @property
    def statuses(self) -> Counter[int]:
        """How many answers had which."""
        return Counter(status for _, _, status in self.rows)


def poll(server: Server, asking: Asking, clients: int = 1) -> Polled:
    """Asks from so many processes, the pollers shared out among them.

    Raises `HelperFailed` when one breaks off.
    """
    found = Polled()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        helpers = [stack.enter_context(helper("poller")) for _ in range(min(clients, asking.pollers))]
        began, before = time.monotonic(), cpu_clock(server.pid)
        for n, one in enumerate(helpers):
            one.tell(
                port=server.port,
                path=asking.path,
                pollers=_share(asking.pollers, n, len(helpers)),
                pause=asking.pause,
                etag=asking.etag,
                seconds=asking.seconds,
                body=asking.body,
                count=_share(asking.count, n, len(helpers)),
                out=str(folder / str(n)),
            )
        for one in helpers:
            one.until("written", asking.seconds + SPARE_SECONDS)
        found.server_cpu = cpu_clock(server.pid) - before
        found.wall = time.monotonic() - began
        for n in range(len(helpers)):
            part = msgspec.msgpack.decode((folder / str(n)).read_bytes())
            found.rows += part["rows"]
            found.locations += part["locations"]
            found.client_cpu += part["cpu"]
            found.reconnects += part["reconnects"]
    return found


def _share(whole: int, number: int, parts: int) -> int:
    return whole // parts + (number < whole % parts)
