"""What a library does when there is nothing more to say: a quiet stretch, the end, and answers that are final."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from tests.clients.api import Api
from tests.harness.databases import TestDatabase
from tests.harness.servers import running

from .crowd import Crowd, crowd, differences, libraries, on_runtimes, slow_to_start
from .cutting_proxy import Cut, CuttingProxy, cutting
from .libraries import LIBRARIES, Library

pytestmark = slow_to_start

HELD_OPEN = ("sse", "ndjson", "websocket")
UNKNOWN = "0" * 32
SECONDS = 60.0
AGAIN = 3
"""So many requests where one had been enough: who makes them goes on."""


@on_runtimes
async def test_a_quiet_stretch(database: TestDatabase, runtime: str, tmp_path: Path) -> None:
    """Heartbeats between few tokens: nobody shows them, and nobody comes back before the end."""
    members = libraries(runtime, "quiet", HELD_OPEN)
    async with running(database.app_url, {"TOKENTAPE_HEARTBEAT": "1"}) as server, Api.open(server.port) as api:
        conversation = await api.conversation()
        generation = await api.generate(conversation, tokens=4, rate=0.2)
        async with (
            cutting(server.port) as proxy,
            crowd(members, _through(proxy, conversation, generation), tmp_path) as run,
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
async def test_a_cut_before_done(api: Api, runtime: str, tmp_path: Path) -> None:
    """Everything was read, and the answer is 204: the programs stop, all but those that never heard of it."""
    members = libraries(runtime, "past the end", ["sse"])
    conversation = await api.conversation()
    generation = await api.generate(conversation, tokens=3)
    await api.finished(generation)
    async with cutting(api.port) as proxy:
        for library in members:
            proxy.plans[library.slug].append(Cut(None, 0))
        async with crowd(members, _through(proxy, conversation, generation), tmp_path) as run:
            await _settled(run, proxy, "past the end")
            came = await run.outcomes(api, conversation, generation, 0)
        assert differences(came, members, "past the end") == {}, run.complaints()


@on_runtimes
async def test_an_unknown_one(api: Api, runtime: str, tmp_path: Path) -> None:
    """404, and 4404 on a WebSocket: the programs stop. An hour's worth of tries would help nobody."""
    members = libraries(runtime, "unknown", ["sse", "ndjson", "pages", "snapshots", "websocket"])
    conversation, generation = f"/v1/conversations/conv_{UNKNOWN}", f"/v1/generations/gen_{UNKNOWN}"
    assert (await api.http.get(generation)).status_code == 404
    async with cutting(api.port) as proxy:
        async with crowd(members, _through(proxy, conversation, generation), tmp_path) as run:
            await _settled(run, proxy, "unknown")
            came = {
                library.name: "exact" if follower.ended.is_set() else "goes on"
                for library, follower in run.members.items()
            }
        assert differences(came, members, "unknown") == {}, run.complaints()
        asked = Counter(request.follower for request in proxy.requests)
        assert {asked[library.slug] for library in members if library.expects("unknown") == "exact"} == {1}


@pytest.mark.parametrize("name", ["event-source-polyfill", "reconnecting-eventsource"])
async def test_they_ask_for_ever_behind_the_end(api: Api, name: str, tmp_path: Path) -> None:
    """As docs/clients.md says: opened on a generation that has ended, with a cursor behind its end."""
    (library,) = (library for library in LIBRARIES if library.name == name)
    if library.missing is not None:
        pytest.skip(library.missing)
    generation = await api.generate(tokens=1)
    last = (await api.finished(generation))[-1]["position"]
    async with cutting(api.port) as proxy:

        def address(_: Library) -> str:
            return proxy.url("late", f"{generation}/events?after={last}")

        async with crowd([library], address, tmp_path) as run:
            with trio.fail_after(SECONDS):
                while len(proxy.requests) < AGAIN:
                    await trio.sleep(0.05)
            assert not run.members[library].ended.is_set()
            assert run.members[library].events == []


async def _settled(run: Crowd, proxy: CuttingProxy, scenario: str) -> None:
    """Until each has ended, or has come back often enough where that is expected of it."""
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
