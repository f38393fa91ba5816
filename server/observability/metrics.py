"""What one process counts: plain numbers, moved where the thing happens and read at a scrape.

Owns the two instruments (`Histogram`, `Counter`), the values that a process counts by itself (`Metrics`), and
those that others hold and hand in at a scrape (`Gauges`). The names and help texts of the metrics stand in
`metric_definitions`. Pure: it must not know HTTP, a run or the store's calls. Labels are few and known: a
provider, a transport, an outcome, a code, a route's template; never content, an id or a raw path.

The instruments are our own because they stand in the way of every token and every request: prometheus-client's
take a lock, and look the labels up at each call. Measured side by side, a histogram's `observe` takes 4.6 times
as long there and a counter with three labels 6.5 times, which would be 3 % of the CPU of a poll.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from eventstore import StoreStats


class Histogram:
    """Counts values by buckets. `bounds` are the buckets' upper bounds, in rising order."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Counts one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self._counts)

    def buckets(self) -> list[tuple[str, float]]:
        """The upper bounds as text, `+Inf` last, each with how many values were at most that."""
        found, below = [], 0
        for bound, count in zip((*map(_text, self._bounds), "+Inf"), self._counts, strict=True):
            below += count
            found.append((bound, float(below)))
        return found


class Counter:
    """Counts by label values.

    Keeps at most `most` different combinations of labels, so that a client cannot fill the memory by inventing
    values: each further new combination counts as `other` in every label.
    """

    __slots__ = ("_most", "counts")

    def __init__(self, most: int = 1_000) -> None:
        self._most = most
        self.counts: dict[tuple[str, ...], int] = {}

    def add(self, *labels: str, count: int = 1) -> None:
        """Adds `count` to the number that these labels name."""
        if labels not in self.counts and len(self.counts) >= self._most:
            labels = ("other",) * len(labels)
        self.counts[labels] = self.counts.get(labels, 0) + count

    def expect(self, labels: Iterable[tuple[str, ...]]) -> None:
        """Shows these label values as 0 from now on.

        Prometheus computes a rate from two samples: a series that first appears with the value 1 would never be
        seen to rise.
        """
        for one in labels:
            self.counts.setdefault(one, 0)


def _text(bound: float) -> str:
    return repr(float(bound))


Labels = tuple[str, ...]


def gauge(name: str, text: str, value: float) -> Metric:
    """A number that rises and falls."""
    return GaugeMetricFamily(f"tokentape_{name}", text, value)


def gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """One gauge for each value of one label."""
    family = GaugeMetricFamily(f"tokentape_{name}", text, labels=(label,))
    for labelled, value in values.items():
        family.add_metric((labelled,), value)
    return family


def counter(name: str, text: str, value: float) -> Metric:
    """A number that only rises; `_total` is added to its name."""
    return CounterMetricFamily(f"tokentape_{name}", text, value)


def counters(name: str, text: str, labels: Labels, values: Iterable[tuple[Labels, float]]) -> Metric:
    """One counter for each combination of labels."""
    family = CounterMetricFamily(f"tokentape_{name}", text, labels=labels)
    for labelled, value in values:
        family.add_metric(labelled, value)
    return family


def histograms(name: str, text: str, labels: Labels, values: Iterable[tuple[Labels, Histogram]]) -> Metric:
    """One histogram for each combination of labels; `((), histogram)` for a single one."""
    family = HistogramMetricFamily(f"tokentape_{name}", text, labels=labels)
    for labelled, histogram in values:
        family.add_metric(labelled, histogram.buckets(), histogram.total)
    return family


# Upper bounds in seconds. The first token of the demo takes no time; of a model that is being loaded, a minute.
FIRST_TOKEN = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120)
BETWEEN_TOKENS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
RUN = (0.1, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
COMMIT = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1, 2, 5, 10, 30)
APPENDS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
EVENTS = (*APPENDS, 512, 1024, 2048, 4096)
# Upper bounds in events. After a cut of a second a reader is some tens behind, after a day thousands.
RESUME_LAG = (0, 1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 100_000)

TRANSPORTS = ("sse", "ndjson", "websocket", "long_poll")
"""The transports on which a log is read. Any other open stream, such as the diagnostics stream, counts as
`other`."""
OUTCOMES = ("completed", "failed", "cancelled", "interrupted")


UPLOADS = ("created", "repeated", "refused", "cut")


class ProviderMetrics:
    """What the runs with one provider came to. Histograms are in seconds."""

    __slots__ = ("between_tokens", "first_token", "repaired", "runs", "tokens")

    def __init__(self) -> None:
        self.first_token = Histogram(FIRST_TOKEN)
        self.between_tokens = Histogram(BETWEEN_TOKENS)
        self.runs = {outcome: Histogram(RUN) for outcome in OUTCOMES}
        self.tokens = 0
        self.repaired = 0


class Metrics:
    """Everything that one process counts by itself; there is one per process."""

    def __init__(self) -> None:
        self.providers: dict[str, ProviderMetrics] = {}
        self.failures = Counter()
        self.lost_runs = 0
        self.taken_over = 0
        self.put_aside = 0
        self.webhooks = Counter()
        self.commit_seconds = Histogram(COMMIT)
        self.commit_appends = Histogram(APPENDS)
        self.commit_events = Histogram(EVENTS)
        self.resume_lag = {transport: Histogram(RESUME_LAG) for transport in TRANSPORTS}
        self.uploads = Counter()
        self.uploads.expect((outcome,) for outcome in UPLOADS)
        self.uploaded_bytes = 0
        self.removed_files = 0
        self.requests = Counter()
        self.rate_limited = Counter()
        self.streams_cut = Counter()
        self.streams_cut.expect(("store_away", transport) for transport in TRANSPORTS)

    def provider(self, name: str, codes: Iterable[str] = ()) -> ProviderMetrics:
        """The numbers of one provider, made at its first run; `codes` are the failures that it may report."""
        found = self.providers.get(name)
        if found is None:
            found = self.providers[name] = ProviderMetrics()
            self.failures.expect((name, code) for code in codes)
        return found

    def resumed(self, transport: str, behind: int) -> None:
        """A reader came back with a cursor that was `behind` events behind the head of its log."""
        self.resume_lag[transport].observe(behind)

    def committed(self, appends: int, events: int, seconds: float) -> None:
        """A batch of appends was committed, `seconds` after it was sent."""
        self.commit_seconds.observe(seconds)
        self.commit_appends.observe(appends)
        self.commit_events.observe(events)


@dataclass(frozen=True, slots=True)
class Gauges:
    """What is true at the moment of a scrape, handed in by whoever can see it all.

    `readers`: open streams and held requests, by transport. `most_runs`, `most_streams`: beyond them, new ones are
    refused. `refused`: refused requests, by the code of their problem. `busy`: the share of one core that the
    process used lately, from 0 to 1. `pause`: seconds that a run waits between two reads from its provider.
    `unknown`: messages of providers that no adapter understood, by provider.
    """

    store: StoreStats
    runs: int
    most_runs: int
    readers: Mapping[str, int]
    most_streams: int
    draining: bool
    refused: Mapping[str, int]
    busy: float
    pause: float
    unknown: Mapping[str, int]
