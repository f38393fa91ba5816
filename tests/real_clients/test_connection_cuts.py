"""A live answer on a bad network: FIN, RST or half a chunk at random places, and a connection that goes silent."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
import trio

from tests.clients.api import Api
from tests.harness.databases import TestDatabase
from tests.harness.servers import running

from . import scripts
from .client_processes import differences, libraries_of, on_runtimes, run_libraries, slow_to_start
from .cutting_proxy import Cut, cutting
from .followers import following
from .libraries import Library

pytestmark = slow_to_start

TOKENS, RATE = 60, 20
HOWS = ["fin", "rst", "half"]


@on_runtimes
async def test_every_library_gets_the_whole_answer_despite_cuts(api: Api, runtime: str, tmp_path: Path) -> None:
    """One cut of each kind, at other places for each library."""
    members = libraries_of(runtime, "cuts")
    conversation = await api.conversation()
    async with cutting(api.port) as proxy:
        for library in members:
            proxy.plans[library.slug] += _drawn_cuts(library)
        generation = await api.generate(conversation, tokens=TOKENS, rate=RATE)

        def address(library: Library) -> str:
            path, scheme = library.path(conversation, generation)
            return proxy.url(library.slug, path, scheme)

        async with run_libraries(
            members, address, tmp_path, ("tokens: 40, rate: 20", f"tokens: {TOKENS}, rate: {RATE}")
        ) as run:
            await api.finished(generation)
            came = await run.outcomes(api, conversation, generation)
        assert differences(came, members, "cuts") == {}, run.complaints()
        uncut = [library for library in members if len(proxy.plans[library.slug]) == len(HOWS)]
        assert {library.transport for library in uncut} <= {"snapshots"}  # they hold no token's position


def _drawn_cuts(library: Library) -> list[Cut]:
    drawn = random.Random(library.name)
    positions = sorted(drawn.sample(range(6, TOKENS - 10), len(HOWS)))
    hows = drawn.sample(HOWS, len(HOWS))
    return [Cut(position, drawn.randrange(130), how) for position, how in zip(positions, hows, strict=True)]


async def test_watchdog_program_notices_a_silent_connection(database: TestDatabase, tmp_path: Path) -> None:
    """Without FIN or RST: with `?heartbeat=event` the program knows, reconnects and misses nothing."""
    if scripts.missing_node() is not None:
        pytest.skip(scripts.missing_node() or "")
    async with running(database.app_url, {"TOKENTAPE_HEARTBEAT": "0.4"}) as server, Api.open(server.port) as api:
        generation = await api.generate(tokens=3, rate=0.33)
        program = scripts.write(tmp_path, "watchdog.mjs", [("40_000", "2_000")])
        async with cutting(server.port) as proxy:
            proxy.plans["dead"].append(Cut(4, 20, "stall"))
            urls = [proxy.url(name, f"{generation}/events") for name in ("dead", "alive")]
            async with following([(program, url) for url in urls], tmp_path / "errors") as followers:
                log = await api.finished(generation)
                with trio.fail_after(40):
                    await followers.ended()
            asked = Counter(request.follower for request in proxy.requests)
        assert [follower.events for follower in followers.all] == [log, log]
        # Between two tokens there are 3 s: the one whose line lives sees its heartbeats, and asks once.
        assert asked == {"dead": 2, "alive": 1}


async def test_client_with_a_short_read_timeout_asks_for_heartbeats(api: Api, tmp_path: Path) -> None:
    """It must not cut itself off."""
    generation = await api.generate(tokens=2, rate=0.12)
    program = scripts.write(tmp_path, "httpx_sse_client.py", [("read=40", "read=7")])
    async with cutting(api.port) as proxy:
        url = proxy.url("hasty", f"{generation}/events") + "?heartbeat=5"
        async with following([(program, url)], tmp_path / "errors") as followers:
            log = await api.finished(generation)
            with trio.fail_after(40):
                await followers.ended()
        assert len(proxy.requests) == 1
    assert followers.all[0].events == log
