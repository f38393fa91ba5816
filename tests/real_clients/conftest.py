"""One server for all tests here that do not stop or kill it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.clients.api import Api
from tests.harness.databases import Postgres
from tests.harness.servers import Server
from tests.transports.module_servers import serving


@pytest.fixture(scope="session")
def server(postgres: Postgres) -> Iterator[Server]:
    """The server that the tests of this folder share."""
    with postgres.clone() as database, serving(database.app_url) as server:
        yield server


@pytest.fixture
async def api(server: Server) -> AsyncIterator[Api]:
    """A JSON client of that server."""
    async with Api.open(server.port) as api:
        yield api
