"""One server for all tests here (starting one takes seconds), looked after between them, and a client of it."""

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
    """It; tests ask for `server`."""
    with serving(shared_database.app_url, APP) as server:
        yield server


@pytest.fixture
def server(shared_server: Server) -> Iterator[Server]:
    """The shared server, alive; after the test it has to be so still, and nothing unforeseen in its log."""
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
    """A JSON client of it. Every answer it gets has to be as `/openapi.json` describes it."""
    async with Api.open(server.port) as api:
        api.http.event_hooks = {"response": [judge_answer]}
        yield api
