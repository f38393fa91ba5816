"""Two revisions side by side: their figures, their table, and the code of the former one."""

from pathlib import Path

import pytest

from bench.analysis.comparison import Comparison, Measure, number, ratio_text
from bench.analysis.token_delivery import Delivery
from bench.benchmark import Report, markdown_table
from bench.benchmarks import single_stream
from bench.benchmarks.memory_growth import slope
from bench.benchmarks.reconnect_storm import served_curve, split
from bench.harness.child_process import ROOT
from bench.harness.git_revision import BEFORE, NOW, PRESENT, Revision, UnknownRevision, revisions, unpack
from bench.harness.postgres import Postgres
from bench.harness.raw_http import send_request
from bench.harness.server_process import serving

CHECKOUT = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="a former revision needs a git checkout")
MEASURES = (Measure("polls", "/s", 100, at_least=True), Measure("cost", "ms", 2.0), Measure("size", "MiB"))


def compared() -> Comparison:
    found = Comparison(MEASURES)
    for before, now in ((10, 200), (40, 400), (20, 2_000)):  # ratios of 20, 10 and 100
        found.note(BEFORE, "polls", before)
        found.note(NOW, "polls", now)
    found.note(NOW, "cost", 2.5)
    return found


def test_the_ratio_is_the_median_of_the_turns_ratios() -> None:
    """Of what was measured together: not the ratio of the medians."""
    assert ratio_text({BEFORE: [1, 10, 100], NOW: [2, 50, 300]}, BEFORE, NOW) == "3 ×"  # 2, 5, 3; 50 by 10 is 5
    polls, cost = compared().lines(BEFORE, NOW)
    assert (polls.before, polls.now, polls.ratio) == ("20 /s", "400 /s", "20 ×")
    assert (cost.before, cost.now, cost.ratio) == ("", "2.5 ms", "")


def test_a_measure_without_values_has_no_line_and_an_unknown_one_is_refused() -> None:
    found = compared()
    assert [line.what for line in found.lines(BEFORE, NOW)] == ["polls", "cost"]
    with pytest.raises(KeyError):
        found.note(NOW, "poles", 1)


@pytest.mark.parametrize(
    ("measure", "value", "holds", "text"),
    [
        (MEASURES[0], 100, True, "≥ 100 /s"),
        (MEASURES[0], 99.9, False, "≥ 100 /s"),
        (MEASURES[1], 2.0, True, "≤ 2 ms"),
        (MEASURES[1], 2.01, False, "≤ 2 ms"),
        (MEASURES[2], 7, None, ""),
    ],
)
def test_measure_holds_its_goal(measure: Measure, value: float, holds: bool | None, text: str) -> None:
    assert measure.holds(value) is holds
    assert measure.goal_text == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.01234, "0.0123"), (5.0, "5"), (99.94, "99.9"), (12_345.6, "12,346")]
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_the_table_has_the_former_state_where_there_is_one() -> None:
    report = Report()
    report.add_comparison(compared())
    head, _, polls, cost = markdown_table(report).splitlines()
    assert head == "| | before | now | ratio | goal | holds |"
    assert polls == "| polls | 20 /s | 400 /s | 20 × | ≥ 100 /s | yes |"
    assert cost == "| cost |  | 2.5 ms |  | ≤ 2 ms | NO |"


def test_the_table_of_the_present_alone_has_no_columns_for_another() -> None:
    found = Comparison(MEASURES)
    found.note(NOW, "size", 1)
    report = Report()
    report.add_comparison(found)
    assert markdown_table(report).splitlines()[0] == "| | figure | goal | holds |"


def test_bars_are_named_by_revision_where_there_are_two() -> None:
    assert compared().medians(["polls"]) == {"polls, before": 20, "polls, now": 400}
    assert compared().medians(["cost", "size"]) == {"cost": 2.5}


def test_a_slope_is_that_of_the_line() -> None:
    assert slope([(x, 3 * x + 7) for x in (0.0, 1.0, 5.0)]) == pytest.approx(3)
    assert slope([(0.0, 0.0), (1.0, 2.0), (2.0, 2.0)]) == pytest.approx(1)
    assert slope([(4.0, 1.0)]) == 0.0
    assert slope([(4.0, 1.0), (4.0, 9.0)]) == 0


def test_the_curve_of_the_served_ends_with_all_of_them() -> None:
    assert served_curve([0.3, 0.1, 0.2]) == [(0, 0), (0.1, 1), (0.2, 2), (0.3, 3)]
    many = served_curve([n / 1000 for n in range(5_001)])
    assert len(many) <= 250
    assert many[-1] == (5.0, 5_001.0)
    assert served_curve([]) == [(0, 0)]


def test_tokens_are_told_apart_by_when_they_were_sent() -> None:
    delivery = Delivery(between=[1.0, 2.0, 3.0, 4.0], between_sent=[10, 20, 30, 40])
    assert split(delivery, 20, 30) == ([2.0, 3.0], [1.0])


def test_a_setting_is_known_where_the_revision_declares_it(tmp_path: Path) -> None:
    config = tmp_path / "server" / "config"
    config.mkdir(parents=True)
    (config / "settings.py").write_text("class Settings:\n    max_runs: int = 5\n    # max_rooms: none\n")
    found = Revision(BEFORE, tmp_path)
    assert found.knows("TOKENTAPE_MAX_RUNS")
    assert not found.knows("TOKENTAPE_MAX_ROOMS")
    assert PRESENT.knows("TOKENTAPE_MAX_STREAMS")


@CHECKOUT
def test_a_revision_is_unpacked_once(tmp_path: Path) -> None:
    before, now = revisions("HEAD", tmp_path)
    assert now is PRESENT
    assert (before.folder / "server" / "__main__.py").exists()
    assert before.folder.parent == tmp_path
    (before.folder / "mark").touch()
    assert (revisions("HEAD", tmp_path)[0].folder / "mark").exists()
    assert not list(tmp_path.glob("*.tar"))


@CHECKOUT
@pytest.mark.parametrize("name", ["no-such-branch", "--help", "HEAD:server"])
def test_unknown_revision_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownRevision, match="git rev-parse"):
        revisions(name, tmp_path)


def test_without_former_revision_only_the_present_is_measured(tmp_path: Path) -> None:
    assert revisions("", tmp_path) == [PRESENT]


@CHECKOUT
@pytest.mark.soak  # the next test serves two revisions, too
@pytest.mark.usefixtures("forked_servers", "short_waits")
@pytest.mark.timeout(300)  # starts PostgreSQL and several servers
def test_a_revision_serves_its_own_code(bench_postgres: Postgres, tmp_path: Path) -> None:
    before = unpack("HEAD", tmp_path)
    (before.folder / "server" / "__init__.py").write_text('__version__ = "0.0.former"\n')
    for revision, is_former in ((before, True), (PRESENT, False)):
        with (
            bench_postgres.database(revision=revision) as database,
            serving(database.app_url, revision=revision) as server,
        ):
            assert (b"0.0.former" in send_request(server, "GET", "/openapi.json").body) is is_former


@CHECKOUT
@pytest.mark.usefixtures("forked_servers", "short_waits")
@pytest.mark.timeout(300)  # starts PostgreSQL and several servers
def test_two_revisions_are_measured_in_one_run(bench_postgres: Postgres) -> None:
    settings = single_stream.Settings(rate=50, seconds=0.5, turns=1, against="HEAD")
    report = single_stream.measure(bench_postgres, settings)
    assert all(row.before for row in report.rows if row.what.startswith("added latency"))
    assert [row.holds for row in report.rows if row.what == "lost or repeated"] == [True]
