"""Percentiles, stamps, rooms and pictures, against what they are by definition."""

from collections.abc import Callable
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.figures import charts, rooms
from bench.figures.percentiles import Spread, percentile, spread, steps
from bench.figures.stamps import LENGTH, UNIT_NS, text_of

VALUES = st.lists(st.floats(0, 1e6), min_size=1)


@given(VALUES, st.floats(0.01, 100))
def test_a_percentile_is_the_smallest_value_with_enough_at_or_below(values: list[float], percent: float) -> None:
    ordered = sorted(values)
    found = percentile(ordered, percent)
    assert found in values
    assert sum(value <= found for value in values) >= len(values) * percent / 100 - 1e-6
    assert sum(value < found for value in values) < len(values) * percent / 100 + 1e-6


def test_known_percentiles() -> None:
    assert spread([float(n) for n in range(1, 101)]) == Spread(100, 50, 90, 99, 100)
    assert spread([7.0]) == Spread(1, 7, 7, 7, 7)
    assert spread([]).count == 0


@pytest.mark.parametrize("percent", [0, -1, 100.1])
def test_a_percentile_outside_is_refused(percent: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        percentile([1.0], percent)


def test_of_nothing_there_is_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


@given(VALUES)
def test_the_steps_of_a_distribution_rise(values: list[float]) -> None:
    found = steps(values)
    assert [y for _, y in found] == sorted(y for _, y in found)
    assert all(0 < x < 100 for x, _ in found)
    assert bool(found) == (len(values) > 1)


@given(st.integers(0, 2**62), st.integers(1, 1_000_000))
def test_texts_of_stamps_differ_when_the_stamps_do(stamp: int, units: int) -> None:
    assert text_of(stamp) != text_of(stamp + units * UNIT_NS)
    assert len(text_of(stamp)) == LENGTH
    assert text_of(stamp).replace("-", "a").replace("_", "a").isalnum()


SITE = "/home/x/.venv/lib/python3.11/site-packages"


@pytest.mark.parametrize(
    ("stack", "room"),
    [
        (["/x/server/wire/sse.py:frame", "/x/server/web/streams.py:_Body.__anext__"], "wire"),
        ([f"{SITE}/trio/_socket.py:send", f"{SITE}/hypercorn/trio/tcp_server.py:send"], "hypercorn and h11"),
        ([f"{SITE}/trio/_socket.py:recv", "/x/server/upstream/connection.py:receive"], "upstream"),
        ([f"{SITE}/trio/_core/_run.py:unrolled_run"], "trio"),
        (["/usr/lib/python3.11/json/encoder.py:encode", "/x/server/web/views.py:encode"], "web"),
        (["/x/eventstore/postgres/bridge.py:run", "/x/eventstore/postgres/log.py:append"], "asyncpg and bridge"),
        (["/usr/lib/python3.11/runpy.py:_run_code", "/x/bench/processes/launch.py:main"], rooms.REST),
    ],
)
def test_the_innermost_known_room_pays(stack: list[str], room: str) -> None:
    assert rooms.room(stack) == room


def test_the_time_in_our_connections_goes_to_the_sending() -> None:
    assert rooms.stage(rooms.room(["/x/server/http/direct_write.py:send"])) == "sending"


def test_a_task_is_what_the_scheduler_called() -> None:
    stack = ["/x/a.py:inner", "/x/b.py:outer", f"{SITE}/trio/_core/_run.py:unrolled_run", "/x/main.py:main"]
    assert rooms.task(stack) == ["/x/b.py:outer", "/x/a.py:inner"]


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
