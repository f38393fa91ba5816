"""Fixtures for all rooms: the session's PostgreSQL and a database a test; and signals as children need them."""

import os
import secrets
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

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


SLOWEST = (
    "bench/test_benchmarks",
    "faults/test_stalled",
    "faults/test_kill",
    "http_conformance/test_bounded_bodies",
    "http_conformance/test_connection_ends",
    "faults/test_talk_back",
    "faults/test_stop",
    "faults/test_upstream_anthropic",
    "faults/test_hostile",
    "cli/test_chat",
    "cli/test_serve_migrate",
    "cli/test_connection_options",
    "transports/test_http2_ends",
    "transports/test_stream_limits",
    "http/test_http2_streams",
    "cli/test_chat_restarts",
    "cli/test_tail",
    "bench/test_process_cleanup",
    "real_clients/test_restarts",
    "real_clients/test_cuts",
    "real_clients/test_every_byte",
    "real_clients/test_ends",
    "runtime/test_orphan_recovery",
    "faults/test_database",
    "http_conformance/test_server_stop",
    "examples/test_service_bot",
    "topology/test_image",
    "transports/test_origins",
    "topology/test_failures",
    "http_conformance/test_connection_limits",
    "observability/test_scraped",
    "faults/test_cancel",
    "faults/test_browser",
    "webhooks/test_served",
    "faults/test_upstream",
    "cli/test_tool_output",
    "transports/test_interleaved",
    "runtime/test_tool_decisions_simulated",
)
"""Files that take longest: none of them is to be the last. A file runs on one worker, with the servers it has."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slowest files first, the others as they are."""
    rank = {f"tests/{name}.py": number for number, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0], len(rank)))


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
