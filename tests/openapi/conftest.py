"""One server for all tests here, as a clever client would not meet it: its streams end after a moment."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.clients.api import Api
from tests.harness.databases import Postgres
from tests.harness.servers import Server
from tests.transports.serving import serving

from .contract import judge_answer
from .controls import APP


@pytest.fixture(scope="module")
def server(postgres: Postgres) -> Iterator[Server]:
    """It. After the tests of a module nothing unforeseen is in its log."""
    with (
        postgres.clone() as database,
        serving(database.app_url, {"TOKENTAPE_STREAM_MAX_SECONDS": "0.2", **APP}) as server,
    ):
        yield server
        assert server.process is not None
        assert server.process.poll() is None, server.logged()[-4000:]
        assert "Traceback" not in server.logged(), server.logged()[-8000:]


@pytest.fixture
async def api(server: Server) -> AsyncIterator[Api]:
    """A JSON client of it; every answer is held against the document."""
    async with Api.open(server.port) as api:
        api.http.event_hooks = {"response": [judge_answer]}
        yield api
