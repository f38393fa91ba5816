"""What holds for every address there is, taken from the table of routes: a new one is held to it unasked."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import pytest
import trio

from server.ids import new_id
from server.web.edge.host_origin_cors import UNGUARDED

from .asgi import Answered, Web, web

EVIL = {"Host": "evil.example"}
FOREIGN = {"Origin": "http://evil.example"}
BAD_IDS = {
    "nul": "\x00",
    "nul at the end": "{id}\x00",
    "line end": "{id}\n",
    "space": "{id} ",
    "slash": "a/b",
    "encoded slash": "a%2Fb",
    "twice encoded": "%2500",
    "dots": "..",
    "short": "{id:.29}",
    "long": "{id}0",
    "overlong": "x" * 5_000,
    "small letters": "{lower}",
    "other kind": "call_{rest}",
    "no prefix": "{rest}",
    "no letter of the alphabet": "{id:.29}U",
    "surrogate": "\udc80",
    "no ascii": "é\U0001f600",
    "replaced": "\ufffd",
    "arabic digits": "{id:.29}\u0661",
    "sql": "' OR 1=1 --",
    "template": "{{{{7*7}}}}",
    "semicolon": "{id};x=1",
}


def routes(app: Web) -> list[tuple[str, str, bool]]:
    """Method, address with its placeholders, and whether it is a WebSocket."""
    return [
        (method, rule.rule, bool(rule.websocket))
        for rule in app.quart.url_map.iter_rules()
        for method in sorted((rule.methods or {"GET"}) - {"HEAD", "OPTIONS"} if not rule.websocket else {"GET"})
    ]


def filled(rule: str, **ids: str) -> str:
    """The address with ids in place; each of its right kind where none is given."""

    def put(found: re.Match[str]) -> str:
        kind, name = found[1] or "", found[2]
        if name in ids:
            return ids[name]
        if kind == "file:":
            return "0123456789abcdef" * 4
        return new_id(kind.rstrip(":") or "conv")

    return re.sub(r"<(\w+:)?(\w+)>", put, rule)


async def ask(app: Web, method: str, path: str, headers: dict[str, str], *, websocket: bool) -> Answered:
    """By whichever way the address is for."""
    if websocket:
        return await app.upgrade(path, headers)
    body: Any = {} if method == "POST" else None
    return await app.ask(method, path, headers, body)


def assert_refused_in_words(answer: Answered, where: object) -> None:
    """A problem, not a fault."""
    assert answer.headers["content-type"] == "application/problem+json", where
    assert 400 <= answer.status < 500, (where, answer.body)
    assert answer.json["status"] == answer.status
    assert answer.body.endswith(b"}\n")


async def test_none_builds_a_url() -> None:
    """Werkzeug compiles nothing for that; fails where another version of it does so in another way."""
    async with web() as app:
        for rule in app.quart.url_map.iter_rules():
            with pytest.raises(NotImplementedError, match="no URL is built from"):
                rule.build({})


async def test_each_is_guarded_but_three() -> None:
    """By a name that is none of ours, nothing can be read or done, nor a WebSocket opened (DNS rebinding)."""
    async with web() as app:
        found = routes(app)
        assert len(found) > 15
        open_ones = set()
        for method, rule, websocket in found:
            for more in ({}, {"Origin": "http://evil.example"}):
                answer = await ask(app, method, filled(rule), {**EVIL, **more}, websocket=websocket)
                if answer.status == 421:
                    assert_refused_in_words(answer, rule)
                    assert answer.code == "host_not_allowed"
                else:
                    open_ones.add(rule)
        assert open_ones == UNGUARDED
        for path in ("/nope", "/v1/nope", "//v1/conversations", "/healthz/x", "/V1/conversations"):
            assert (await app.ask("GET", path, EVIL)).status == 421, path
        for path in UNGUARDED:
            assert (await app.ask("GET", path, EVIL)).status == 200


async def test_no_foreign_page_can_do_anything() -> None:
    async with web() as app:
        for method, rule, websocket in routes(app):
            answer = await ask(app, method, filled(rule), FOREIGN, websocket=websocket)
            if websocket or method != "GET":
                assert (answer.status, answer.code) == (403, "origin_not_allowed"), rule
                assert not answer.accepted
            else:
                assert answer.code != "origin_not_allowed", rule
                assert "access-control-allow-origin" not in answer.headers


async def test_every_answer_is_named_and_is_what_it_says() -> None:
    """`X-Request-ID` and `nosniff`, on good answers and refusals, and from every method."""
    async with web() as app:
        for _, rule, websocket in routes(app):
            for method in ("GET", "HEAD", "POST", "OPTIONS", "DELETE"):
                answer = await app.ask(method, filled(rule), {"X-Request-ID": "mine"})
                assert answer.headers["x-request-id"] == "mine", rule
                assert answer.headers["x-content-type-options"] == "nosniff", rule
            if websocket:
                answer = await app.upgrade(filled(rule), {"X-Request-ID": "mine"})
                assert answer.headers["x-request-id"] == "mine", rule


@pytest.mark.parametrize("bad", BAD_IDS.values(), ids=BAD_IDS)
async def test_an_invalid_id_is_404(bad: str) -> None:
    """404 for every method of every address that takes one, whichever of its ids it is; nothing fails."""
    async with web() as app:
        for method, rule, websocket in routes(app):
            for kind, name in re.findall(r"<(?:(\w+):)?(\w+)>", rule):
                right = "0123456789abcdef" * 4 if kind == "file" else new_id(kind or "conv")
                rest = right.partition("_")[2] or right[1:]
                text = bad.format(id=right, lower=right.lower(), rest="0" * 26 if "call" in bad else rest)
                if text.startswith("call_") and kind == "call":
                    text = f"gen_{rest}"
                path = filled(rule, **{name: text})
                headers = {"Idempotency-Key": "a-key-of-sixteen"}
                answer = await ask(app, method, path, headers, websocket=websocket)
                if websocket and answer.accepted:
                    # A page cannot see a status: it is told after the upgrade, and for good.
                    assert [frame["code"] for frame in answer.frames] == ["not_found"], path
                    assert answer.closed == 4404
                else:
                    assert (answer.status, answer.code) == (404, "not_found"), (method, path)
                    assert_refused_in_words(answer, path)


HEADERS = ("Idempotency-Key", "Last-Event-ID", "Accept", "Prefer", "If-None-Match", "X-Request-ID", "Origin")
VALUES: list[str | bytes] = [
    *("", " ", "\x00", "a\x00b", "\x7f", "é", "\ufffd", "x" * 8_000, ",", ";", "=", '"', '"', "a\tb", "%00"),
    *("-1", "1e9", "9" * 400, "now", "*", "*/*;q=x", "text/event-stream;q=1.0000", "wait=" + "9" * 400),
    *('wait="', "wait=;;", "respond-async, wait=x", 'W/"', "null", "http://[", "http://[::1", "\u2028"),
    *(b"\xff\xfe", b"\xed\xa0\x80", b"\x80"),
]


SIGNING = ("Authorization", "Cookie", "Sec-Fetch-Site", "User-Agent", "X-Forwarded-For", "Forwarded")
BEGINNINGS = {"Authorization": "Bearer ", "Cookie": "tokentape=", "Forwarded": "for="}


@pytest.mark.parametrize("name", SIGNING)
async def test_no_credential_makes_it_fail(name: str) -> None:
    """The same of the headers that say who calls, and from where, on a server that asks; and of tickets."""
    async with web(require_keys=True, trusted_proxies=("127.0.0.0/8",)) as app:
        for method, rule, websocket in routes(app):
            if not rule.startswith("/v1/"):
                continue
            for value in VALUES:
                begun = BEGINNINGS.get(name, "")
                whole: Any = begun.encode() + value if isinstance(value, bytes) else begun + value
                with trio.fail_after(5):
                    answer = await ask(app, method, filled(rule), {name: whole}, websocket=websocket)
                assert answer.accepted or answer.status in (200, 401, 429), (method, rule, value, answer.body)
                assert not answer.accepted or answer.closed == 4401
    tickets = [quote(value if isinstance(value, bytes) else value.encode()) for value in VALUES]
    async with web(require_keys=True) as app:
        for method, rule, websocket in routes(app):
            for ticket in tickets if rule.endswith(("/events", "/ws")) and name == "Cookie" else ():
                path, query = filled(rule), f"ticket={ticket}"
                if websocket:
                    answer = await app.upgrade(path, query=query)
                    assert answer.closed == 4401 or answer.status == 429
                else:
                    assert (await app.ask(method, path, query=query)).status in (401, 429)


@pytest.mark.parametrize("name", HEADERS)
async def test_no_header_makes_it_fail(name: str) -> None:
    """Whatever stands in it, on every address of the API: an answer that means something."""
    async with web() as app:
        conversation = (await app.post("/v1/conversations", {})).json["id"]
        for method, rule, websocket in routes(app):
            if not rule.startswith("/v1/"):
                continue  # they look at none of these, and /docs and /metrics take long
            for value in VALUES:
                headers: dict[str, Any] = {name: value}
                with trio.fail_after(5):
                    answer = await ask(app, method, filled(rule, name=conversation), headers, websocket=websocket)
                assert 0 < answer.status < 500, (method, rule, value, answer.body)
