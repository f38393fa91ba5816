"""What the store tells this process: commits go to the metrics, an outage is one log line at its start and one at
its end, however many requests met it.
"""

from eventstore import Observer
from server import logs
from server.metrics import Metrics

log = logs.get("store")


class StoreWatch(Observer):
    """The observer of a process's one store."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def committed(self, appends: int, events: int, seconds: float) -> None:
        """A batch is durable."""
        self._metrics.committed(appends, events, seconds)

    def away(self, why: str) -> None:
        """The database does not answer any more."""
        log.warning("store unavailable", why=why)

    def back(self, seconds: float, failures: int) -> None:
        """It answers again."""
        log.info("store available again", seconds=round(seconds, 3), failures=failures)
