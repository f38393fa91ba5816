"""Who may do what: every route and every command, with every scope, by every way to sign in, of own and other ids.

The routes are taken from the app. What each needs is said here a second time, by rules for all routes of a kind.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest
import trio

from server.auth.credentials import generate
from server.auth.principal import ALL_SCOPES
from server.web.edge.authorization import SECURE_COOKIE
from server.web.edge.route_scopes import COMMAND_SCOPES, NoRouteScope, route_scope

from .asgi import Answered, web
from .signed_requests import (
    COMMANDS,
    KEY,
    SHORT,
    CountedLog,
    Route,
    Signed,
    SignedApp,
    ask,
    bearer,
    code,
    cookie,
    every_route,
    subprotocol,
    ticketed,
    told,
)

OPEN = {"/", "/docs", "/openapi.json", "/healthz", "/readyz"}
OPERATOR = {"/metrics", "/v1/diagnostics/stream"}
ALLOWED = "https://app.example"


@asynccontextmanager
async def world() -> AsyncIterator[SignedApp]:
    log = CountedLog()
    async with web(
        log, SHORT, require_keys=True, allowed_origins=(ALLOWED,), trusted_proxies=("127.0.0.1",)
    ) as app:
        made = SignedApp(app, log)
        await made.fill()
        yield made


def needed(route: Route) -> frozenset[str] | None:
    """The scopes of which one is enough; an empty set for any credential, None for nobody is asked."""
    if route.rule in OPEN:
        return None
    if route.rule in OPERATOR:
        return frozenset({"admin"})
    if route.rule == "/v1/session":
        return frozenset()
    if route.method in ("GET", "HEAD"):
        of_the_past = route.rule.endswith("/events") or "at=" in route.query
        return frozenset({"read", "audit"} if of_the_past else {"read"})
    if route.rule.endswith("/tickets"):
        return frozenset({"read"})
    return frozenset({"decide"} if route.rule.endswith(("/decisions", "/budget")) else {"write"})


ADDRESSES = count(1)


def far(signed: Signed) -> Signed:
    """The same from another machine: an operator's address asks it, too, and no other request came from there."""
    number = next(ADDRESSES)
    address = f"203.{number >> 16}.{number >> 8 & 255}.{number & 255}"
    return Signed({**signed.headers, "X-Forwarded-For": address}, signed.query, signed.subprotocols)


def refused(answer: Answered) -> tuple[int, str | None] | None:
    """Status and code of a refusal for who asks; None for any other answer."""
    status = answer.status
    if answer.accepted and answer.closed is not None:
        status = answer.closed - 4000
    return (status, code(answer)) if status in (401, 403, 404) else None


async def ways(made: SignedApp, route: Route, name: str, scope: str) -> dict[str, Signed]:
    """Every way to sign in for this route with this scope alone."""
    key = await made.key([scope])
    found = {"header": bearer(key)}
    if route.rule == "/v1/session" and route.method == "POST":
        return found
    found["cookie"] = cookie(await made.session(key), SECURE_COOKIE)
    if route.is_stream:
        found["ticket"] = ticketed(await made.ticket(key, route, name, [scope]))
        if route.websocket:
            found["subprotocol"] = subprotocol(await made.ticket(key, route, name, [scope]))
    return found


@pytest.mark.parametrize("scope", sorted(ALL_SCOPES))
async def test_a_scope_opens_what_it_is_for_and_nothing_else(scope: str) -> None:
    async with world() as made:
        for route in every_route(made.app):
            name = made.name(route, "own")
            asked = needed(route)
            for way, signed in (await ways(made, route, name, scope)).items():
                if route.rule in OPERATOR:
                    signed = far(signed)
                answer = await ask(made.app, route, name, signed)
                if asked is None or not asked or scope in asked:
                    assert refused(answer) in (None, (404, "not_found")), (str(route), way, told(answer))
                    assert refused(answer) is None or route.rule.endswith(("/webhook", "/result", "/decisions"))
                elif route.method == "HEAD":
                    assert answer.status == 403, (str(route), way)
                else:
                    assert refused(answer) == (403, "scope_required"), (str(route), way, told(answer))


@pytest.mark.parametrize("way", ["header", "cookie"])
async def test_unknown_is_what_is_somebody_elses(way: str) -> None:
    """The same status, headers and body, after the same calls of the store; also when this process knows it."""
    async with world() as made:
        key = await made.key(ALL_SCOPES)
        signed = bearer(key) if way == "header" else cookie(await made.session(key))
        for route in every_route(made.app):
            if route.takes_id is None:
                continue
            seen: dict[str, object] = {}
            for which in ("unknown", "other", "unknown again", "other again"):
                made.log.calls.clear()
                answer = await ask(made.app, route, made.name(route, which.split()[0]), signed)
                assert refused(answer) is not None, (str(route), which, told(answer))
                assert route.method == "HEAD" or refused(answer) == (404, "not_found"), (str(route), which)
                seen[which] = told(answer), list(made.log.calls)
            assert len({repr(one) for one in seen.values()}) == 1, (str(route), seen)
            other = made.names[route.takes_id, "other"]
            assert other not in repr(seen)


async def test_what_nobody_has_opened_here_is_refused_alike() -> None:
    """By a second process, which has never heard of the other tenant's conversation."""
    async with world() as made:
        for route in every_route(made.app):
            if route.takes_id is None or route.method != "GET":
                continue
            calls = []
            for which in ("other", "unknown"):
                log = CountedLog(made.log.shared)
                async with web(log, SHORT, require_keys=True) as cold:
                    signed = bearer(await SignedApp(cold, log).key(ALL_SCOPES))
                    log.calls.clear()
                    answer = await ask(cold, route, made.name(route, which), signed)
                    assert refused(answer) == (404, "not_found"), (str(route), which, told(answer))
                    calls.append((told(answer), list(log.calls)))
            assert calls[0] == calls[1], str(route)


async def bad_credentials(made: SignedApp) -> dict[str, tuple[str, str]]:
    """Texts that are no good, each with the code that says why."""
    expired, revoked = await made.key(ALL_SCOPES, seconds=60), await made.key(ALL_SCOPES)
    session_of_expired, session = await made.session(expired), await made.session(revoked)
    made.app.keys.clock = lambda: trio.current_time() + 3_600
    await made.app.keys.revoke_key(revoked.id)
    await made.app.authenticator.look_again()
    return {
        "malformed": ("tt_key_x", "invalid_credential"),
        "no form at all": ("x", "invalid_credential"),
        "empty": ("", "invalid_credential"),
        "huge": ("x" * 10_000, "invalid_credential"),
        "not ascii": ("é" * 40, "invalid_credential"),
        "unknown": (generate("key").text, "invalid_credential"),
        "an unknown session": (generate("ses").text, "invalid_credential"),
        "a ticket": (generate("tick").text, "invalid_credential"),
        "a token": ("eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.", "invalid_credential"),
        "expired": (expired.text, "expired_credential"),
        "revoked": (revoked.text, "revoked_credential"),
        "a session of an expired key": (session_of_expired, "expired_credential"),
        "a session of a revoked key": (session, "revoked_credential"),
    }


def assert_told_to_a_page(answer: Answered, where: object) -> None:
    """A 401 says how to sign in, and lets a page of an allowed origin read it."""
    if answer.accepted:
        assert answer.closed == 4401, where
        return
    assert answer.headers["www-authenticate"] == "Bearer", where
    assert answer.headers["access-control-allow-origin"] == ALLOWED, where
    assert "WWW-Authenticate" in answer.headers["access-control-expose-headers"], where
    assert answer.headers["x-request-id"] == "mine", where
    assert answer.headers["cache-control"] == "no-store", where


async def test_without_a_credential_nothing_is_told() -> None:
    """The same for own, others' and unknown ids, and not one call of the store."""
    async with world() as made:
        for route in every_route(made.app):
            for which in ("own", "other", "unknown"):
                made.log.calls.clear()
                signed = far(Signed({"Origin": ALLOWED, "X-Request-ID": "mine"}))
                answer = await ask(made.app, route, made.name(route, which), signed)
                if needed(route) is None:
                    assert answer.status in (200, 503), str(route)
                    continue
                assert answer.accepted or answer.status == 401, (str(route), told(answer))
                assert route.method == "HEAD" or code(answer) == "unauthenticated", (str(route), told(answer))
                assert_told_to_a_page(answer, str(route))
                assert made.log.calls == [], (str(route), made.log.calls)


@pytest.mark.parametrize("way", ["header", "cookie", "ticket", "subprotocol"])
async def test_a_bad_credential_is_refused_with_its_reason(way: str) -> None:
    """By every way, on every route that takes that way; the answer never repeats what was sent."""
    async with world() as made:
        app = made.app
        for kind, (text, why) in (await bad_credentials(made)).items():
            for route in every_route(app):
                if needed(route) is None or (way in ("ticket", "subprotocol") and not route.is_stream):
                    continue
                if way == "subprotocol" and not route.websocket:
                    continue
                signed = {
                    "header": bearer(text),
                    "cookie": cookie(text, SECURE_COOKIE),
                    "ticket": ticketed(text),
                    "subprotocol": subprotocol(text),
                }[way]
                headers = {**signed.headers, "Origin": ALLOWED, "X-Request-ID": "mine"}
                made.log.calls.clear()
                signed = far(Signed(headers, signed.query, signed.subprotocols))
                answer = await ask(app, route, made.name(route, "own"), signed)
                where = (kind, str(route), told(answer))
                assert answer.accepted or answer.status == 401, where
                assert_told_to_a_page(answer, where)
                assert made.log.calls == [], where
                assert not text or len(text) < 5 or text not in repr(told(answer)), where
                if route.method != "HEAD":
                    of_its_kind = {"header": "session" not in kind, "cookie": "session" in kind}.get(way, False)
                    assert code(answer) == (why if of_its_kind else "invalid_credential"), where


async def test_a_ticket_is_for_its_stream_alone() -> None:
    """Not for another conversation of the same tenant, another transport, or any other route."""
    async with world() as made:
        key = await made.key(ALL_SCOPES)
        routes = every_route(made.app)
        streams = [route for route in routes if route.is_stream and route.method == "GET"]
        for stream in streams:
            for route in routes:
                if needed(route) is None:
                    continue
                ticket = await made.ticket(key, stream, made.name(stream, "own"), ["read"])
                answer = await ask(made.app, route, made.name(route, "own"), far(ticketed(ticket)))
                same = (route.takes_id, route.websocket) == (stream.takes_id, stream.websocket)
                if route.is_stream and same:
                    assert refused(answer) is None, (str(stream), str(route), told(answer))
                elif route.is_stream:
                    assert route.method == "HEAD" or refused(answer) == (401, "invalid_credential"), str(route)
                else:
                    assert route.method == "HEAD" or refused(answer) == (401, "unauthenticated"), str(route)


@pytest.mark.parametrize("scope", sorted(ALL_SCOPES - {"read"}))
async def test_commands_of_a_websocket_need_their_scope(scope: str) -> None:
    """Each command, of own, others' and unknown generations; by each way to sign in."""
    route = Route("GET", "/v1/conversations/<name>/ws", websocket=True)
    async with world() as made:
        own = made.names["conversation", "own"]
        key = await made.key(["read", scope])
        for signed in (
            bearer(key),
            cookie(await made.session(key)),
            ticketed(await made.ticket(key, route, own, ["read", scope])),
            subprotocol(await made.ticket(key, route, own, ["read", scope])),
        ):
            texts = [
                {
                    **body,
                    **({"generation": made.names["generation", which]} if "generation" in body else {}),
                    **({"call": "call_" + "0" * 26} if "call" in body else {}),
                    "id": f"{do} {which}",
                    "do": do,
                    "key": f"{KEY}-{do}-{which}",
                }
                for do, body in COMMANDS.items()
                for which in ("own", "other", "unknown")
            ]
            answer = await ask(made.app, route, own, signed, texts)
            said = {frame["id"]: frame for frame in answer.frames if frame["kind"] in ("reply", "error")}
            assert len(said) == len(texts), told(answer)
            assert COMMANDS.keys() == COMMAND_SCOPES.keys()
            for do, body in COMMANDS.items():
                asked = {"resync": "read", "decide": "decide", "budget": "decide"}.get(do, "write")
                frames = [said[f"{do} {which}"] for which in ("own", "other", "unknown")]
                codes = [frame.get("code") for frame in frames]
                if asked not in ("read", scope):
                    assert codes == ["scope_required"] * 3, do
                elif "generation" in body:
                    assert codes[0] != "scope_required"
                    assert codes[1:] == ["not_found"] * 2, do
                    assert frames[1] == {**frames[2], "id": frames[1]["id"]}, do


async def test_commands_look_for_others_generations_as_for_unknown_ones() -> None:
    """The same calls of the store, known to this process or not."""
    route = Route("GET", "/v1/conversations/<name>/ws", websocket=True)
    async with world() as made:
        signed = bearer(await made.key(ALL_SCOPES))
        for do, body in COMMANDS.items():
            if "generation" not in body:
                continue
            seen = []
            for which in ("other", "unknown", "other", "unknown"):
                ids = {"generation": made.names["generation", which]}
                ids |= {"call": "call_" + "0" * 26} if "call" in body else {}
                text: dict[str, Any] = {**body, **ids, "do": do, "key": KEY}
                made.log.calls.clear()
                answer = await ask(made.app, route, made.names["conversation", "own"], signed, [text])
                assert code(answer) == "not_found", (do, told(answer))
                seen.append(made.log.calls[:])
            assert seen[0] == seen[1] == seen[2] == seen[3], (do, seen)


def test_a_route_without_a_scope_is_a_fault() -> None:
    with pytest.raises(NoRouteScope, match="PATCH /v1/conversations/<name> states no scope"):
        route_scope("PATCH", "/v1/conversations/<conv:name>")
