"""Every metric: its name, its labels and its help text, and the page that shows them all.

A help text says what moves the metric and, where that is not plain, what to conclude from it. `MetricsPage`
encodes them in Prometheus' text format or in OpenMetrics, as the scraper asks. Pure: it must not know HTTP.
Nothing is asked of the database, so a scrape is answered while the database is away.
"""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from eventstore import StoreStats
from server import __version__
from server.observability.metrics import TRANSPORTS, Gauges, Metrics, counter, counters, gauge, gauges, histograms

QUIET_SECONDS = 5.0
"""A process asks the database something twice a second: one that has said nothing for so long hangs."""


def runs(metrics: Metrics, now: Gauges) -> Iterable[Metric]:
    """Metrics of runs and of what their providers sent."""
    providers = metrics.providers.items()
    return (
        histograms(
            "time_to_first_token_seconds",
            "From the start of a run to its first token from the upstream.",
            ("provider",),
            (((name,), provider.first_token) for name, provider in providers),
        ),
        histograms(
            "time_between_tokens_seconds",
            "Between one arrival of tokens in a run and its next; tokens that arrive together are one arrival. "
            "The next is asked for when the last is durable, so a slow database shows here too: compare with "
            "tokentape_commit_seconds.",
            ("provider",),
            (((name,), provider.between_tokens) for name, provider in providers),
        ),
        counters(
            "tokens",
            "Tokens appended to the log by runs of this process.",
            ("provider",),
            (((name,), provider.tokens) for name, provider in providers),
        ),
        counters(
            "repaired_characters",
            "Characters of upstreams replaced by U+FFFD because they cannot be stored (U+0000, unpaired "
            "surrogates, broken UTF-8). Any at all: that upstream cuts its text wrongly.",
            ("provider",),
            (((name,), provider.repaired) for name, provider in providers),
        ),
        counters(
            "unknown_upstream_messages",
            "Messages in upstreams' streams that were not understood, and passed by: pings of gateways, events of "
            "a newer version. Many, with failures beside them: that upstream speaks another format.",
            ("provider",),
            (((name,), count) for name, count in now.unknown.items()),
        ),
        gauge(
            "runs_running",
            "Generations this process drives now, those that wait for people or their turn too.",
            now.runs,
        ),
        gauge("busy_ratio", "Share of a core this process used lately; Python runs on one.", now.busy),
        gauge(
            "run_pause_seconds",
            "How long runs wait between two looks at their upstream, so that a busy process takes several tokens "
            "round in one go. Above 0: more processes would make it faster.",
            now.pause,
        ),
        gauge("runs_limit", "How many it takes on (TOKENTAPE_MAX_RUNS); beyond that 503.", now.most_runs),
        histograms(
            "run_seconds",
            "How long runs took that are over, by outcome; its _count is how many there were. cancelled: ended "
            "from outside, by a client or by a process that took this one for lost.",
            ("provider", "outcome"),
            (
                ((name, outcome), spread)
                for name, provider in providers
                for outcome, spread in provider.runs.items()
            ),
        ),
        counters(
            "run_failures",
            "Runs that failed, by the code in their generation.failed. upstream_…: the provider or the way to "
            "it, after the retries; store_unavailable, server_stopped, internal_error: this server.",
            ("provider", "code"),
            metrics.failures.counts.items(),
        ),
        counter(
            "lost_runs_ended",
            "Runs of other processes that this one ended as worker_lost: a process died, or could not reach the "
            "database for longer than the sweep waits.",
            metrics.lost_runs,
        ),
        counter(
            "runs_taken_over",
            "Runs of other processes that this one went on with: workflows, models with tools, queues. And its "
            "own, after its database was away.",
            metrics.taken_over,
        ),
        gauge(
            "orphans_put_aside",
            "Runs and webhooks that nobody drives and this process could not see to: their conversation cannot be "
            "folded, or the database refuses their next event. Looked at again, less and less often. Above 0: "
            "look for 'put aside' in the log.",
            metrics.put_aside,
        ),
        counters(
            "webhook_tries",
            "Webhooks, by what came of them: delivered; failed, to be tried again; gave_up.",
            ("outcome",),
            metrics.webhooks.counts.items(),
        ),
    )


def readers(metrics: Metrics, now: Gauges) -> Iterable[Metric]:
    """Metrics of readers and of how they resume."""
    return (
        gauges(
            "readers",
            "Open streams and held requests, by transport. Slow ones cost no more than others: nobody is dropped "
            "for being slow.",
            "transport",
            {**dict.fromkeys((*TRANSPORTS, "other"), 0), **now.readers},
        ),
        gauge(
            "readers_limit",
            "How many may be open at once (TOKENTAPE_MAX_STREAMS, or what the limit of open files allows).",
            now.most_streams,
        ),
        histograms(
            "resume_behind_events",
            "Events between the cursor of a reader that came back and the head of its log, by transport; its "
            "_count is how many came back (a held poll does each time). Large ones: clients are away for long, or "
            "cannot keep up.",
            ("transport",),
            (((transport,), lag) for transport, lag in metrics.resume_lag.items()),
        ),
        counters(
            "streams_cut",
            "Streams ended early by this server, though their log went on; the client comes back with its cursor.",
            ("reason", "transport"),
            metrics.streams_cut.counts.items(),
        ),
        counters(
            "rate_limited",
            "Requests, streams and runs refused because their caller has reached a limit, such as key.requests.",
            ("limit",),
            metrics.rate_limited.counts.items(),
        ),
        counters(
            "turned_away",
            "New work and streams refused for a while: draining (this server stops), overloaded (all streams are "
            "taken). A browser's EventSource is refused with status 200, so requests by status do not show these.",
            ("code",),
            (((code,), count) for code, count in now.refused.items()),
        ),
        gauge("draining", "1 while the server stops: streams end, new work is refused.", now.draining),
    )


def store(metrics: Metrics, now: StoreStats) -> Iterable[Metric]:
    """Metrics of the event store: commits, queues, recent events in memory, and whether the database answers."""
    up = now.up and now.quiet_seconds < QUIET_SECONDS
    by_queue = sorted(now.refused.items())
    return (
        histograms("commit_seconds", "From sending a batch to its commit.", (), [((), metrics.commit_seconds)]),
        histograms(
            "commit_appends",
            "Appends in a batch. Group commit takes what waits: batches grow when commits are slow or runs many.",
            (),
            [((), metrics.commit_appends)],
        ),
        histograms("commit_events", "Events in a batch.", (), [((), metrics.commit_events)]),
        gauges(
            "store_waiting",
            "Questions to the database that no batch has taken yet. Appends that stay above 0: it is too slow.",
            "queue",
            now.waiting,
        ),
        counters(
            "store_refused",
            "Questions turned away because too many waited.",
            ("queue",),
            (((name,), n) for name, n in by_queue),
        ),
        counter("tail_hits", "Looks of readers answered from the recent events in memory.", now.tail_hits),
        counter(
            "tail_misses",
            "Looks that asked the database: behind the tail, or at the head, where only it can say: nothing new.",
            now.tail_misses,
        ),
        gauge("tail_bytes", "Memory that recent events take.", now.tail_bytes),
        gauge("store_up", "1 while the database answers; else 0. Known from the process's own questions.", up),
        gauge("store_quiet_seconds", "Since the database last answered anything.", now.quiet_seconds),
        counter("store_outages", "How often the database stopped answering.", now.outages),
        counter("store_away_seconds", "How long all outages took, with the one under way.", now.away_seconds),
        counters(
            "store_failures",
            "Calls the database did not answer, by kind: lost (no connection, or it cannot serve), locked (a row "
            "was held for too long), timeout (no answer in time), away (any other).",
            ("kind",),
            (((kind,), now.failures.get(kind, 0)) for kind in ("away", "locked", "lost", "timeout")),
        ),
        counter(
            "commits_sent_again",
            "Batches sent again because their answer was lost. Harmless: an append that stands is not repeated.",
            now.retries.get("append", 0),
        ),
        counter("appends_repeated", "Appends found to stand in the log already.", now.repeated),
    )


def files(metrics: Metrics) -> Iterable[Metric]:
    """Metrics of uploaded files."""
    return (
        counters(
            "uploads",
            "Uploads, by what came of them: created; repeated, where the tenant had the file; refused; cut, where "
            "the client went away or the database did not answer.",
            ("outcome",),
            metrics.uploads.counts.items(),
        ),
        counter(
            "uploaded_bytes",
            "Bytes of files received, also of uploads that came to nothing.",
            metrics.uploaded_bytes,
        ),
        counter(
            "removed_files",
            "Files that this process removed because nothing uses them any more, and uploads that stood still.",
            metrics.removed_files,
        ),
    )


def requests(metrics: Metrics) -> Iterable[Metric]:
    """Metrics of HTTP requests."""
    return (
        counters(
            "http_requests",
            "Requests answered, by the route's template; streams count when they begin.",
            ("method", "route", "status"),
            metrics.requests.counts.items(),
        ),
    )


class MetricsPage:
    """Renders the metrics of one process.

    `read_gauges` returns the values of this moment; it must not ask the database or any other process. The
    registry is this page's own, so that nothing a library puts into the global registry shows up here.
    """

    def __init__(self, metrics: Metrics, read_gauges: Callable[[], Gauges]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Families(metrics, read_gauges))
        ProcessCollector(registry=self._registry)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The page and its media type; `accept` is the header of that name."""
        encode, media_type = choose_encoder(accept)
        return encode(self._registry), media_type


class _Families(Collector):
    def __init__(self, metrics: Metrics, read_gauges: Callable[[], Gauges]) -> None:
        self._metrics = metrics
        self._read_gauges = read_gauges

    def describe(self) -> Iterable[Metric]:
        """Returns nothing: otherwise the registry would call `collect` at once, before there is anything to
        read."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """All metrics, with the values of this moment."""
        now = self._read_gauges()
        info = InfoMetricFamily("tokentape_build", "Which Tokentape this is.")
        info.add_metric((), {"version": __version__})
        return (
            info,
            *runs(self._metrics, now),
            *readers(self._metrics, now),
            *store(self._metrics, now.store),
            *files(self._metrics),
            *requests(self._metrics),
        )
