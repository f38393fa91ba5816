"""Keys behind nginx: the first one, a sign-in, and a long scenario of which no secret and no text is written.

Two servers, as compose.yaml has them, with the key that its `first-key` service makes. The scenario goes over
every transport; then secrets are looked for, whole and by their random part, and texts by a word of their own.
"""

import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio
from joserfc import jwt
from joserfc.jwk import OctKey

from server.auth.credentials import parse
from server.client.api import open_websocket
from tests.clients.api import demo, new_key
from tests.conftest import postgres_folder
from tests.harness.browser import CHROMIUM, NO_CHROMIUM, open_tab
from tests.harness.databases import Postgres
from tests.harness.http import http_client

from .nginx import NGINX, NO_NGINX
from .stack import Stack, stack

WORD = f"confidential{secrets.token_hex(6)}"
"""Of everything that people and models say here."""
SSE, NDJSON, JSON = "text/event-stream", "application/x-ndjson", "application/json"
END_SECONDS = 5.0 + 2.0


@pytest.fixture(scope="module")
def app_secret() -> bytes:
    """What the embedding app signs its users' tokens with."""
    return secrets.token_bytes(32)


@pytest.fixture(scope="module")
def keyed(postgres: Postgres, app_secret: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The services; the servers also take tokens of an app."""
    if NGINX is None:
        pytest.skip(NO_NGINX)
    private: Path = tmp_path_factory.mktemp("keyed")
    (private / "jwks.json").write_text(json.dumps({"keys": [OctKey.import_key(app_secret).as_dict()]}), "utf-8")
    names = {"TOKENTAPE_JWT_KEYS": str(private / "jwks.json")}
    with postgres_folder(private, "keyed") as folder, stack(folder, postgres.embedded.bin_dir, names) as made:
        yield made


@dataclass
class Scenario:
    """What was sent and what came back. `secrets` by what they are; `problems` are the bodies of all refusals."""

    stack: Stack
    secrets: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    codes: set[str] = field(default_factory=set)

    async def ask(self, client: httpx2.AsyncClient, method: str, path: str, **more: Any) -> httpx2.Response:
        """A request; a refusal's body is kept."""
        answer = await client.request(method, path, **more)
        if answer.status_code >= 400:
            self.problems.append(answer.text + str(answer.headers))
            self.codes.add(answer.json()["code"])
        return answer

    def run_keys(self, *words: str) -> dict[str, Any]:
        """`tokentape keys …` as an operator types it; its JSON."""
        out, _ = self.stack.run_keys("keys", *words, "--json")
        found: dict[str, Any] = json.loads(out)
        return found


@pytest.fixture(scope="module")
def first_key(keyed: Stack) -> tuple[str, str]:
    """What the first `docker compose up` prints, and its log."""
    return keyed.run_keys()


def test_first_key_is_made_once(keyed: Stack, first_key: tuple[str, str]) -> None:
    """The first `up` prints it and nothing else; later ones say that they made none, and why."""
    out, told = first_key
    assert parse(out.removesuffix("\n")) is not None
    assert "not shown again" in told
    for _ in range(2):
        out, told = keyed.run_keys()
        assert out == ""
        assert "there was one before" in told


@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
async def test_browser_signs_in_through_nginx(keyed: Stack, first_key: tuple[str, str]) -> None:
    """By plain http on this machine, as Compose publishes it: the browser keeps the cookie, and the demo runs."""
    await keyed.mend()
    async with open_tab(f"{keyed.url}/") as tab:
        await tab.until("!signInForm.hidden")
        script = "(key) => { keyField.value = key; signInForm.requestSubmit(); }"
        await tab.evaluate(script, first_key[0].strip())
        await tab.until("!signedIn.hidden || !sessionTrouble.hidden")
        assert await tab.evaluate("sessionTrouble.hidden"), await tab.evaluate("sessionTrouble.textContent")
        await tab.evaluate("startButton.click()")
        await tab.until("run !== null && run.last >= 5")
        await tab.evaluate("signOutButton.click()")
        await tab.until("!signInForm.hidden")


async def test_no_secret_is_logged_anywhere(keyed: Stack, app_secret: bytes, first_key: tuple[str, str]) -> None:
    """Every transport, every credential, good and refused, directly and through nginx; then all logs are read."""
    await keyed.mend()
    scenario = Scenario(keyed)
    known = scenario.secrets
    known["first key"] = first_key[0].strip()
    known["short-lived key"] = scenario.run_keys("create", "--scopes", "read", "--expires", "1m")["key"]
    doomed = scenario.run_keys("create", "--tenant", "acme", "--scopes", "read,write,decide")
    known["revoked key"] = doomed["key"]
    claims = {"tenant": "acme", "sub": "ada", "scopes": ["read", "write"], "exp": int(time.time()) + 600}
    signer = OctKey.import_key(app_secret)
    known["token"] = jwt.encode({"alg": "HS256"}, claims, signer)
    known["expired token"] = jwt.encode({"alg": "HS256"}, {**claims, "exp": int(time.time()) - 600}, signer)
    known["forged token"] = jwt.encode({"alg": "HS256"}, claims, OctKey.generate_key(256))
    known["unknown key"] = known["first key"][:-43] + secrets.token_urlsafe(32)
    known["malformed key"] = f"tt_key_{secrets.token_hex(30)}"
    for base in (keyed.url, keyed.servers[0].url):
        for name in ("first key", "revoked key", "token"):
            await _expect_accepted(scenario, base, name)
        for name in ("unknown key", "malformed key", "expired token", "forged token"):
            await _expect_refused(scenario, base, known[name])
    await _expect_revoked(scenario, doomed["id"])
    metrics = [httpx2.get(f"{server.url}/metrics").text for server in keyed.servers]
    for server in keyed.servers:
        assert await server.stop() == 0
    written = {
        "a server's log": "".join(server.logged() for server in keyed.servers),
        "nginx's access log": json.dumps(keyed.nginx.requests()),
        "nginx's error log": keyed.nginx.errors(),
        "a metric": "".join(metrics),
        "a problem": "".join(scenario.problems),
    }
    # It did what it was to do: else it would find nothing because nothing was there.
    wanted = {"unauthenticated", "invalid_credential", "expired_credential", "revoked_credential", "ticket_used"}
    assert wanted | {"scope_required", "not_found", "origin_required"} <= scenario.codes
    assert "tokentape_http_requests" in written["a metric"]
    assert written["a server's log"].count("run finished") >= 6
    assert len(keyed.nginx.requests()) > 50
    assert {"session", "ticket", "websocket ticket"} < known.keys()
    for place, text in written.items():
        assert WORD not in text, place
        for name, secret in known.items():
            assert secret not in text, (name, place)
            assert secret[-43:] not in text, (name, place)


async def _expect_accepted(scenario: Scenario, base: str, name: str) -> None:
    known = scenario.secrets
    authorization = {"Authorization": f"Bearer {known[name]}"}
    async with http_client(base) as client, http_client(base) as browser:
        client.headers.update(authorization)
        body = {"title": f"{WORD} title", "metadata": {"about": f"{WORD} metadata"}}
        place = (await scenario.ask(client, "POST", "/v1/conversations", json=body)).headers["Location"]
        said = {"role": "user", "content": f"{WORD} message", "author": f"{WORD} author"}
        assert (await scenario.ask(client, "POST", f"{place}/messages", json=said)).status_code == 201
        asked = {**demo(tokens=5, rate=0), "input": f"{WORD} input"}
        made = await scenario.ask(client, "POST", f"{place}/generations", json=asked)
        generation = made.headers["Location"]
        for accept in (SSE, NDJSON, JSON):
            read = await client.get(f"{generation}/events", headers={"Accept": accept})
            assert read.status_code == 200
        await client.get(f"{place}/events", params={"after": "now", "wait": "1"})
        await client.get(place)

        # What is wrong: a refusal repeats nothing.
        bad = {"role": "user", "content": f"{WORD}\x00"}
        await scenario.ask(client, "POST", f"{place}/messages", json=bad)
        await scenario.ask(client, "POST", f"{place}/messages", content=f"{{{WORD}".encode())
        await scenario.ask(client, "POST", f"{place}/generations", json={"model": "nowhere/x", "input": WORD})
        await scenario.ask(client, "GET", f"{place}/events", params={"after": "seventeen"})
        await scenario.ask(client, "GET", f"{place}/events", params={"after": "1000000"})
        await scenario.ask(client, "GET", "/v1/conversations/conv_01JC0000000000000000000000")
        await scenario.ask(client, "GET", "/v1/diagnostics/stream", headers={"X-Forwarded-For": "203.0.113.9"})

        # A browser on the server's own origin.
        page = {"Origin": base, "Sec-Fetch-Site": "same-origin", "X-Forwarded-Proto": "https"}
        signed_in = await scenario.ask(browser, "POST", "/v1/session", headers={**page, **authorization}, json={})
        if signed_in.status_code == 201:
            cookie, _, rest = signed_in.headers["Set-Cookie"].partition(";")
            known["session"] = cookie.partition("=")[2]
            assert "HttpOnly" in rest
            headers = {"Cookie": cookie}
            assert (
                await browser.get(f"{generation}/events", headers={**headers, "Accept": SSE})
            ).status_code == 200
            await scenario.ask(browser, "POST", f"{place}/messages", headers=headers, json=said)  # no Origin
            await scenario.ask(browser, "DELETE", "/v1/session", headers={**headers, **page})
            await scenario.ask(browser, "GET", place, headers=headers)

        # A page elsewhere: tickets, in the address and as a subprotocol, each used again by somebody else.
        ticket = (await scenario.ask(client, "POST", f"{generation}/tickets", json={})).json()
        known["ticket"] = ticket["ticket"]
        reader = {"Accept": SSE, "User-Agent": "browser"}
        assert (await browser.get(ticket["url"], headers=reader)).status_code == 200
        await scenario.ask(browser, "GET", ticket["url"], headers={**reader, "User-Agent": "thief"})
        await _websockets(scenario, base, place, client, authorization, said)


async def _websockets(
    scenario: Scenario,
    base: str,
    place: str,
    client: httpx2.AsyncClient,
    authorization: dict[str, str],
    said: dict[str, str],
) -> None:
    url = f"{base.replace('http', 'ws', 1)}{place}/ws?after=0"
    body = {"transport": "websocket"}
    tickets = [(await client.post(f"{place}/tickets", json=body)).json() for _ in range(2)]
    by_protocol, by_address = tickets[0]["ticket"], tickets[1]["ticket"]
    scenario.secrets["websocket ticket"] = by_protocol
    scenario.secrets["websocket ticket in an address"] = by_address
    protocols = ["tokentape.v1", f"tokentape.ticket.{by_protocol}"]
    for more, offered, headers in (
        ("", ["tokentape.v1"], authorization),
        ("", protocols, {}),
        ("", protocols, {"User-Agent": "thief"}),
        (f"&ticket={by_address}", [], {}),
        (f"&author={WORD}", ["tokentape.v1"], authorization),
        ("", ["tokentape.v1"], {}),
    ):
        with trio.fail_after(20):
            async with open_websocket(url + more, offered, headers=headers) as socket:
                first = json.loads(await socket.get_message())
                if first["kind"] == "error":
                    scenario.problems.append(json.dumps(first))
                    scenario.codes.add(first["code"])
                    continue
                commands: tuple[dict[str, Any], ...] = (
                    {"do": "post", **said},
                    {"do": "post", "role": "user", "content": f"{WORD}\x00"},
                    {"do": "nothing", "content": WORD},
                    {"do": "steer", "generation": "gen_x", "name": "x", "value": WORD},
                )
                for command in commands:
                    await socket.send_message(json.dumps({"id": "c1", "key": new_key(), **command}))
                answers = 0
                while answers < len(commands):
                    frame = json.loads(await socket.get_message())
                    answers += frame.get("id") == "c1"
                    if frame["kind"] == "error":
                        scenario.problems.append(json.dumps(frame))


async def _expect_refused(scenario: Scenario, base: str, text: str) -> None:
    async with http_client(base) as client:
        for headers in (
            {"Authorization": f"Bearer {text}"},
            {"Cookie": f"__Host-tokentape={text}"},
            {"Authorization": f"Basic {text}"},
        ):
            for method, path in (
                ("GET", "/v1/conversations"),
                ("POST", "/v1/generations"),
                ("POST", "/v1/session"),
            ):
                body = {"json": {"model": "demo", "input": WORD}} if method == "POST" else {}
                answer = await scenario.ask(client, method, path, headers=headers, **body)
                assert answer.status_code in (401, 403, 429)
        path = "/v1/generations/gen_01JC0000000000000000000000/events"
        await scenario.ask(client, "GET", f"{path}?ticket={text}", headers={"Accept": SSE})
        await scenario.ask(client, "GET", f"{path}?key={text}&access_token={text}", headers={"Accept": SSE})


async def _expect_revoked(scenario: Scenario, key_id: str) -> None:
    """A stream that is open when its key is revoked ends, and says nothing of the key."""
    headers = {"Authorization": f"Bearer {scenario.secrets['revoked key']}"}
    async with http_client(scenario.stack.url) as client:
        client.headers.update(headers)
        made = await client.post("/v1/generations", json={**demo(tokens=10_000, rate=5), "input": WORD})
        async with client.stream("GET", made.headers["Location"] + "/events", headers={"Accept": SSE}) as stream:
            scenario.run_keys("revoke", key_id)
            with trio.fail_after(END_SECONDS):
                async for _ in stream.aiter_bytes():
                    pass
                for server in scenario.stack.servers:  # each notices by itself
                    address = f"{server.url}{made.headers['Location']}"
                    while (await scenario.ask(client, "GET", address)).status_code != 401:
                        await trio.sleep(0.1)
