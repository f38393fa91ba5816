"""The histogram and the counter: they count as prometheus-client's do, and stay bounded."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Histogram as Reference

from server.observability.metrics import Counter, Histogram

BOUNDS = (0, 0.001, 0.5, 1, 2.5, 10, 1000)
VALUES = st.lists(st.one_of(st.sampled_from(BOUNDS), st.floats(0, 2_000)), max_size=50)


@given(VALUES)
def test_histogram_counts_as_prometheus_client(values: list[float]) -> None:
    ours, registry = Histogram(BOUNDS), CollectorRegistry()
    theirs = Reference("x", "x", buckets=BOUNDS, registry=registry)
    for value in values:
        ours.observe(value)
        theirs.observe(value)
    lines = generate_latest(registry).decode().splitlines()
    for bound, below in ours.buckets():
        assert f'x_bucket{{le="{bound}"}} {below}' in lines
    assert f"x_count {float(ours.count)}" in lines
    assert f"x_sum {ours.total}" in lines


def test_counter_counts_by_labels() -> None:
    counter = Counter()
    counter.expect([("GET", "200"), ("GET", "503")])
    counter.add("GET", "200")
    counter.add("GET", "200", count=2)
    counter.add("PUT", "405")
    assert counter.counts == {("GET", "200"): 3, ("GET", "503"): 0, ("PUT", "405"): 1}


def test_counter_has_a_bound() -> None:
    """Whatever clients request, the memory and the page stay small."""
    counter = Counter(most=3)
    for n in range(100):
        counter.add("GET", str(n))
    assert len(counter.counts) == 4
    assert counter.counts["other", "other"] == 97
    counter.add("GET", "1")
    assert counter.counts["GET", "1"] == 2
