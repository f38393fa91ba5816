"""Pages that sign in: `/` by a cookie on the server's own origin, the examples from another origin by tickets.

Then what a browser's four kinds of streams do when a key is revoked, and what a stolen ticket is good for.
"""

import json
from typing import Any

import pytest
import trio

from tests.clients.api import Api
from tests.harness.api_keys import make_key, revoke_key
from tests.harness.browser import CHROMIUM, NO_CHROMIUM, Browser, Page, Tab, browsing, open_tab
from tests.harness.databases import TestDatabase
from tests.harness.http import http_client
from tests.harness.proxy import cuttable
from tests.harness.servers import Server, running

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)

ENTER = "url => import('/session.js').then(m => m.enter(new m.Session(url), document.getElementById('session')))"
WRONG = "tt_key_01JC0000000000000000000000_" + 43 * "x"


async def test_the_front_page_signs_in_by_cookie(database: TestDatabase) -> None:
    """A wrong key is refused in words; with a good one the demo runs through a cut; a second tab is signed in."""
    key = await make_key(database, "read,write")
    async with running(database.app_url) as server, open_tab(f"{server.url}/") as tab:
        await tab.until("!signInForm.hidden && startButton.disabled")
        assert await tab.evaluate("statusLine.textContent") == "Sign in first."
        await _sign_in(tab, WRONG)
        await tab.until("!sessionTrouble.hidden")
        assert await tab.evaluate("!signInForm.hidden")
        await _sign_in(tab, key.text)
        await tab.until("!signedIn.hidden && sessionTrouble.hidden && !startButton.disabled")
        shown = await tab.evaluate("who.textContent")
        assert shown.startswith(f"Signed in as {key.id} of default: read, write, until ")
        assert await tab.evaluate("document.getElementById('open').hidden")
        # Nothing that a script of the page could read holds the key or the cookie.
        assert await tab.evaluate("document.cookie") == ""
        assert await tab.evaluate("localStorage.length + sessionStorage.length") == 0
        assert await tab.evaluate("keyField.value") == ""

        await tab.evaluate("startButton.click()")
        await tab.until("run !== null && run.last >= 10")
        await tab.evaluate("cutButton.click()")
        await tab.until("run.head > run.last")
        await tab.evaluate("reconnectButton.click()")
        assert await tab.evaluate(
            "document.getElementById('command').textContent.includes('Bearer $TOKENTAPE_KEY')"
        )

        await tab.evaluate("void (window.second = open('/'))")
        await tab.until("second.document.getElementById('signed-in')?.hidden === false")
        await tab.until("!verdict.hidden")
        assert "each once" in await tab.evaluate("verdict.textContent")

        # Signed out in one tab, the other one asks for the key as soon as it is used.
        await tab.evaluate("second.document.getElementById('sign-out').click()")
        await tab.until("!second.document.getElementById('sign-in').hidden")
        await tab.evaluate("startButton.click()")
        await tab.until("statusLine.textContent.startsWith('The question was not taken: ') && !signInForm.hidden")


async def test_the_front_page_of_a_server_without_keys(database: TestDatabase) -> None:
    """As before: no form, and the demo can be started at once; it says that no key is wanted."""
    async with running(database.app_url) as server, open_tab(f"{server.url}/") as tab:
        await tab.until("!document.getElementById('open').hidden")
        assert await tab.evaluate("sessionPlace.hidden && !startButton.disabled")
        assert await tab.evaluate("statusLine.textContent") == "Ready."
        # A key that is made meanwhile is noticed by the next one who asks for something.
        key = await make_key(database)
        await tab.until("startButton.disabled || (startButton.click(), false) || !signInForm.hidden")
        await tab.until("askWho() && !signInForm.hidden")
        await _sign_in(tab, key.text)
        await tab.until("!signedIn.hidden")


async def _sign_in(tab: Tab, key: str) -> None:
    await tab.evaluate("(key) => { keyField.value = key; signInForm.requestSubmit(); }", key)


async def _key_is_asked_for(server: Server) -> None:
    """Waits until a server that runs has noticed its first key, which takes it up to two seconds.

    A page that asks before is told that nobody needs one, and shows no form.
    """
    async with http_client() as client:
        with trio.fail_after(20):
            while (await client.get(f"{server.url}/v1/session")).status_code != 401:
                await trio.sleep(0.05)


async def test_an_example_signs_in_from_another_origin(server: Server, database: TestDatabase, pages: str) -> None:
    """The operator's page, with a key and tickets: it asks, decides, is cut off when the key ends, and says so."""
    key = await make_key(database, "read,write,decide")
    await _key_is_asked_for(server)
    async with browsing() as browser, Api.open(server.port) as api:
        api.http.headers["Authorization"] = f"Bearer {key.text}"
        desktop, phone = browser.desktop, browser.phone
        address = f"{pages}/service_bot/page.html?server={server.url}"
        await desktop.do("goto", address)
        await desktop.see("#session input")
        assert await desktop.text("#session label") == f"Key for {server.url}"
        # A page asks again when its socket is refused: what somebody types meanwhile stays.
        await desktop.do("fill", "#session input", "half a key")
        await desktop.do("evaluate", ENTER, server.url)
        assert await desktop.do("input_value", "#session input") == "half a key"
        await _type_key(desktop, WRONG)
        await desktop.see("#session .trouble")
        await _type_key(desktop, key.text)
        await desktop.see("#session .soft")
        assert (await desktop.text("#session")).startswith(
            f"Signed in as {key.id} of default, may read, write, decide."
        )
        await desktop.do("click", "#ticket button")
        await desktop.do("wait_for_url", "**#conv_*")
        await desktop.see("#state[data-state=live]")

        # A second person, with the same link and no key: they are asked for one, and see the same then.
        await phone.do("goto", await desktop.do("evaluate", "location.href"))
        await phone.see("#session input")
        assert await phone.do("evaluate", "document.querySelectorAll('#feed > *').length") == 0
        await _type_key(phone, key.text)
        await phone.see(".card.waits")
        await phone.do("click", ".card.waits button[value=approved]")
        await desktop.see(".card .decision:not([hidden])")
        assert f"approved by {key.id}" in await desktop.text(".card .decision:not([hidden])")
        assert await phone.fits()
        addresses = await _addresses(browser)
        assert any("/tickets" in address for address in addresses)
        assert not any("tt_" in address for address in addresses), "a credential stands in an address"

        await revoke_key(database, key)
        with trio.fail_after(8):
            await desktop.see("#state[data-state=over]")
            await desktop.see("#session input")
        assert await browser.complaints() == []


async def _type_key(page: Page, key: str) -> None:
    await page.do("fill", "#session input", key)
    await page.do("click", "#session button")


async def _addresses(browser: Browser) -> list[str]:
    """All that both pages have asked for, as their own lists of resources have it."""
    entries = "performance.getEntriesByType('resource').map((one) => one.name)"
    return [*await browser.desktop.do("evaluate", entries), *await browser.phone.do("evaluate", entries)]


TICKETED = """
async ([server, key, conversation, generation]) => {
    const headers = { Authorization: `Bearer ${key}`, "Content-Type": "application/json" };
    const ticket = async (path, body) => {
        const init = { method: "POST", headers, body: JSON.stringify(body) };
        return (await fetch(`${server}${path}/tickets`, init)).json();
    };
    window.sse = []; window.ws = []; window.codes = []; window.refused = 0;
    const { url, ticket: mine } = await ticket(generation, {});
    window.source = new EventSource(server + url);
    source.onmessage = ({ data }) => data === "[DONE]" ? source.close() : sse.push(JSON.parse(data));
    source.onerror = () => { if (source.readyState === EventSource.CLOSED) refused += 1; };
    const other = await ticket(conversation, { transport: "websocket" });
    window.socket = new WebSocket(`${server.replace("http", "ws")}${conversation}/ws?after=0`,
        ["tokentape.v1", `tokentape.ticket.${other.ticket}`]);
    socket.onmessage = ({ data }) => {
        const { kind, event } = JSON.parse(data);
        if (kind === "event") ws.push(event);
    };
    socket.onclose = ({ code }) => codes.push(code);
    return { url, mine };
}
"""


async def test_streams_of_another_origin_by_ticket(database: TestDatabase, pages: str) -> None:
    """A native EventSource goes on with its ticket through a cut; a WebSocket has its own in no address."""
    key = await make_key(database, "read,write")
    env = {"TOKENTAPE_ALLOWED_ORIGINS": pages}
    async with running(database.app_url, env) as server, Api.open(server.port) as api:
        api.http.headers["Authorization"] = f"Bearer {key.text}"
        async with cuttable(server.port) as proxy, open_tab(f"{pages}/visible.js") as tab:
            conversation = await api.conversation()
            generation = await api.generate(conversation, tokens=300, rate=30)
            through = f"http://127.0.0.1:{proxy.port}"
            await tab.evaluate(TICKETED, [through, key.text, conversation, generation])
            await tab.until("sse.length >= 20 && ws.length >= 20")
            assert await tab.evaluate("socket.protocol") == "tokentape.v1"
            proxy.cut()
            await tab.until("codes.length === 1")
            log = await api.finished(generation)
            await tab.until(f"sse.length >= {len(log)}")
            assert await tab.evaluate("sse") == log
            assert await tab.evaluate("refused") == 0
            assert await tab.evaluate("source.readyState === EventSource.CLOSED")


async def test_a_ticket_that_was_stolen_after_use_is_refused(database: TestDatabase, pages: str) -> None:
    """By another program, by one that says it is the same browser; the reader goes on undisturbed."""
    key = await make_key(database, "read,write")
    async with running(database.app_url, {"TOKENTAPE_ALLOWED_ORIGINS": pages}) as server:
        async with Api.open(server.port) as api, open_tab(f"{pages}/visible.js") as tab, http_client() as thief:
            api.http.headers["Authorization"] = f"Bearer {key.text}"
            conversation = await api.conversation()
            generation = await api.generate(conversation, tokens=200, rate=20)
            issued = await tab.evaluate(TICKETED, [server.url, key.text, conversation, generation])
            await tab.until("sse.length >= 10")
            address = server.url + issued["url"]
            browser = {"User-Agent": await tab.evaluate("navigator.userAgent"), "Origin": pages}
            stream = {"Accept": "text/event-stream"}
            for headers in (
                stream,
                {**stream, "Last-Event-ID": "3"},
                {**stream, **browser},  # without the cursor that a reconnect has
                {**stream, **browser, "User-Agent": "another", "Last-Event-ID": "3"},
                {**stream, **browser, "Origin": server.url, "Last-Event-ID": "3"},
            ):
                refused = await thief.get(address, headers=headers)
                assert (refused.status_code, refused.json()["code"]) == (401, "ticket_used"), headers
            other = address.replace(generation, conversation)
            assert (await thief.get(other, headers=stream)).status_code == 401
            log = await api.finished(generation)
            await tab.until(f"sse.length >= {len(log)}")
            assert await tab.evaluate("sse") == log


FOUR = """
async ([conversation, generation]) => {
    window.ended = {}; window.counts = { sse: 0, ndjson: 0, ws: 0 }; window.polls = 0;
    const now = (name, how) => { ended[name] ??= how; };
    const source = new EventSource(`${generation}/events`);
    source.onmessage = () => counts.sse++;
    source.onerror = () => { if (source.readyState === EventSource.CLOSED) now("sse", "closed"); };
    const socket = new WebSocket(`${conversation}/ws?after=0`.replace(/^/, location.origin.replace("http", "ws")));
    socket.onmessage = ({ data }) => { if (JSON.parse(data).kind === "event") counts.ws++; };
    socket.onclose = ({ code }) => now("ws", code);
    const lines = async () => {
        const body = (await fetch(`${generation}/events`, { headers: { Accept: "application/x-ndjson" } })).body;
        for await (const chunk of body.pipeThrough(new TextDecoderStream())) counts.ndjson += chunk.length;
        now("ndjson", (await fetch(`${generation}/events`)).status);
    };
    lines().catch((error) => now("ndjson", String(error)));
    const poll = async () => {
        for (;;) {
            polls++;
            const answer = await fetch(`${conversation}/events?after=now&types=result&wait=40`);
            if (answer.status !== 200) return now("poll", answer.status);
        }
    };
    poll().catch((error) => now("poll", String(error)));
}
"""


async def test_a_revoked_key_ends_four_open_streams(database: TestDatabase) -> None:
    """EventSource, NDJSON by fetch, WebSocket and a held poll, signed in by one cookie: within five seconds."""
    key = await make_key(database, "read,write")
    other = await make_key(database, "read,write")
    async with running(database.app_url) as server, Api.open(server.port) as api:
        api.http.headers["Authorization"] = f"Bearer {other.text}"
        conversation = await api.conversation()
        generation = await api.generate(conversation, tokens=10_000, rate=20)
        async with open_tab(f"{server.url}/") as tab:
            await tab.until("!signInForm.hidden")
            await _sign_in(tab, key.text)
            await tab.until("!signedIn.hidden")
            await tab.evaluate(FOUR, [conversation, generation])
            await tab.until("counts.sse >= 5 && counts.ndjson >= 5 && counts.ws >= 5 && polls === 1")
            assert await tab.evaluate("ended") == {}
            await revoke_key(database, key)
            began = trio.current_time()
            await tab.until("Object.keys(ended).length === 4", 8)
            took = trio.current_time() - began
            ended: dict[str, Any] = await tab.evaluate("ended")
        assert ended == {"sse": "closed", "ndjson": 401, "ws": 4401, "poll": 401}, json.dumps(ended)
        assert took < 5 + 1, "five seconds, and one for the browser and this machine"
        status = await api.get(generation)
        assert status["status"] == "running", "what runs is not the key's"
