"""Cross-origin requests (CORS): pages of allowed origins may post and read, all others may not.

Checked by headers and in a real browser.
"""

from __future__ import annotations

import pytest

from tests.clients.api import Api
from tests.harness.browser import CHROMIUM, NO_CHROMIUM, open_tab
from tests.harness.databases import TestDatabase
from tests.harness.servers import free_port, running

APP = "https://app.example"
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "content-type,idempotency-key,last-event-id",
}
ASK = """
async api => {
    const headers = {'Content-Type': 'application/json', 'Idempotency-Key': 'a-key-of-the-page'};
    const body = JSON.stringify({model: 'demo', parameters: {tokens: 20, rate: 100}});
    try {
        const answer = await fetch(api + '/v1/generations', {method: 'POST', headers, body});
        return [answer.status, answer.headers.get('Location'), answer.headers.get('X-Request-ID') !== null];
    } catch (error) { return error.name }
}
"""
FOLLOW = """
url => {
    window.got = []; window.failed = false;
    const source = new EventSource(url);
    source.onerror = () => { failed = source.readyState === EventSource.CLOSED };
    source.onmessage = message => { got.push(message.data) };
}
"""
READ = """
async url => {
    try {
        const answer = await fetch(url);
        return [answer.status, answer.headers.get('ETag') !== null, (await answer.json()).status];
    } catch (error) { return error.name }
}
"""


async def test_cors_headers_for_allowed_and_foreign_origins(database: TestDatabase) -> None:
    """On successes, errors and streams. `Vary` keeps a cache from mixing them."""
    async with running(database.app_url, {"TOKENTAPE_ALLOWED_ORIGINS": f"{APP}, http://other.example/"}) as server:
        async with Api.open(server.port) as api:
            generation = await api.generate(tokens=3)
            await api.finished(generation)
            events = f"{generation}/events"
            paths = [
                generation,
                events,
                f"{events}?format=sse",
                f"{events}?format=ndjson",
                f"{events}?after=x",
                "/nope",
            ]
            for path in [*paths, "/healthz", "/openapi.json", "/v1/diagnostics/stream?chunks=1"]:
                for origin in (APP, "https://APP.example", "http://other.example"):
                    answer = await api.http.get(path, headers={"Origin": origin})
                    assert answer.headers["Access-Control-Allow-Origin"] == origin, path
                    exposed = answer.headers["Access-Control-Expose-Headers"].split(", ")
                    assert {"Location", "RateLimit", "RateLimit-Policy"} <= set(exposed)
                    assert "Origin" in answer.headers["Vary"]
                    assert "Access-Control-Allow-Credentials" not in answer.headers
                for foreign in (None, "http://evil.example", "null", f"{APP}.evil.example", server.url):
                    answer = await api.http.get(path, headers={} if foreign is None else {"Origin": foreign})
                    assert "Access-Control-Allow-Origin" not in answer.headers, (path, foreign)
                    assert "Origin" in answer.headers["Vary"], "a cache would give it to an allowed page"
            both = (await api.http.get(events)).headers
            assert {part.strip() for part in both["Vary"].split(",")} == {"Accept", "Origin"}
            posted = await api.http.post("/v1/conversations", json={}, headers={"Origin": APP})
            assert (posted.status_code, posted.headers["Access-Control-Allow-Origin"]) == (201, APP)
            refused = await api.http.post("/v1/conversations", json={}, headers={"Origin": "http://evil.example"})
            assert refused.status_code == 403
            assert "Access-Control-Allow-Origin" not in refused.headers


async def test_preflight_allows_allowed_origins_only(database: TestDatabase) -> None:
    """It appends nothing."""
    async with running(database.app_url, {"TOKENTAPE_ALLOWED_ORIGINS": APP}) as server:
        async with Api.open(server.port) as api:
            for path in ("/v1/conversations", "/v1/generations", f"/v1/generations/gen_{'0' * 26}/cancel"):
                yes = await api.http.options(path, headers={**PREFLIGHT, "Origin": APP})
                assert (yes.status_code, yes.headers["Access-Control-Allow-Origin"]) == (204, APP)
                assert "POST" in yes.headers["Access-Control-Allow-Methods"]
                allowed = {name.strip() for name in yes.headers["Access-Control-Allow-Headers"].lower().split(",")}
                assert allowed >= set(PREFLIGHT["Access-Control-Request-Headers"].split(","))
                assert int(yes.headers["Access-Control-Max-Age"]) > 0
                no = await api.http.options(path, headers={**PREFLIGHT, "Origin": "http://evil.example"})
                assert not [name for name in no.headers if name.lower().startswith("access-control")]
            foreign = await api.http.options("/v1/conversations", headers={**PREFLIGHT, "Host": "evil.example"})
            assert foreign.status_code == 421
            assert (await api.get("/v1/conversations"))["conversations"] == []


@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
@pytest.mark.parametrize("allowed", [True, False])
async def test_cross_origin_page_in_a_browser(database: TestDatabase, allowed: bool) -> None:
    """`localhost` and `127.0.0.1` are two origins: a page of one uses the server at the other."""
    port = free_port()
    page = f"http://localhost:{port}"
    env = {"TOKENTAPE_ALLOWED_ORIGINS": page} if allowed else {}
    async with running(database.app_url, env, port=port) as server, open_tab(f"{page}/healthz") as tab:
        async with Api.open(port) as api:
            generation = await api.generate(tokens=3)
            log = await api.finished(generation)
            asked = await tab.evaluate(ASK, server.url)
            read = await tab.evaluate(READ, server.url + generation)
            await tab.evaluate(FOLLOW, f"{server.url}{generation}/events")
            if allowed:
                assert (asked[0], asked[2]) == (202, True)
                assert await api.finished(asked[1])
                assert read == [200, True, "completed"]
                await tab.until("got.at(-1) === '[DONE]'")
                assert await tab.evaluate("got.length") == len(log) + 1
            else:
                assert asked == read == "TypeError"
                await tab.until("failed")
                assert await tab.evaluate("got") == []
                assert len((await api.get("/v1/conversations"))["conversations"]) == 1
