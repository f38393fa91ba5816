"""The server for most tests here, whose streams end after a moment, and one for those that talk on a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager

import pytest

from tests.clients.api import Api
from tests.harness.databases import Postgres
from tests.harness.servers import Server
from tests.transports.module_servers import serving

from .contract import judge_answer
from .controls import APP


@contextmanager
def _judged(postgres: Postgres, env: Mapping[str, str]) -> Iterator[Server]:
    """After the tests of a module nothing unforeseen is in its log."""
    with postgres.clone() as database, serving(database.app_url, env) as server:
        yield server
        assert server.process is not None
        assert server.process.poll() is None, server.logged()[-4000:]
        assert "Traceback" not in server.logged(), server.logged()[-8000:]


@pytest.fixture(scope="module")
def server(postgres: Postgres) -> Iterator[Server]:
    """The one whose streams end after a moment."""
    with _judged(postgres, {"TOKENTAPE_STREAM_MAX_SECONDS": "0.2", **APP}) as server:
        yield server


@pytest.fixture(scope="module")
def lasting(postgres: Postgres) -> Iterator[Server]:
    """The one whose streams stay: on a busy machine a moment is over before a command is answered."""
    with _judged(postgres, APP) as server:
        yield server


@pytest.fixture
async def api(server: Server) -> AsyncIterator[Api]:
    """A JSON client of it; every answer is held against the document."""
    async with Api.open(server.port) as api:
        api.http.event_hooks = {"response": [judge_answer]}
        yield api


@pytest.fixture
async def lasting_api(lasting: Server) -> AsyncIterator[Api]:
    """The same of the one whose streams stay."""
    async with Api.open(lasting.port) as api:
        api.http.event_hooks = {"response": [judge_answer]}
        yield api
