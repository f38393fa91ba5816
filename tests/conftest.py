"""Fixtures for all tests: the session's PostgreSQL, a database for each test, and signals for child
processes.
"""

import gc
import os
import secrets
import shutil
import signal
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import pytest
import structlog

from tests.harness import credentials_in_logs, sampling
from tests.harness.databases import Postgres, TestDatabase
from tests.harness.expected_skips import unexpected_in

pytest_plugins = ("pytester",)


def _give_children_their_sigint() -> None:
    """Lets what the tests start hear SIGINT, also where a script runs them in the background.

    A shell without job control starts `make test &` with SIGINT ignored. What is ignored stays ignored in every
    child (POSIX, exec), and a test that sends SIGINT to one waits for ever. What is *caught* becomes the default
    again in a child; so each process that runs tests catches it, and does nothing then.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: None)


_give_children_their_sigint()


def _log_plain_tracebacks() -> None:
    """Lets parts that are tested without a configured log print short tracebacks.

    structlog's own are drawn with colours, frames and the source around each line: 0.1 s of CPU each.
    """
    renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*structlog.get_config()["processors"][:-1], renderer])


_log_plain_tracebacks()


SLOWEST = (
    "bench/test_benchmarks",
    "real_clients/test_every_byte",
    "http_conformance/test_slow_readers",
    "faults/test_server_kill",
    "http_conformance/test_connection_ends",
    "faults/test_interactive_runs",
    "faults/test_server_stop",
    "faults/test_stalled_readers",
    "faults/test_upstream_anthropic",
    "faults/test_hostile_connections",
    "cli/test_chat",
    "cli/test_serve_migrate",
    "cli/test_connection_options",
    "transports/test_http2_failures",
    "transports/test_stream_limits",
    "cli/test_chat_restarts",
    "cli/test_tail",
    "bench/test_process_cleanup",
    "real_clients/test_restarts",
    "real_clients/test_connection_cuts",
    "real_clients/test_end_of_log",
    "openapi/test_schemathesis",
    "openapi/test_front_page",
    "faults/test_database_outages",
    "http_conformance/test_server_stop",
    "files/test_uploads_served",
    "examples/test_service_bot",
    "examples/test_content_forge",
    "examples/test_operators",
    "topology/test_image",
    "transports/test_cors",
    "topology/test_failures",
    "http_conformance/test_connection_limits",
    "observability/test_scraped_metrics",
    "faults/test_cancel",
    "faults/test_browser",
    "webhooks/test_real_servers",
    "faults/test_upstream_openai",
    "cli/test_tool_output",
    "transports/test_people_and_workflow",
    "runtime/test_tool_decisions_simulated",
)
"""Files that take longest: none of them is to be the last. A file runs on one worker, with the servers it has."""

# `make test` tries few examples of each law, other ones each time; `make soak` tries many.
hypothesis.settings.register_profile("few", deadline=None, max_examples=25)
hypothesis.settings.register_profile("many", deadline=None, max_examples=500)
hypothesis.settings.load_profile("few")


def pytest_configure() -> None:
    """Sets the day of this run, before the processes that share it are started."""
    sampling.day()


def pytest_report_header() -> str:
    """Which cells of the tests in `sampling.CELLS` are run."""
    return f"cells of {sampling.DAY}={sampling.day()}"


@pytest.hookimpl(tryfirst=True)  # before pytest looks at the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The slowest files first, the others as they are; of some tests a part, all of them in a soak run."""
    if "not soak" in config.option.markexpr:
        sampling.leave_to_soak(items)
    elif "soak" in config.option.markexpr:
        sampling.take_all(items)
    rank = {f"tests/{name}.py": number for number, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0], len(rank)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fails a test whose own process has written a credential, as a log line of an in-process server would be."""
    report = yield
    if report.when == "teardown" and report.passed:  # by now all sections are there
        lines = credentials_in_logs.lines_with_credentials("\n".join(text for _, text in report.sections))
        if lines:
            report.outcome = "failed"
            report.longrepr = "the test has written a credential:\n" + "\n".join(lines[:5])
    return report


def pytest_collection_finish() -> None:
    """Takes ten thousand tests out of the garbage collector's rounds and makes them rarer: 5 % of all CPU."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails a run in which a test was skipped for no expected reason. Workers leave it to the main process."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(session.config, "workerinput"):
        return
    reasons = {
        report.longrepr[2] for report in reporter.stats.get("skipped", ()) if isinstance(report.longrepr, tuple)
    }
    if found := unexpected_in(sorted(reasons)):
        for reason in found:
            reporter.write_line(f"unexpected skip: {reason}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@contextmanager
def postgres_folder(private: Path, name: str) -> Iterator[Path]:
    """A path for a database, not made yet; under `private`, unless PostgreSQL could not enter there."""
    if os.geteuid() != 0:
        yield private / name
        return
    # As root PostgreSQL runs as another user, who may not enter pytest's private folders.
    folder = Path("/var/tmp") / f"tokentape {name} {secrets.token_hex(6)}"
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """One real PostgreSQL for the whole session."""
    with postgres_folder(tmp_path_factory.mktemp("postgres"), "session") as folder:
        postgres = Postgres(folder)
        yield postgres
        postgres.close()


@pytest.fixture
def database(postgres: Postgres) -> Iterator[TestDatabase]:
    """A migrated, empty database of this test's own."""
    with postgres.clone() as database:
        yield database
