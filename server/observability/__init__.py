"""Log lines and metrics of one process.

`logs`: structured log lines. `metrics`: what is counted. `metric_definitions`: the names and help texts under
which `/metrics` shows it. It must not know HTTP or any other room of the server.
"""

from server.observability.metric_definitions import MetricsPage
from server.observability.metrics import Gauges, Metrics, ProviderMetrics

__all__ = ["Gauges", "Metrics", "MetricsPage", "ProviderMetrics"]
