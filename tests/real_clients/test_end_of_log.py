"""What each library does when nothing more comes: in a quiet stretch, after the end, and after final errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from tests.clients.api import Api
from tests.harness.databases import TestDatabase
from tests.harness.servers import running

from .client_processes import (
    LibraryProcesses,
    differences,
    libraries_of,
    on_runtimes,
    run_libraries,
    slow_to_start,
)
from .cutting_proxy import Cut, CuttingProxy, cutting
from .libraries import LIBRARIES, Library

pytestmark = slow_to_start

HELD_OPEN = ("sse", "ndjson", "websocket")
UNKNOWN = "0" * 32
SECONDS = 60.0
AGAIN = 3
"""Number of requests, where one would do, after which a library counts as repeating forever."""


@on_runtimes
async def test_heartbeats_are_not_shown_and_cause_no_reconnect(
    database: TestDatabase, runtime: str, tmp_path: Path
) -> None:
    """Heartbeats come between a few slow tokens."""
    members = libraries_of(runtime, "quiet", HELD_OPEN)
    async with running(database.app_url, {"TOKENTAPE_HEARTBEAT": "0.4"}) as server, Api.open(server.port) as api:
        conversation = await api.conversation()
        generation = await api.generate(conversation, tokens=3, rate=0.5)
        async with (
            cutting(server.port) as proxy,
            run_libraries(members, _through(proxy, conversation, generation), tmp_path) as run,
        ):
            await api.finished(generation)
            came = await run.outcomes(api, conversation, generation)
        assert differences(came, members, "quiet") == {}, run.complaints()
        asked = Counter(request.follower for request in proxy.requests)
        again = {
            library.slug for library in members if library.transport == "ndjson"
        }  # is told 204 instead of [DONE]
        assert asked == {library.slug: 2 if library.slug in again else 1 for library in members}


@on_runtimes
async def test_library_stops_at_204_after_a_cut_before_done(api: Api, runtime: str, tmp_path: Path) -> None:
    """All events were read; libraries that do not know 204 are listed as exceptions."""
    members = libraries_of(runtime, "past the end", ["sse"])
    conversation = await api.conversation()
    generation = await api.generate(conversation, tokens=3)
    await api.finished(generation)
    async with cutting(api.port) as proxy:
        for library in members:
            proxy.plans[library.slug].append(Cut(None, 0))
        async with run_libraries(members, _through(proxy, conversation, generation), tmp_path) as run:
            await _wait_settled(run, proxy, "past the end")
            came = await run.outcomes(api, conversation, generation, 0)
        assert differences(came, members, "past the end") == {}, run.complaints()


@on_runtimes
async def test_library_stops_at_404(api: Api, runtime: str, tmp_path: Path) -> None:
    """And at 4404 on a WebSocket, because repeating cannot help."""
    members = libraries_of(runtime, "unknown", ["sse", "ndjson", "pages", "snapshots", "websocket"])
    conversation, generation = f"/v1/conversations/conv_{UNKNOWN}", f"/v1/generations/gen_{UNKNOWN}"
    assert (await api.http.get(generation)).status_code == 404
    async with cutting(api.port) as proxy:
        async with run_libraries(members, _through(proxy, conversation, generation), tmp_path) as run:
            await _wait_settled(run, proxy, "unknown")
            came = {
                library.name: "exact" if follower.ended.is_set() else "goes on"
                for library, follower in run.members.items()
            }
        assert differences(came, members, "unknown") == {}, run.complaints()
        asked = Counter(request.follower for request in proxy.requests)
        assert {asked[library.slug] for library in members if library.expects("unknown") == "exact"} == {1}


@pytest.mark.parametrize("name", ["event-source-polyfill", "reconnecting-eventsource"])
async def test_libraries_documented_to_reconnect_forever_after_the_end(
    api: Api, name: str, tmp_path: Path
) -> None:
    """docs/clients.md says so: opened on a generation that has ended, with a cursor after its end."""
    (library,) = (library for library in LIBRARIES if library.name == name)
    if library.missing is not None:
        pytest.skip(library.missing)
    generation = await api.generate(tokens=1)
    last = (await api.finished(generation))[-1]["position"]
    async with cutting(api.port) as proxy:

        def address(_: Library) -> str:
            return proxy.url("late", f"{generation}/events?after={last}")

        async with run_libraries([library], address, tmp_path) as run:
            with trio.fail_after(SECONDS):
                while len(proxy.requests) < AGAIN:
                    await trio.sleep(0.05)
            assert not run.members[library].ended.is_set()
            assert run.members[library].events == []


async def _wait_settled(run: LibraryProcesses, proxy: CuttingProxy, scenario: str) -> None:
    """Waits until each has ended, or has reconnected often enough where that is expected."""
    with trio.move_on_after(SECONDS):
        for library, follower in run.members.items():
            if library.expects(scenario) != "goes on":
                await follower.ended.wait()
            while (
                not follower.ended.is_set()
                and sum(request.follower == library.slug for request in proxy.requests) < AGAIN
            ):
                await trio.sleep(0.05)


def _through(proxy: CuttingProxy, conversation: str, generation: str) -> Callable[[Library], str]:
    def address(library: Library) -> str:
        path, scheme = library.path(conversation, generation)
        return proxy.url(library.slug, path, scheme)

    return address
