"""The setting: read at the start, refused there where it is not well written, and shown in the metrics."""

import pytest

from server.auth.memory_auth_store import MemoryAuthStore
from server.config import BadSettings, Settings
from server.observability import Metrics
from server.process.authentication import make_rate_limiter


def test_a_bad_limit_stops_the_start() -> None:
    with pytest.raises(BadSettings, match=r"^TOKENTAPE_LIMITS: key\.runs=3/s: it has to be a whole number"):
        make_rate_limiter(Settings(limits="user.runs=3, key.runs=3/s"), MemoryAuthStore(), Metrics())


def test_each_limit_is_a_metric_before_it_has_refused_anybody() -> None:
    metrics = Metrics()
    make_rate_limiter(Settings(limits="user.runs=3, key.requests=1/s"), MemoryAuthStore(), metrics)
    assert metrics.rate_limited.counts == {("user.runs",): 0, ("key.requests",): 0}
    make_rate_limiter(Settings(), MemoryAuthStore(), empty := Metrics())
    assert not empty.rate_limited.counts
