"""The libraries that are made for browsers, in Chromium: programs of docs/clients*.md, on a page elsewhere."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.clients.api import Api
from tests.harness.browser import CHROMIUM, NO_CHROMIUM, Tab, open_tab
from tests.harness.databases import TestDatabase
from tests.harness.servers import Server, running

from . import scripts
from .cutting_proxy import Cut, CuttingProxy, cutting

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM),
    pytest.mark.skipif(scripts.missing_node() is not None, reason=scripts.missing_node() or ""),
]

PACKAGES = "/node_modules/"
MODULES = {
    "eventsource": "data:text/javascript,export const { EventSource } = globalThis;",
    "ws": "data:text/javascript,export default WebSocket;",
    "@microsoft/fetch-event-source": PACKAGES + "@microsoft/fetch-event-source/lib/esm/index.js",
    "event-source-polyfill": "/polyfill.js",
    "reconnecting-eventsource": PACKAGES + "reconnecting-eventsource/build/esm/reconnecting-eventsource.js",
    "sse.js": PACKAGES + "sse.js/lib/sse.js",
    "eventsource-parser/stream": PACKAGES + "eventsource-parser/dist/stream.js",
    "partysocket": PACKAGES + "partysocket/dist/index.js",
}
"""What an `import` of a package is without a bundler: what the browser has built in, or the package's modules."""
POLYFILL = """
import "/node_modules/event-source-polyfill/src/eventsource.js";
export default { EventSourcePolyfill: globalThis.EventSourcePolyfill };
"""
PROGRAMS = [
    "eventsource.mjs",
    "fetch_event_source.mjs",
    "sse_js.mjs",
    "event_source_polyfill.mjs",
    "reconnecting_eventsource.mjs",
    "eventsource_parser.mjs",
    "watchdog.mjs",
    "partysocket.mjs",
]
FOLLOW = """
async ([program, url]) => {
    window.got ??= {};
    const { follow } = await import('/' + program);
    got[program] = [];
    follow(url, (event) => got[program].push(event));
}
"""
TOKENS, RATE = 200, 25


class _Files(SimpleHTTPRequestHandler):
    extensions_map = {".js": "text/javascript", ".mjs": "text/javascript", ".html": "text/html"}  # noqa: RUF012

    def translate_path(self, path: str) -> str:
        """fetch-event-source's modules import each other without their endings, as for a bundler."""
        found = super().translate_path(path)
        return found if Path(found).suffix else found + ".js"

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def page(tmp_path: Path) -> Iterator[str]:
    """The origin of a page with all programs beside it."""
    for name in PROGRAMS:
        scripts.write(tmp_path, name)
    (tmp_path / "polyfill.js").write_text(POLYFILL, encoding="utf-8")
    imports = json.dumps({"imports": MODULES})
    html = f'<!doctype html><title>clients</title><script type="importmap">{imports}</script>'
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    files = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, directory=str(tmp_path)))
    thread = threading.Thread(target=files.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{files.server_port}"
    finally:
        files.shutdown()
        thread.join()
        files.server_close()


async def test_cuts_and_a_kill(database: TestDatabase, page: str) -> None:
    """Two cuts each, then the server is killed and started again: each has the whole log, and asks no more."""
    async with (
        running(database.app_url, {"TOKENTAPE_ALLOWED_ORIGINS": page}) as server,
        Api.open(server.port) as api,
        open_tab(f"{page}/page.html") as tab,
        _proxies(server) as proxies,
    ):
        conversation = await api.conversation()
        generation = await api.generate(conversation, tokens=5000, rate=RATE)
        for number, (program, proxy) in enumerate(proxies.items()):
            proxy.plans["page"] += [Cut(20 + number, 17 * number), Cut(60 + number, 128 - 9 * number, "rst")]
            socket = program == "partysocket.mjs"
            path = f"{conversation}/ws" if socket else f"{generation}/events"
            await tab.evaluate(FOLLOW, [program, proxy.url("page", path, "ws" if socket else "http")])
        await _until(tab, "Math.min(...Object.values(got).map((events) => events.length)) >= 80")
        assert [proxy.plans["page"] for proxy in proxies.values()] == [[] for _ in PROGRAMS]
        await server.kill()
        await server.start()
        await api.finished(generation)
        logs = {program: await api.log(generation) for program in PROGRAMS}
        logs["partysocket.mjs"] = await api.log(conversation)
        ends = "Object.values(got).every((events) => events.at(-1).type === 'generation.failed')"
        await _until(tab, ends)
        got: dict[str, Any] = await tab.evaluate("got")
        assert {name: [event["position"] for event in events] for name, events in got.items()} == {
            name: [event["position"] for event in events] for name, events in logs.items()
        }
        assert got == logs
        asked = [len(proxy.requests) for proxy in proxies.values()]
        await tab.evaluate("new Promise((done) => setTimeout(done, 3500))")  # they would come back within three
        assert [len(proxy.requests) for proxy in proxies.values()] == asked


@asynccontextmanager
async def _proxies(server: Server) -> AsyncIterator[dict[str, CuttingProxy]]:
    """One for each program: a browser opens six connections to one origin at most."""
    async with AsyncExitStack() as stack:
        yield {program: await stack.enter_async_context(cutting(server.port)) for program in PROGRAMS}


async def _until(tab: Tab, expression: str) -> None:
    try:
        await tab.until(expression, 50)
    except trio.TooSlowError:
        counts = await tab.evaluate("Object.entries(got).map(([name, events]) => [name, events.length])")
        pytest.fail(f"not within 50 s: {expression}: {counts}")
