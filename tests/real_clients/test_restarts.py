"""The server is killed, or stopped, and started again: each library comes back to it and has the whole log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.clients.api import Api
from tests.harness.databases import TestDatabase
from tests.harness.servers import Server, running

from .crowd import LONG_QUESTION, crowd, differences, libraries, on_runtimes, slow_to_start
from .libraries import Library

pytestmark = slow_to_start


@pytest.fixture
async def own_server(database: TestDatabase) -> AsyncIterator[Server]:
    """One that may be killed."""
    async with running(database.app_url, {"TOKENTAPE_STOP_TIMEOUT": "4"}) as server:
        yield server


@on_runtimes
async def test_a_kill(own_server: Server, runtime: str, tmp_path: Path) -> None:
    """In the middle of an answer, which then ends as failed."""
    await follow_through(own_server, runtime, tmp_path, "kill")


@on_runtimes
async def test_a_drain(own_server: Server, runtime: str, tmp_path: Path) -> None:
    """The streams end in order, and while the server stops it refuses those who come back."""
    await follow_through(own_server, runtime, tmp_path, "drain")


async def follow_through(server: Server, runtime: str, folder: Path, what: str) -> None:
    """All of them follow one answer through it."""
    members = libraries(runtime, what)
    async with Api.open(server.port) as api:
        conversation = await api.conversation()
        generation = await api.generate(conversation, tokens=5000, rate=20)

        def address(library: Library) -> str:
            path, scheme = library.path(conversation, generation)
            return f"{scheme}://127.0.0.1:{server.port}{path}"

        async with crowd(members, address, folder, LONG_QUESTION) as run:
            await run.shown(10)
            await (server.kill() if what == "kill" else server.stop())
            await server.start()
            await api.finished(generation)
            came = await run.outcomes(api, conversation, generation)
        assert differences(came, members, what) == {}, run.complaints()
    assert "Traceback" not in server.logged()
