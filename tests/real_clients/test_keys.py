"""Every library with a key, as the tables "With a key" of docs/clients*.md say: each goes on through a cut.

`SIGNED_IN` makes of each program one that signs in; nothing else in it changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tests.clients.api import Api
from tests.harness.api_keys import make_key
from tests.harness.databases import TestDatabase
from tests.harness.servers import running

from .client_processes import differences, libraries_of, on_runtimes, run_libraries, slow_to_start
from .cutting_proxy import Cut, cutting
from .libraries import Library

pytestmark = slow_to_start

TOKENS, RATE = 60, 20
BEARER = '{ Authorization: "Bearer KEY" }'
BY_FETCH = (
    "{ fetch: (input, init) => fetch(input, { ...init, headers: { ...init.headers, "
    'Authorization: "Bearer KEY" } }) }'
)
NEW_TICKET = """async () => {
    const address = url.replace("ws:", "http:").replace(/ws$/, "tickets");
    const headers = { Authorization: "Bearer KEY", "Content-Type": "application/json" };
    const answer = await fetch(address, { method: "POST", headers, body: '{"transport": "websocket"}' });
    const { ticket } = await answer.json();
    return `${url}?after=${last}&ticket=${ticket}`;
  }"""
SIGNED_IN: Mapping[str, Sequence[tuple[str, str]]] = {
    "eventsource.mjs": [("new EventSource(url)", f"new EventSource(url, {BY_FETCH})")],
    "watchdog.mjs": [("&lastEventId=${last}`)", f"&lastEventId=${{last}}`, {BY_FETCH})")],
    "undici_eventsource.mjs": [],  # a ticket, in the address
    "reconnecting_eventsource.mjs": [],
    "fetch_event_source.mjs": [("    ...request,\n", f"    ...request,\n    headers: {BEARER},\n")],
    "ask_and_follow.mjs": [('headers: { "Content', 'headers: { Authorization: "Bearer KEY", "Content')],
    "eventsource_parser.mjs": [("{ Accept:", '{ Authorization: "Bearer KEY", Accept:')],
    "axios_stream.mjs": [("{ Accept:", '{ Authorization: "Bearer KEY", Accept:')],
    "ndjson.mjs": [("{ Accept:", '{ Authorization: "Bearer KEY", Accept:')],
    "event_source_polyfill.mjs": [("Polyfill(url)", f"Polyfill(url, {{ headers: {BEARER} }})")],
    "ky.mjs": [("{ searchParams, ", f"{{ headers: {BEARER}, searchParams, ")],
    "got.mjs": [("{ searchParams, ", f"{{ headers: {BEARER}, searchParams, ")],
    "axios_retry.mjs": [("axios.create({ ", f"axios.create({{ headers: {BEARER}, ")],
    "ws.mjs": [("?after=${last}`)", f"?after=${{last}}`, {{ headers: {BEARER} }})")],
    "partysocket.mjs": [("() => `${url}?after=${last}`", NEW_TICKET)],
    "httpx_sse_client.py": [("httpx.Client(", 'httpx.Client(headers={"Authorization": "Bearer KEY"}, ')],
    "ndjson_httpx.py": [('{"Accept":', '{"Authorization": "Bearer KEY", "Accept":')],
    "requests_sse_client.py": [("(url, timeout", '(url, headers={"Authorization": "Bearer KEY"}, timeout')],
    "sseclient_py.py": [('{"Accept":', '{"Authorization": "Bearer KEY", "Accept":')],
    "aiohttp_sse_client2_client.py": [('{"Last-Event-ID":', '{"Authorization": "Bearer KEY", "Last-Event-ID":')],
    "long_poll_requests.py": [("session.get(url, ", 'session.get(url, headers={"Authorization": "Bearer KEY"}, ')],
    "tenacity_poll.py": [('{"If-None-Match":', '{"Authorization": "Bearer KEY", "If-None-Match":')],
    "websockets_client.py": [
        ("connect(url)", 'connect(url, additional_headers={"Authorization": "Bearer KEY"})'),
    ],
    "websocket_client.py": [("timeout=40)", 'timeout=40, header={"Authorization": "Bearer KEY"})')],
    "follow.sh": [("-H 'Accept:", "-H 'Authorization: Bearer KEY' -H 'Accept:")],
}
OLD_EVENTSOURCE = [("new EventSource(url)", f"new EventSource(url, {{ headers: {BEARER} }})")]
"""Version 2 has no option `fetch`, but one for headers."""
BY_TICKET = ("undici_eventsource.mjs", "reconnecting_eventsource.mjs")


@on_runtimes
async def test_every_library_signs_in(database: TestDatabase, runtime: str, tmp_path: Path) -> None:
    """Cut once in the middle, each reconnects as the same caller, and has the whole answer."""
    key = await make_key(database, "read,write")
    members = [
        _signed_in(library, key.text) for library in libraries_of(runtime, "cuts") if library.program in SIGNED_IN
    ]
    async with running(database.app_url) as server, Api.open(server.port) as api, cutting(server.port) as proxy:
        api.http.headers["Authorization"] = f"Bearer {key.text}"
        conversation = await api.conversation()
        generation = await api.generate(conversation, tokens=TOKENS, rate=RATE)
        tickets = {}
        for number, library in enumerate(members):
            proxy.plans[library.slug].append(Cut(10 + number, 5 * number))
            if library.program in BY_TICKET:
                issued = await api.post(f"{generation}/tickets", {})
                tickets[library.slug] = f"?ticket={issued.json()['ticket']}"

        def address(library: Library) -> str:
            path, scheme = library.path(conversation, generation)
            return proxy.url(library.slug, path, scheme) + tickets.get(library.slug, "")

        async with run_libraries(members, address, tmp_path) as run:
            await api.finished(generation)
            came = await run.outcomes(api, conversation, generation)
        assert differences(came, members, "cuts") == {}, run.complaints()


def _signed_in(library: Library, key: str) -> Library:
    more = OLD_EVENTSOURCE if library.name.startswith("eventsource 2") else SIGNED_IN[library.program]
    signing_in = [(old, new.replace("KEY", key)) for old, new in more]
    return replace(library, replacing=[*library.replacing, *signing_in])
