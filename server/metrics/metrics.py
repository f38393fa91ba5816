"""All that one process counts by itself. What others know (the store, the runs, the drain) is in `present`.

A figure is an attribute that whoever does the thing moves, in one line. Labels are few and known: a provider, a
transport, an outcome, a code, a route's template.
"""

from collections.abc import Iterable

from server.metrics.counting import Counter, Histogram

# Seconds. A first token takes from nothing (demo) to a minute (a model that is being loaded, or thinks).
FIRST_TOKEN = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120)
BETWEEN_TOKENS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
RUN = (0.1, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
COMMIT = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1, 2, 5, 10, 30)
APPENDS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
EVENTS = (*APPENDS, 512, 1024, 2048, 4096)
# Events. A reader that was cut for a second is some tens behind, one that comes back the next day thousands.
BEHIND = (0, 1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 100_000)

TRANSPORTS = ("sse", "ndjson", "websocket", "long_poll")
"""By which a log is read; what else is open (the diagnostics stream) is `other`."""
OUTCOMES = ("completed", "failed", "cancelled", "interrupted")


class Meter:
    """What the runs of one provider come to."""

    __slots__ = ("between_tokens", "first_token", "repaired", "runs", "tokens")

    def __init__(self) -> None:
        self.first_token = Histogram(FIRST_TOKEN)
        self.between_tokens = Histogram(BETWEEN_TOKENS)
        self.runs = {outcome: Histogram(RUN) for outcome in OUTCOMES}
        self.tokens = 0
        self.repaired = 0


class Metrics:
    """One per process."""

    def __init__(self) -> None:
        self.meters: dict[str, Meter] = {}
        self.failures = Counter()
        self.lost_runs = 0
        self.taken_over = 0
        self.put_aside = 0
        self.webhooks = Counter()
        self.commit_seconds = Histogram(COMMIT)
        self.commit_appends = Histogram(APPENDS)
        self.commit_events = Histogram(EVENTS)
        self.behind = {transport: Histogram(BEHIND) for transport in TRANSPORTS}
        self.requests = Counter()
        self.streams_cut = Counter()
        self.streams_cut.expect(("store_away", transport) for transport in TRANSPORTS)

    def meter(self, provider: str, codes: Iterable[str] = ()) -> Meter:
        """The meter of a provider, made at its first run; `codes` are the failures that may come."""
        meter = self.meters.get(provider)
        if meter is None:
            meter = self.meters[provider] = Meter()
            self.failures.expect((provider, code) for code in codes)
        return meter

    def resumed(self, transport: str, behind: int) -> None:
        """A reader came back with a cursor, so many events behind the head of its log."""
        self.behind[transport].observe(behind)

    def committed(self, appends: int, events: int, seconds: float) -> None:
        """A batch is durable."""
        self.commit_seconds.observe(seconds)
        self.commit_appends.observe(appends)
        self.commit_events.observe(events)
