"""Figures as Prometheus' metric families: a name with its unit, a help that teaches, samples. Pure."""

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from server.metrics.counting import Histogram

Labels = tuple[str, ...]


def gauge(name: str, text: str, value: float) -> Metric:
    """A number that rises and falls."""
    return GaugeMetricFamily(f"tokentape_{name}", text, value)


def gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """One by one label."""
    family = GaugeMetricFamily(f"tokentape_{name}", text, labels=(label,))
    for labelled, value in values.items():
        family.add_metric((labelled,), value)
    return family


def counter(name: str, text: str, value: float) -> Metric:
    """A number that only rises; `_total` is added to its name."""
    return CounterMetricFamily(f"tokentape_{name}", text, value)


def counters(name: str, text: str, labels: Labels, values: Iterable[tuple[Labels, float]]) -> Metric:
    """One by labels."""
    family = CounterMetricFamily(f"tokentape_{name}", text, labels=labels)
    for labelled, value in values:
        family.add_metric(labelled, value)
    return family


def histograms(name: str, text: str, labels: Labels, values: Iterable[tuple[Labels, Histogram]]) -> Metric:
    """How values are spread, by labels (none: one histogram)."""
    family = HistogramMetricFamily(f"tokentape_{name}", text, labels=labels)
    for labelled, histogram in values:
        family.add_metric(labelled, histogram.buckets(), histogram.total)
    return family
