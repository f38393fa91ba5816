"""Percentiles, timestamps as text, the attribution of CPU time, and pictures."""

from collections.abc import Callable
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.analysis import charts, cpu_attribution
from bench.analysis.percentiles import Summary, percentile, steps, summarise
from bench.analysis.token_delivery import TIMESTAMP_LENGTH, TIMESTAMP_UNIT_NS, timestamp_text

VALUES = st.lists(st.floats(0, 1e6), min_size=1)


@given(VALUES, st.floats(0.01, 100))
def test_a_percentile_is_the_smallest_value_with_enough_at_or_below(values: list[float], percent: float) -> None:
    ordered = sorted(values)
    found = percentile(ordered, percent)
    assert found in values
    assert sum(value <= found for value in values) >= len(values) * percent / 100 - 1e-6
    assert sum(value < found for value in values) < len(values) * percent / 100 + 1e-6


def test_known_percentiles() -> None:
    assert summarise([float(n) for n in range(1, 101)]) == Summary(100, 50, 90, 99, 100)
    assert summarise([7.0]) == Summary(1, 7, 7, 7, 7)
    assert summarise([]).count == 0


@pytest.mark.parametrize("percent", [0, -1, 100.1])
def test_a_percentile_outside_is_refused(percent: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        percentile([1.0], percent)


def test_percentile_of_no_values_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


@given(VALUES)
def test_steps_of_a_distribution_are_increasing(values: list[float]) -> None:
    found = steps(values)
    assert [y for _, y in found] == sorted(y for _, y in found)
    assert all(0 < x < 100 for x, _ in found)
    assert bool(found) == (len(values) > 1)


@given(st.integers(0, 2**62), st.integers(1, 1_000_000))
def test_texts_of_stamps_differ_when_the_stamps_do(stamp: int, units: int) -> None:
    assert timestamp_text(stamp) != timestamp_text(stamp + units * TIMESTAMP_UNIT_NS)
    assert len(timestamp_text(stamp)) == TIMESTAMP_LENGTH
    assert timestamp_text(stamp).replace("-", "a").replace("_", "a").isalnum()


SITE = "/home/x/.venv/lib/python3.11/site-packages"


@pytest.mark.parametrize(
    ("stack", "component"),
    [
        (["/x/server/wire_formats.py:frame", "/x/server/transports/stream_body.py:StreamBody.__anext__"], "wire"),
        ([f"{SITE}/trio/_socket.py:send", f"{SITE}/hypercorn/trio/tcp_server.py:send"], "hypercorn and h11"),
        ([f"{SITE}/trio/_socket.py:recv", "/x/server/http_client/connection_pool.py:receive"], "upstream"),
        (["/x/server/observability/metrics.py:count", "/x/server/runtime/x.py:f"], "metrics"),
        (["/x/server/observability/logs.py:info", "/x/server/runtime/x.py:f"], "logs"),
        ([f"{SITE}/trio/_core/_run.py:unrolled_run"], "trio"),
        (["/usr/lib/python3.11/json/encoder.py:encode", "/x/server/web/views.py:encode"], "web"),
        (
            ["/x/eventstore/postgres/asyncpg_trio.py:run", "/x/eventstore/postgres/postgres_backend.py:append"],
            "asyncpg and bridge",
        ),
        (
            ["/usr/lib/python3.11/runpy.py:_run_code", "/x/bench/processes/server_launcher.py:main"],
            cpu_attribution.UNKNOWN,
        ),
    ],
)
def test_a_sample_counts_for_the_innermost_known_component(stack: list[str], component: str) -> None:
    assert cpu_attribution.component_of(stack) == component


def test_time_in_the_http_server_is_spent_sending() -> None:
    assert (
        cpu_attribution.stage_of(cpu_attribution.component_of(["/x/server/http/direct_write.py:send"]))
        == "sending"
    )


def test_a_tasks_frames_are_those_inside_the_scheduler() -> None:
    stack = ["/x/a.py:inner", "/x/b.py:outer", f"{SITE}/trio/_core/_run.py:unrolled_run", "/x/main.py:main"]
    assert cpu_attribution.task_frames(stack) == ["/x/b.py:outer", "/x/a.py:inner"]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: charts.bars("T <&>", "ms", {"a & b": 1.0, "<c>": 0.0}),
        lambda: charts.bars("nothing", "ms", {}),
        lambda: charts.lines("T", "x", "y", {"a": [(1, 2), (3, 4)]}, goal=10),
        lambda: charts.lines("T", "x", "y", {"a": steps([1.0, 2.0, 900.0])}, log_x=True),
        lambda: charts.lines("T", "x", "y", {"none": []}),
        lambda: charts.lines("T", "answers", "MiB", {"a": [(float(n), 1) for n in range(0, 3_100, 100)]}),
        lambda: charts.icicle("T", {("a", "b"): 3, ("a", "<c>"): 5, ("d",): 1}, {"a": 1}),
        lambda: charts.icicle("T", {}, {}),
    ],
)
def test_pictures_are_well_formed_and_stay_inside(draw: Callable[[], str]) -> None:
    root = ElementTree.fromstring(draw())  # our own
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for shape in root.iter("{http://www.w3.org/2000/svg}rect"):
        x, y, w, h = (float(shape.attrib[name]) for name in ("x", "y", "width", "height"))
        assert min(x, y, w, h) >= 0
        assert x + w <= width + 0.5
        assert y + h <= height + 0.5


def test_many_values_of_x_have_few_round_ticks() -> None:
    drawn = charts.lines("T", "x", "y", {"a": [(float(n), 1.0) for n in range(0, 3_100, 100)]})
    texts = [one.text for one in ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")]
    assert {"0", "400", "2,800"} <= set(texts)
    assert "100" not in texts


def test_an_icicle_gives_each_frame_its_share() -> None:
    drawn = charts.icicle("T", {("a", "b"): 3, ("a", "c"): 1}, {})
    tips = [one.text for one in ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}title")]
    assert {"a: 100.0 %", "b: 75.0 %", "c: 25.0 %"} <= set(tips)
