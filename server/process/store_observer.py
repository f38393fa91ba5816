"""What the event store reports to its process: commits go to the metrics, an outage to the log.

An outage is one log line when it begins and one when it ends, however many requests met it. It must not know
requests.
"""

import trio

from eventstore import Observer
from server.observability import Metrics, logs

log = logs.get("store")

REWOUND_LOG_SECONDS = 10.0
"""At most one line about streams that went back in so many seconds."""


class StoreObserver(Observer):
    """The observer of a process's one event store."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._rewound_at = -REWOUND_LOG_SECONDS

    def committed(self, appends: int, events: int, seconds: float) -> None:
        """A batch of appends was committed, `seconds` after it was sent."""
        self._metrics.committed(appends, events, seconds)

    def unavailable(self, why: str) -> None:
        """The database stopped answering."""
        log.warning("store unavailable", why=why)

    def available(self, seconds: float, failures: int) -> None:
        """The database answers again, after `seconds` and so many failed calls."""
        log.info("store available again", seconds=round(seconds, 3), failures=failures)

    def maintenance_failed(self, call: str, why: str) -> None:
        """A maintenance call fails; reads and appends are served as before."""
        log.warning("store maintenance fails", call=call, why=why)

    def rewound(self, stream: str, seen: int, head: int) -> None:
        """The head of `stream` went back from `seen` to `head`. One line in a while, however many readers meet
        it."""
        now = trio.current_time()
        if now >= self._rewound_at + REWOUND_LOG_SECONDS:
            self._rewound_at = now
            log.warning("log went back", stream=stream, seen=seen, head=head)

    def history_changed(self, why: str) -> None:
        """The database is another one than before, or continues from an earlier state."""
        log.warning("store moved", why=why)
