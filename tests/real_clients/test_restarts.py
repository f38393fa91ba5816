"""The server is killed, or stopped, and started again: each library must resume and get the whole log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.clients.api import Api
from tests.harness.databases import TestDatabase
from tests.harness.servers import Server, running

from .client_processes import LONG_QUESTION, differences, libraries_of, on_runtimes, run_libraries, slow_to_start
from .libraries import Library

pytestmark = slow_to_start


@pytest.fixture
async def own_server(database: TestDatabase) -> AsyncIterator[Server]:
    """A server that the test may kill."""
    async with running(database.app_url, {"TOKENTAPE_STOP_TIMEOUT": "2"}) as server:
        yield server


@on_runtimes
async def test_libraries_resume_after_a_kill(own_server: Server, runtime: str, tmp_path: Path) -> None:
    """Within an answer, which then ends as failed."""
    await follow_through_restart(own_server, runtime, tmp_path, "kill")


@on_runtimes
async def test_libraries_resume_after_a_stop(own_server: Server, runtime: str, tmp_path: Path) -> None:
    """Streams end cleanly, and the stopping server refuses reconnects."""
    await follow_through_restart(own_server, runtime, tmp_path, "drain")


async def follow_through_restart(server: Server, runtime: str, folder: Path, what: str) -> None:
    """All libraries follow one answer through the kill or the stop."""
    members = libraries_of(runtime, what)
    async with Api.open(server.port) as api:
        conversation = await api.conversation()
        generation = await api.generate(conversation, tokens=5000, rate=20)

        def address(library: Library) -> str:
            path, scheme = library.path(conversation, generation)
            return f"{scheme}://127.0.0.1:{server.port}{path}"

        async with run_libraries(members, address, folder, LONG_QUESTION) as run:
            await run.shown(10)
            await (server.kill() if what == "kill" else server.stop())
            await server.start()
            await api.finished(generation)
            came = await run.outcomes(api, conversation, generation)
        assert differences(came, members, what) == {}, run.complaints()
    assert "Traceback" not in server.logged()
