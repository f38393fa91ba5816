"""The metrics page: both formats parse, every family has a help text, names follow Prometheus' conventions."""

import re

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from eventstore import EventStore
from eventstore.memory_backend import MemoryBackend
from server import __version__
from server.observability import Gauges, Metrics, MetricsPage
from server.providers import CODES
from tests.observability.scraping import Scrape

UNITS = ("_seconds", "_bytes", "_total", "_events", "_appends", "_info", "_ratio")
NUMBERS = ("_put_aside", "_up", "_running", "_limit", "_waiting", "_readers", "draining")


@pytest.fixture
def metrics() -> Metrics:
    metrics = Metrics()
    metrics.provider("demo", CODES).first_token.observe(0.2)
    metrics.requests.add("GET", "/v1/generations/<name>", "200")
    metrics.committed(3, 7, 0.002)
    metrics.taken_over = 2
    return metrics


def page(metrics: Metrics) -> MetricsPage:
    """A page of a store that has just been opened."""
    figures = EventStore(MemoryBackend().process()).stats()
    return MetricsPage(
        metrics,
        lambda: Gauges(figures, 2, 500, {"sse": 3}, 1000, False, {"overloaded": 4}, 0.8, 0.01, {"openai": 6}),
    )


def test_text_format(metrics: Metrics) -> None:
    body, media_type = page(metrics).render("")
    assert media_type == "text/plain; version=0.0.4; charset=utf-8"
    scrape = Scrape(body.decode())
    assert scrape.get("build_info", version=__version__) == 1
    assert scrape.get("runs_running") == 2
    assert scrape.get("readers", transport="sse") == 3
    assert scrape.get("readers", transport="websocket") == 0
    assert scrape.get("turned_away_total", code="overloaded") == 4
    assert scrape.get("commit_events_sum") == 7
    assert scrape.get("runs_taken_over_total") == 2
    assert scrape.get("run_seconds_count", provider="demo", outcome="interrupted") == 0, "shown before the first"
    assert scrape.get("time_to_first_token_seconds_count", provider="demo") == 1
    assert scrape.get("run_failures_total", provider="demo", code="upstream_cut") == 0, "shown before the first"


@pytest.mark.parametrize("accept", ["application/openmetrics-text", "application/openmetrics-text;version=1.0.0"])
def test_openmetrics_format_on_request(metrics: Metrics, accept: str) -> None:
    body, media_type = page(metrics).render(f"{accept},text/plain;version=0.0.4;q=0.5")
    assert media_type.startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")
    assert "tokentape_commit_seconds" in {family.name for family in parse_openmetrics(body.decode())}  # type: ignore[no-untyped-call]


def test_names_and_help_texts(metrics: Metrics) -> None:
    """A unit or `_total` at the end; the help is a sentence; names are unique."""
    body, _ = page(metrics).render("")
    text = body.decode()
    helps = re.findall(r"^# HELP (tokentape_\S+) (.*)$", text, re.MULTILINE)
    assert len(helps) > 25
    assert len({name for name, _ in helps}) == len(helps)
    for name, said in helps:
        assert name.endswith((*UNITS, *NUMBERS)), name
        assert said.endswith("."), name
        assert len(said) > 15, name


def test_page_shows_only_its_own_process(metrics: Metrics) -> None:
    """Two pages share nothing, and a library's own metrics are not ours."""
    other = Metrics()
    first, second = (Scrape(page(one).render("")[0].decode()) for one in (metrics, other))
    assert first.get("commit_seconds_count") == 1
    assert second.get("commit_seconds_count") == 0
    foreign = [name for name in first.families if not name.startswith(("tokentape_", "process_"))]
    assert foreign == []


def test_process_metrics(metrics: Metrics) -> None:
    scrape = Scrape(page(metrics).render("")[0].decode())
    assert scrape.samples("process_resident_memory_bytes")[0].value > 1_000_000
    assert scrape.samples("process_open_fds")[0].value > 2
