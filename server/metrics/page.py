"""The page that a scrape gets: every family, in Prometheus' text format or in OpenMetrics, as it asks.

A registry of this process's own: nothing that a library puts into the global one shows up here.
"""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from server import __version__
from server.metrics.metrics import Metrics
from server.metrics.present import Present
from server.metrics.shown import readers, requests, runs, store


class Page:
    """Renders the metrics of one process. `look` tells what is so at the moment; it must ask nobody."""

    def __init__(self, metrics: Metrics, look: Callable[[], Present]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Own(metrics, look))
        ProcessCollector(registry=self._registry)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The page and its media type; `accept` is the header of that name."""
        encode, media_type = choose_encoder(accept)
        return encode(self._registry), media_type


class _Own(Collector):
    def __init__(self, metrics: Metrics, look: Callable[[], Present]) -> None:
        self._metrics = metrics
        self._look = look

    def describe(self) -> Iterable[Metric]:
        """Nothing: else registering would collect once, before there is anything to look at."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """All families."""
        now = self._look()
        info = InfoMetricFamily("tokentape_build", "Which Tokentape this is.")
        info.add_metric((), {"version": __version__})
        return (
            info,
            *runs(self._metrics, now),
            *readers(self._metrics, now),
            *store(self._metrics, now.store),
            *requests(self._metrics),
        )
