"""Fixtures of the conformance tests: one server process per test module, and conversations on it to read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio

from tests.clients.api import Api
from tests.harness.databases import Postgres

from .connection_end_clients import Logs
from .server_probe import Probe, probed

ENV = {
    "TOKENTAPE_MAX_UNSENT": str(512 * 1_048_576),  # a table of clients that do not read is no overload
    "TOKENTAPE_HEARTBEAT": "0.5",
    "TOKENTAPE_WORKFLOWS": "tests.harness.apps.interactive_workflows",
}
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def probe(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probe]:
    """A server process for the whole module, observed from outside."""
    with probed(postgres, tmp_path_factory.mktemp("http"), ENV) as probe:
        yield probe


@pytest.fixture(scope="module")
def logs(probe: Probe) -> Logs:
    """Conversations on that server, of several sizes."""
    return trio.run(make_logs, probe.port)


async def make_logs(port: int) -> Logs:
    """Makes a conversation of ten megabytes, one of three events, an empty one, and one to post to."""
    async with Api.open(port) as api:
        api.http.headers["Connection"] = "close"  # a kept one could be idle for too long, on a busy machine
        large, small, quiet, posts = [await api.conversation() for _ in range(4)]
        for _ in range(10):
            await api.message(large, "x" * MEGABYTE)
        for _ in range(2):
            await api.message(small)
    return Logs(large, small, quiet, posts)
