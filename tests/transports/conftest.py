"""Fixtures of the transport tests: one shared server process, because starting one takes seconds.

After each test the server must still run, and its log must hold no unexpected traceback.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import pytest
import trio

from tests.clients.api import Api
from tests.harness.databases import Postgres, TestDatabase
from tests.harness.servers import Server
from tests.openapi.contract import judge_answer

from .module_servers import APP, serving


@pytest.fixture(scope="session")
def shared_database(postgres: Postgres) -> Iterator[TestDatabase]:
    """The database of the shared server."""
    with postgres.clone() as database:
        yield database


@pytest.fixture(scope="session")
def shared_server(shared_database: TestDatabase) -> Iterator[Server]:
    """The shared server. Tests ask for `server`, which checks it after each test."""
    with serving(shared_database.app_url, APP) as server:
        yield server


@pytest.fixture
def server(shared_server: Server) -> Iterator[Server]:
    """The shared server, restarted if it has died. Fails the test if it died or logged a traceback."""
    assert shared_server.process is not None
    if shared_server.process.poll() is not None:
        trio.run(shared_server.start)
    before = os.fstat(shared_server.log.fileno()).st_size
    yield shared_server
    logged = os.pread(shared_server.log.fileno(), 50_000_000, before).decode(errors="replace")
    assert shared_server.process.poll() is None, f"the server died:\n{logged[-4000:]}"
    # An app's own fault has a trace, and a reference to it; the server has none.
    own = [line for line in logged.splitlines() if '"reference": "ref_' not in line]
    assert "Traceback" not in "".join(own), own


@pytest.fixture
async def api(server: Server) -> AsyncIterator[Api]:
    """A JSON client of the server. Every response is validated against `/openapi.json`."""
    async with Api.open(server.port) as api:
        api.http.event_hooks = {"response": [judge_answer]}
        yield api
