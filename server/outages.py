"""What the store tells this process: commits go to the metrics, an outage is one log line at its start and one at
its end, however many requests met it.
"""

import trio

from eventstore import Observer
from server import logs
from server.metrics import Metrics

log = logs.get("store")

QUIET_SECONDS = 10.0


class StoreWatch(Observer):
    """The observer of a process's one store."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._rewound_at = -QUIET_SECONDS

    def committed(self, appends: int, events: int, seconds: float) -> None:
        """A batch is durable."""
        self._metrics.committed(appends, events, seconds)

    def away(self, why: str) -> None:
        """The database does not answer any more."""
        log.warning("store unavailable", why=why)

    def back(self, seconds: float, failures: int) -> None:
        """It answers again."""
        log.info("store available again", seconds=round(seconds, 3), failures=failures)

    def neglected(self, call: str, why: str) -> None:
        """Something that keeps the log tidy cannot be done; requests are served."""
        log.warning("store maintenance fails", call=call, why=why)

    def rewound(self, stream: str, seen: int, head: int) -> None:
        """A stream went back; it is said once in a while, however many readers meet it."""
        now = trio.current_time()
        if now >= self._rewound_at + QUIET_SECONDS:
            self._rewound_at = now
            log.warning("log went back", stream=stream, seen=seen, head=head)

    def moved(self, why: str) -> None:
        """The log went on from an earlier state, or is another database."""
        log.warning("store moved", why=why)
