"""A native EventSource in Chromium through connection cuts and a server restart.

The page comes from the server itself, because an EventSource needs the same origin, through a proxy that the test
cuts.
"""

from contextlib import AbstractAsyncContextManager

import pytest

from tests.faults.readers import ask, read_log, wait_closed
from tests.harness.browser import CHROMIUM, NO_CHROMIUM, Tab, open_tab
from tests.harness.databases import TestDatabase
from tests.harness.http import http_client
from tests.harness.proxy import CuttableProxy, cuttable
from tests.harness.servers import Server, running

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)

FOLLOW = """
path => {
    window.got = []; window.opened = 0; window.done = false;
    window.source = new EventSource(path);
    source.onopen = () => { opened += 1 };
    source.onmessage = message => {
        if (message.data === '[DONE]') { done = true } else { got.push(JSON.parse(message.data)) }
    };
}
"""


@pytest.mark.soak  # tests/real_clients/test_browser.py cuts and kills in each `make test`
async def test_eventsource_gets_every_event_once_despite_cuts_and_a_restart(database: TestDatabase) -> None:
    """Two cuts, then a server stop that ends the run. After the end the browser must not reconnect."""
    env = {"TOKENTAPE_STOP_TIMEOUT": "2"}
    async with running(database.app_url, env) as server, cuttable(server.port) as proxy, _tab(proxy) as tab:
        run = await ask(server.url, {"model": "demo", "parameters": {"tokens": 50_000, "rate": 50}})
        await tab.evaluate(FOLLOW, f"/v1/generations/{run['id']}/events?after=0")
        seen = 0
        for opened in (1, 2):
            await tab.until(f"opened === {opened} && got.length >= {seen + 10}")
            proxy.cut()
            seen = await tab.evaluate("got.length")
        await tab.until("opened === 3")
        await server.stop()
        await server.start()
        log = await wait_closed(f"{server.url}/v1/generations/{run['id']}/events")
        await tab.until("done")
        assert await tab.evaluate("got") == log
        # After [DONE] the server ends the body; the EventSource comes back once, is told 204, and stays closed.
        await tab.until("source.readyState === EventSource.CLOSED")
        connections = proxy.connections
        assert await tab.evaluate("got.length") == len(log)
        assert proxy.connections == connections
        assert "Traceback" not in server.logged()


async def test_eventsource_from_now_cut_before_its_first_event(database: TestDatabase) -> None:
    """The first frame carries an id, so an event between the cut and the reconnect is delivered."""
    async with running(database.app_url) as server, cuttable(server.port) as proxy, _tab(proxy) as tab:
        conversation = await _conversation(server)
        before = await read_log(f"{server.url}/v1/conversations/{conversation}/events")
        await tab.evaluate(FOLLOW, f"/v1/conversations/{conversation}/events?after=now")
        await tab.until("opened === 1")
        await _wait_stream(tab)
        await _cut_and_post(proxy, server, conversation)
        await tab.until("got.length >= 1")
        log = await read_log(f"{server.url}/v1/conversations/{conversation}/events")
        assert await tab.evaluate("got") == log[len(before) :]
        await tab.evaluate("source.close()")


def _tab(proxy: CuttableProxy) -> AbstractAsyncContextManager[Tab]:
    return open_tab(f"http://127.0.0.1:{proxy.port}/healthz")


async def _wait_stream(tab: Tab) -> None:
    # `open` fires at the head of the response; the id-only frame is in the same or the next packet. A fetch
    # over the same proxy, begun later, ends after it.
    await tab.evaluate("fetch('/healthz').then(answer => answer.text())")
    await tab.evaluate("new Promise(done => setTimeout(done, 200))")


async def _cut_and_post(proxy: CuttableProxy, server: Server, conversation: str) -> None:
    proxy.down = True
    proxy.cut()
    async with http_client(server.url) as client:
        body = {"role": "user", "content": "said while nobody listened"}
        got = await client.post(f"/v1/conversations/{conversation}/messages", json=body)
        assert got.status_code == 201
    proxy.down = False


async def _conversation(server: Server) -> str:
    async with http_client(server.url) as client:
        name: str = (await client.post("/v1/conversations", json={"title": "now"})).json()["id"]
        return name
