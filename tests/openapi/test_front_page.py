"""The demo on `/`, in a browser: what the page has after cuts is the log; it runs under its own policy."""

from __future__ import annotations

import json
import re
import sys

import pytest
import trio

from tests.clients.api import Api
from tests.faults.readers import ask, read_log, wait_closed
from tests.harness.browser import CHROMIUM, NO_CHROMIUM, open_tab
from tests.harness.databases import TestDatabase
from tests.harness.proxy import cuttable
from tests.harness.servers import ROOT, Server, running

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)


async def test_a_visitor_cuts_and_reconnects_and_has_the_whole_log(lasting: Server, lasting_api: Api) -> None:
    """Wide and light, then as a phone in the dark; by keyboard alone; no complaint, no foreign request."""
    words = [sys.executable, "-m", "tests.openapi.chromium", f"{lasting.url}/"]
    with trio.fail_after(100):
        done = await trio.run_process(words, capture_stdout=True, cwd=ROOT)
    views = json.loads(done.stdout)
    for name, seen in views.items():
        log = (await lasting_api.http.get(seen["events"], params={"limit": 5000})).json()["events"]
        assert seen["received"] == log, name
        assert [event["position"] for event in log] == list(range(1, len(log) + 1))
        text = "".join(event["delta"] for event in log if event["type"] == "token")
        assert seen["shown"].split() == text.split()
        assert seen["missing"] >= 10
        assert seen["cells"] == len(log)
        assert len(seen["late"].split()) >= 10
        cut = seen["cut"]
        assert seen["lines"] == [
            f"Asked for all events, got 1 to {cut}, was cut by you.",
            f"Asked for the events after {cut}, got {cut + 1} to {len(log)}, read to the end.",
        ]
        assert f"all {len(log)} events are here, in order, each once, over 2 connections" in seen["verdict"]
        assert seen["status"] == "The answer is complete."
        assert seen["focused"] == "start"
        assert all(url.startswith((lasting.url, "data:")) for url in seen["requests"])
        assert seen["complaints"] == []
        assert seen["overflow"] <= 0, f"{name}: the page scrolls sideways"
    assert views["wide"]["background"] != views["phone"]["background"], "dark is as light"


async def test_a_network_that_breaks_and_a_server_that_is_killed(database: TestDatabase) -> None:
    """The page comes back by itself. The answer that died with its server is told as failed, and none is lost."""
    async with running(database.app_url) as server, cuttable(server.port) as proxy:
        async with open_tab(f"http://127.0.0.1:{proxy.port}/") as tab:
            await tab.evaluate("startButton.click()")
            await tab.until("run !== null && run.last >= 10")
            proxy.cut()
            await tab.until("run.opened === 2 && run.last >= 20")
            await server.kill()
            await server.start()
            events = await tab.evaluate("run.eventsPath")
            generation = await tab.evaluate("run.snapshotPath")
            await wait_closed(f"{server.url}{generation}/events")
            await tab.until("!verdict.hidden")
            log = await read_log(f"{server.url}{events}")
            assert await tab.evaluate("run.received") == log
            assert log[-1]["type"] == "generation.failed"
            assert (await tab.evaluate("statusLine.textContent")).startswith("The answer failed: ")
            assert "each once" in await tab.evaluate("verdict.textContent")


async def test_a_refused_question_is_told_and_can_be_asked_again(database: TestDatabase) -> None:
    """A server that takes no runs: the page says why, in the server's words."""
    async with running(database.app_url, {"TOKENTAPE_MAX_RUNS": "1"}) as server:
        async with open_tab(f"{server.url}/") as tab:
            other = await ask(server.url, {"model": "demo", "parameters": {"tokens": 100_000, "rate": 1}})
            await tab.evaluate("startButton.click()")
            await tab.until("statusLine.textContent.startsWith('The question was not taken: ')")
            assert await tab.evaluate("startButton.disabled") is False
            cancel = f"fetch('/v1/generations/{other['id']}/cancel', {{method: 'POST'}}).then(a => a.status)"
            assert await tab.evaluate(cancel) == 200
            await tab.until("startButton.click() ?? (run !== null && run.last > 0)")


async def test_under_a_path_every_link_and_the_demo_stay_inside(database: TestDatabase) -> None:
    """Behind a proxy that takes a path away: the page asks, and links to, addresses that begin with it."""
    public = {"TOKENTAPE_PUBLIC_URL": "https://example.org/tape"}
    async with running(database.app_url, public) as server, Api.open(server.port) as api:
        page = (await api.http.get("/", headers={"Accept": "text/html"})).text
    assert 'data-prefix="/tape"' in page
    links = re.findall(r'href="(/[^"]*)"', page)
    assert len(links) >= 5
    assert all(link.startswith("/tape/") for link in links)
