"""Browsers signed in by a cookie: how they get it and lose it, its attributes, and which requests it signs in."""

from __future__ import annotations

import pytest

from server.auth.principal import ALL_SCOPES
from tests.openapi.contract import validator

from .asgi import Answered, Web, web
from .signed_requests import ORIGIN, SignedApp, bearer, cookie, every_route

LOCAL, SECURE = "tokentape", "__Host-tokentape"
READ_WRITE = ["write", "read"]


async def sign_in(app: Web, scopes: list[str] = READ_WRITE, **headers: str) -> Answered:
    """By a key, at `Host: localhost` over plain http unless the headers say otherwise."""
    made = SignedApp(app)
    key = await made.key(scopes)
    return await app.ask("POST", "/v1/session", {**bearer(key).headers, **headers})


def cookie_of(answer: Answered) -> tuple[str, str, set[str]]:
    """Name, value and attributes of the cookie that is set."""
    pair, *attributes = answer.headers["set-cookie"].split("; ")
    name, _, value = pair.partition("=")
    return name, value, set(attributes)


async def test_signing_in_out_and_who_am_i() -> None:
    async with web(require_keys=True) as app:
        answer = await sign_in(app)
        assert answer.status == 201
        assert answer.headers["cache-control"] == "no-store"
        validator("SessionShown").validate(answer.json)
        assert answer.json["scopes"] == ["read", "write"]
        assert answer.json["tenant"] == "acme"
        assert answer.json["subject"].startswith("key_")
        name, value, attributes = cookie_of(answer)
        assert attributes == {"Path=/", "Max-Age=43200", "HttpOnly", "SameSite=Lax"}
        assert (name, value[:7]) == (LOCAL, "tt_ses_")
        assert value not in answer.body.decode()
        signed = cookie(value).headers
        me = await app.ask("GET", "/v1/session", signed)
        assert me.json == answer.json
        assert (await app.post("/v1/conversations", {}, signed)).status == 201
        out = await app.ask("DELETE", "/v1/session", signed)
        assert (out.status, cookie_of(out)) == (204, (LOCAL, "", {*attributes - {"Max-Age=43200"}, "Max-Age=0"}))
        for method in ("GET", "DELETE"):
            assert (await app.ask(method, "/v1/session", signed)).code == "revoked_credential"


HTTPS = {"Host": "tape.example"}


@pytest.mark.parametrize(
    ("headers", "settings", "name"),
    [
        ({}, {}, LOCAL),
        ({"Host": "127.0.0.1:8000"}, {}, LOCAL),
        ({"Host": "[::1]:8000"}, {}, LOCAL),
        ({"Origin": ORIGIN}, {}, LOCAL),
        (HTTPS, {}, None),
        ({**HTTPS, "X-Forwarded-Proto": "https"}, {}, None),
        ({"X-Forwarded-For": "192.0.2.1"}, {}, None),
        ({"X-Forwarded-For": "192.0.2.1", "Origin": ORIGIN}, {}, SECURE),
        ({"X-Forwarded-For": "192.0.2.1", "Origin": "http://tape.example", **HTTPS}, {}, None),
        ({**HTTPS, "Origin": "https://tape.example"}, {}, SECURE),
        ({**HTTPS, "Origin": "http://tape.example"}, {}, None),
        (HTTPS, {"public_url": "https://tape.example"}, SECURE),
        ({**HTTPS, "Origin": "http://tape.example"}, {"public_url": "https://tape.example"}, None),
        ({**HTTPS, "X-Forwarded-Proto": "https"}, {"trusted_proxies": ("127.0.0.1",)}, SECURE),
        ({**HTTPS, "X-Forwarded-Proto": "http"}, {"trusted_proxies": ("127.0.0.1",)}, None),
        ({**HTTPS, "X-Forwarded-Proto": "https, http"}, {"trusted_proxies": ("127.0.0.1",)}, None),
        ({**HTTPS, "Forwarded": "for=192.0.2.1;proto=https"}, {"trusted_proxies": ("127.0.0.1",)}, SECURE),
        ({**HTTPS, "Forwarded": "for=192.0.2.1;proto=http"}, {"trusted_proxies": ("127.0.0.1",)}, None),
        ({**HTTPS, "X-Forwarded-Proto": "https"}, {"trusted_proxies": ("192.0.2.0/24",)}, None),
    ],
)
async def test_over_plain_http_only_this_machine_signs_in(
    headers: dict[str, str], settings: dict[str, str], name: str | None
) -> None:
    """A cookie that anybody on the way could read is not given; over https its name keeps other hosts out."""
    async with web(require_keys=True, allowed_hosts=("tape.example",), **settings) as app:  # type: ignore[arg-type]
        answer = await sign_in(app, READ_WRITE, **headers)
        if name is None:
            assert (answer.status, answer.code) == (403, "https_required")
            assert "set-cookie" not in answer.headers
            return
        assert answer.status == 201
        found, value, attributes = cookie_of(answer)
        assert found == name
        assert ("Secure" in attributes) == (name == SECURE)
        assert attributes > {"Path=/", "HttpOnly", "SameSite=Lax"}
        again = await app.ask("GET", "/v1/session", {**headers, "Cookie": f"{name}={value}"})
        assert again.status == 200


SPACES = ["\xa0", "\x85", "\x1c", "\x1d", "\x1e", "\x1f", "\x0b", "\x0c"]
"""What Python takes for white space. To a browser it is part of a cookie's name, which then has no prefix that
keeps other hosts from setting it."""


@pytest.mark.parametrize(
    ("headers", "good"),
    [
        ({"Cookie": "{local}"}, True),
        ({"Cookie": "{secure}"}, True),
        ({"Cookie": "a=b; {local}; c=d"}, True),
        ({"Cookie": "{local}x"}, False),
        ({"Cookie": "x{local}"}, False),
        ({"Cookie": "tokentape=; {local}"}, False),
        ({"Cookie": "{local}; tokentape=other"}, True),
        ({"Cookie": "{secure}; tokentape=other"}, True),
        ({"Cookie": "__Host-tokentape=other; {local}"}, False),
        ({"Cookie": " \t{secure}\t "}, True),
        *[({"Cookie": f"{space}__Host-tokentape=other; {{secure}}"}, True) for space in SPACES],
        *[({"Cookie": f"{space}{{secure}}"}, False) for space in SPACES],
        *[({"Cookie": f"{space}{{local}}"}, False) for space in SPACES],
        ({"Cookie": "{local}", "Host": "tape.example"}, False),
        ({"Cookie": "{secure}", "Host": "tape.example"}, True),
        ({"Cookie": "{local}", "X-Forwarded-For": "192.0.2.1"}, False),
        ({"Cookie": "{local}", "Authorization": "Basic dXNlcjpwYXNz"}, True),
        ({"Cookie": "{local}", "Authorization": "Bearer tt_key_wrong"}, False),
    ],
)
async def test_which_cookie_counts(headers: dict[str, str], good: bool) -> None:
    """The plain one only on this machine; `Authorization: Bearer` goes before it, another scheme does not."""
    async with web(require_keys=True, allowed_hosts=("tape.example",)) as app:
        _, value, _ = cookie_of(await sign_in(app))
        filled = {
            name: text.format(local=f"{LOCAL}={value}", secure=f"{SECURE}={value}")
            for name, text in headers.items()
        }
        assert (await app.ask("GET", "/v1/conversations", filled)).status == (200 if good else 401)


PAGES = {
    "a page of this server": ({"Origin": ORIGIN}, True),
    "fetch metadata alone": ({"Sec-Fetch-Site": "same-origin"}, True),
    "both": ({"Origin": ORIGIN, "Sec-Fetch-Site": "same-origin"}, True),
    "an allowed origin of the same site": ({"Origin": "https://app.example", "Sec-Fetch-Site": "same-site"}, True),
    "nothing": ({}, False),
    "another site": ({"Sec-Fetch-Site": "cross-site"}, False),
    "another site, allowed": ({"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"}, False),
    "the same site, without an origin": ({"Sec-Fetch-Site": "same-site"}, False),
    "typed by a person": ({"Sec-Fetch-Site": "none"}, False),
    "a foreign origin": ({"Origin": "https://evil.example"}, False),
    "no origin": ({"Origin": "null"}, False),
}


@pytest.mark.parametrize("page", PAGES)
async def test_a_cookie_acts_only_for_pages_of_this_server(page: str) -> None:
    """Every route that changes something, and the upgrade, which any page could read; a GET needs nothing."""
    headers, good = PAGES[page]
    async with web(require_keys=True, allowed_origins=("https://app.example",)) as app:
        made = SignedApp(app)
        for route in every_route(app):
            if not route.rule.startswith("/v1/") or (route.rule, route.method) == ("/v1/session", "POST"):
                continue
            value = await made.session(await made.key(ALL_SCOPES))
            signed = {"Cookie": f"{LOCAL}={value}", **headers}
            unknown = {"conversation": "conv_" + "0" * 26, "generation": "gen_" + "0" * 26, "file": "0" * 64}
            path = route.path(unknown[route.takes_id or "file"])
            if route.websocket:
                answer = await app.upgrade(path, signed)
                assert answer.accepted == good, (page, str(route))
            else:
                body: object = {} if route.method == "POST" else None
                answer = await app.ask(route.method, path, signed, body, query=route.query)
            changes = route.method not in ("GET", "HEAD") or route.websocket
            refused = answer.status == 403 and answer.code in ("origin_required", "origin_not_allowed")
            assert refused == (changes and not good), (page, str(route), answer.body)


async def test_a_session_makes_no_session() -> None:
    """Nor does a ticket: a stolen cookie would live on for ever."""
    async with web(require_keys=True) as app:
        _, value, _ = cookie_of(await sign_in(app))
        answer = await app.ask("POST", "/v1/session", cookie(value).headers)
        assert (answer.status, answer.code) == (401, "invalid_credential")
        in_header = await app.ask("POST", "/v1/session", {"Authorization": f"Bearer {value}"})
        assert (in_header.status, in_header.code) == (401, "invalid_credential")


async def test_where_nobody_has_to_sign_in() -> None:
    """A page asks who it is, and sees that it needs no form; signing in and out does no harm."""
    async with web() as app:
        for method, status in (("GET", 200), ("POST", 200), ("DELETE", 204)):
            answer = await app.ask(method, "/v1/session", {"Cookie": f"{LOCAL}=tt_ses_old"})
            assert answer.status == status
            if status == 200:
                validator("SessionShown").validate(answer.json)
                assert answer.json["subject"] == "anonymous"
                assert answer.json["expires_at"] is None
                assert set(answer.json["scopes"]) == ALL_SCOPES
                assert "set-cookie" not in answer.headers


async def test_a_preflight_needs_no_credential() -> None:
    """And tells that `Authorization` may be sent, and which methods there are."""
    async with web(require_keys=True, allowed_origins=("https://app.example",)) as app:
        asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "DELETE"}
        answer = await app.ask("OPTIONS", "/v1/session", asked)
        assert answer.status == 204
        assert "Authorization" in answer.headers["access-control-allow-headers"].split(", ")
        assert answer.headers["access-control-allow-methods"] == "DELETE, GET, HEAD, OPTIONS, POST"
        assert "access-control-allow-credentials" not in answer.headers
        for route in every_route(app):
            unknown = {"conversation": "conv_" + "0" * 26, "generation": "gen_" + "0" * 26, "file": "0" * 64}
            path = route.path(unknown[route.takes_id or "file"])
            assert (await app.ask("OPTIONS", path, asked)).status == 204, str(route)


async def test_operators_on_this_machine_are_asked_nothing() -> None:
    """A scraper reads what it read before there were keys, and `doctor` measures; nobody else without `admin`."""
    async with web(require_keys=True) as app:
        made = SignedApp(app)
        admin, reader = [bearer(await made.key([scope])).headers for scope in ("admin", "read")]
        for path, query in (("/metrics", ""), ("/v1/diagnostics/stream", "chunks=2&interval=0")):
            for headers, status in (
                ({}, 200),
                ({"Authorization": "Basic x"}, 200),
                ({"X-Forwarded-For": "192.0.2.1"}, 401),
                ({"X-Forwarded-For": "127.0.0.1"}, 401),
                ({"Via": "1.1 proxy"}, 401),
                (admin, 200),
                ({**admin, "X-Forwarded-For": "192.0.2.1"}, 200),
                (reader, 200),
                ({**reader, "X-Forwarded-For": "192.0.2.1"}, 403),
                (reader, 200),  # also when this process knows the key
            ):
                answer = await app.ask("GET", path, headers, query=query, whole=True)
                assert answer.status == status, (path, headers)
                assert status != 200 or answer.ended
