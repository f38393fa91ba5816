"""Every stream ends within five seconds of the right to read it: every transport, every way the right ends."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from server.auth.authenticator import Presented
from server.auth.credentials import NewCredential
from server.auth.principal import ALL_SCOPES
from server.web.edge.authorization import SECURE_COOKIE
from tests.generations.fake_upstream import FOREVER, FakeUpstream

from .asgi import Answered, web
from .signed_requests import KEY, SSE, CountedLog, Route, Signed, SignedApp, ask, bearer, cookie, ticketed

HUNG = FakeUpstream(("a",), FOREVER)
STREAMS = {
    "sse of a conversation": Route("GET", "/v1/conversations/<conv:name>/events", query="format=sse"),
    "sse of a generation": Route("GET", "/v1/generations/<gen:name>/events", query="format=sse"),
    "ndjson": Route("GET", "/v1/conversations/<conv:name>/events", query="format=ndjson"),
    "long poll": Route("GET", "/v1/conversations/<conv:name>/events", query="wait=50&after=now"),
    "held snapshot": Route("GET", "/v1/generations/<gen:name>", query="wait=50"),
    "held conversation": Route("GET", "/v1/conversations/<conv:name>", query="wait=50"),
    "websocket": Route("GET", "/v1/conversations/<name>/ws", websocket=True),
    "post": Route("POST", "/v1/generations"),
    "diagnostics": Route("GET", "/v1/diagnostics/stream", query="chunks=200&interval=1"),
}


@dataclass
class Ending:
    """A way to sign in, and how that ends."""

    signed: Signed
    end: Callable[[], Awaitable[object]]
    code: str


async def revoked_key(made: SignedApp, route: Route, name: str) -> Ending:
    key = await made.key(ALL_SCOPES)
    return Ending(bearer(key), lambda: made.app.keys.revoke_key(key.id), "revoked_credential")


async def expired_key(made: SignedApp, route: Route, name: str) -> Ending:
    key = await made.key(ALL_SCOPES, seconds=3.0)
    return Ending(bearer(key), trio.lowlevel.checkpoint, "expired_credential")


async def ended_session(made: SignedApp, route: Route, name: str) -> Ending:
    session = await made.session(await made.key(ALL_SCOPES))
    principal = await made.app.authenticator.authenticate(Presented(cookie=session))
    return Ending(
        cookie(session, SECURE_COOKIE), lambda: made.app.authenticator.end_session(principal), "revoked_credential"
    )


async def session_of_a_revoked_key(made: SignedApp, route: Route, name: str) -> Ending:
    key = await made.key(ALL_SCOPES)
    signed = cookie(await made.session(key), SECURE_COOKIE)
    return Ending(signed, lambda: made.app.keys.revoke_key(key.id), "revoked_credential")


async def ticket_of_a_revoked_key(made: SignedApp, route: Route, name: str) -> Ending:
    key = await made.key(ALL_SCOPES)
    signed = ticketed(await made.ticket(key, route, name, ["read"]))
    return Ending(signed, lambda: made.app.keys.revoke_key(key.id), "revoked_credential")


WAYS = [revoked_key, expired_key, ended_session, session_of_a_revoked_key, ticket_of_a_revoked_key]


@asynccontextmanager
async def world() -> AsyncIterator[tuple[SignedApp, NewCredential]]:
    """A world with a generation that goes on for ever, and the key of its owner."""
    log = CountedLog()
    async with web(log, HUNG, require_keys=True, trusted_proxies=("127.0.0.1",)) as app:
        made = SignedApp(app, log)
        key = await made.key(ALL_SCOPES)
        conversation = await app.post("/v1/conversations", {}, bearer(key).headers)
        made.names["conversation", "own"] = conversation.json["id"]
        path = f"/v1/conversations/{conversation.json['id']}/generations"
        run = await app.post(path, {"model": "fake", "input": "x"}, bearer(key).headers)
        made.names["generation", "own"] = run.json["id"]
        while not (await app.ask("GET", run.headers["location"], bearer(key).headers)).json["tokens"]:
            await trio.sleep(0.01)
        yield made, key


async def open_stream(made: SignedApp, stream: str, signed: Signed) -> tuple[Answered, float]:
    """The stream to its end, and when that came."""
    app, route = made.app, STREAMS[stream]
    name = made.name(route, "own")
    headers = {**signed.headers, "X-Forwarded-For": "192.0.2.9"} if stream == "diagnostics" else signed.headers
    if stream.startswith("held"):
        etag = (await app.ask("GET", route.path(name), headers)).headers["etag"]
        headers = {**headers, "If-None-Match": etag}
    if route.websocket:
        answer = await app.upgrade(route.path(name), headers, query=signed.query, whole=True)
    elif route.method == "POST":
        answer = await app.post(route.path(name), {"model": "fake", "input": "x"}, {**headers, **SSE})
    else:
        query = "&".join(part for part in (route.query, signed.query) if part)
        answer = await app.ask("GET", route.path(name), headers, query=query, whole=True)
    return answer, trio.current_time()


def assert_ended_in_its_way(stream: str, answer: Answered, code: str) -> None:
    """Streams end cleanly, and the next try is a 401; what was held is one; a WebSocket says why."""
    if stream == "websocket":
        assert answer.closed == 4401
        assert (answer.frames[-1]["kind"], answer.frames[-1]["code"]) == ("error", code)
    elif stream.startswith(("long", "held")):
        assert (answer.status, answer.code) == (401, code)
    else:
        assert (answer.status, answer.ended) == (200, True)
        assert b"[DONE]" not in answer.body


OPENED = [
    (stream, way)
    for stream, route in STREAMS.items()
    for way in WAYS
    if way is not ticket_of_a_revoked_key or (route.is_stream and route.method == "GET")
]
"""Each stream with each way to sign in that opens it."""


@pytest.mark.parametrize(("stream", "way"), OPENED)
async def test_a_stream_ends_with_its_right(
    stream: str, way: Callable[..., Awaitable[Ending]], autojump_clock: MockClock
) -> None:
    """Within five seconds of a revocation, at the moment of expiry; and not before."""
    route = STREAMS[stream]
    async with world() as (made, _key):
        name = made.name(route, "own")
        begun = trio.current_time()
        ending = await way(made, route, name)
        ended_at = 0.0

        async def end() -> None:
            nonlocal ended_at
            await trio.sleep_until(begun + 3.0)
            await ending.end()
            ended_at = trio.current_time()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(end)
            answer, at = await open_stream(made, stream, ending.signed)
        assert_ended_in_its_way(stream, answer, ending.code)
        assert 0 <= at - ended_at <= (0.1 if way is expired_key else 5.0)
        assert len(made.app.runtime.drain) == 0
        again = await ask(made.app, replace(route, query="format=sse"), name, ending.signed)
        assert again.closed == 4401 or again.status in (401, 200 if stream == "diagnostics" else 401)


@pytest.mark.parametrize("stream", STREAMS)
async def test_the_first_key_ends_what_was_open_to_everybody(stream: str, autojump_clock: MockClock) -> None:
    """Whoever came before there was a key has to present one from then on."""
    log = CountedLog()
    async with web(log, HUNG) as app:
        made = SignedApp(app, log)
        run = await app.post("/v1/generations", {"model": "fake", "input": "x"})
        made.names["generation", "own"] = run.json["id"]
        made.names["conversation", "own"] = run.json["conversation"]
        while not (await app.ask("GET", run.headers["location"])).json["tokens"]:
            await trio.sleep(0.01)

        async def make_key() -> None:
            await trio.sleep(2)
            await made.key(ALL_SCOPES)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(make_key)
            begun = trio.current_time()
            answer, at = await open_stream(made, stream, Signed())
        assert at - begun <= 7
        assert_ended_in_its_way(stream, answer, "unauthenticated")


@pytest.mark.parametrize("stream", ["sse of a conversation", "ndjson", "websocket"])
async def test_no_event_follows_the_end(stream: str, autojump_clock: MockClock) -> None:
    """What was read from the log in one piece with what was sent is dropped, though a chunk more was ready."""
    async with world() as (made, key):
        other = await made.key(ALL_SCOPES)
        path = f"/v1/conversations/{made.names['conversation', 'own']}/messages"
        texts: list[str] = []

        async def talk() -> None:
            for number in range(100):
                await trio.sleep(0.1)
                if number == 30:
                    await made.app.keys.revoke_key(other.id)
                    await made.app.authenticator.look_again()
                    texts.append("revoked")
                await made.app.post(path, {"role": "user", "content": f"<{number}>"}, bearer(key).headers)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk)
            answer, _ = await open_stream(made, stream, bearer(other))
            said = json.dumps(answer.frames) + answer.body.decode()
            assert "<29>" in said
            assert "<30>" not in said
            nursery.cancel_scope.cancel()


async def test_commands_of_an_open_websocket_are_refused_at_once(autojump_clock: MockClock) -> None:
    """Once the end of the right is known, a command that comes before the close does nothing any more."""
    async with world() as (made, key):
        other = await made.key(ALL_SCOPES)
        name = made.names["conversation", "own"]
        command = {"do": "post", "key": KEY, "role": "user", "content": "in time"}

        async def too_late() -> dict[str, Any]:
            await trio.sleep(1)
            await made.app.keys.revoke_key(other.id)
            await made.app.authenticator.look_again()
            return {**command, "id": "c2", "key": f"{KEY}-2", "content": "too late"}

        texts = [{**command, "id": "c1"}, too_late]
        answer = await made.app.upgrade(
            f"/v1/conversations/{name}/ws", bearer(other).headers, texts=texts, whole=True
        )
        said = {frame.get("id"): frame for frame in answer.frames if frame["kind"] in ("reply", "error")}
        assert said["c1"]["status"] == 201
        assert said["c2"]["code"] == "revoked_credential"
        assert answer.closed == 4401
        log = await made.app.ask("GET", f"/v1/conversations/{name}/events", bearer(key).headers)
        assert b"in time" in log.body
        assert b"too late" not in log.body
