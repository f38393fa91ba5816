"""POSTs that the dispatcher answers, and those that it passes on to the framework: the same bytes for both."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients import sse
from tests.generations.fake_upstream import FOREVER, FakeUpstream

from .asgi import Answered, Web, web
from .test_commands_refused import ASKED, POSTS, fill

KEY = "a-key-of-sixteen"
VIA_FRAMEWORK = {"Transfer-Encoding": "chunked"}
"""The dispatcher passes on a body of unknown length."""
ASKED_WITH: dict[str, dict[str, Any]] = {
    "plain": {},
    "prefers a 202": {"Prefer": "respond-async"},
    "two lines' worth": {"Prefer": "wait=5, respond-async", "Accept": "application/json, text/html;q=0.5"},
    "a page's": {"Origin": "https://app.example"},
    "foreign page": {"Origin": "https://evil.example"},
    "foreign host": {"Host": "evil.example"},
    "no host": {"Host": ""},
    "text": {"Content-Type": "text/plain"},
    "a parameter": {"Content-Type": "Application/JSON ; charset=utf-8"},
    "coded": {"Content-Encoding": "gzip"},
    "a bad key": {"Idempotency-Key": "a key"},
    "a bad cursor": {"Last-Event-ID": "x"},
    "a name": {"X-Request-ID": "mine"},
    "a bad name": {"X-Request-ID": "a b"},
}
BODIES: dict[str, Any] = {
    "right": None,
    "none": b"",
    "no JSON": b"{",
    "no object": b"[]",
    "no UTF-8": b'{"a": "\xff"}',
    "unknown field": {"no": "field"},
    "U+0000": b'{"title": "\\u0000"}',
    "too deep": b'{"a":' * 100 + b"1" + b"}" * 100,
}


def told(answer: Answered) -> tuple[Any, ...]:
    """All of an answer but what is new each time."""
    assert answer.headers.get("content-length", str(len(answer.body))) == str(len(answer.body))
    headers = {name: value for name, value in answer.headers.items() if name != "content-length"}
    assert headers.pop("x-request-id")
    return answer.status, headers, answer.body


async def both_ways(app: Web, path: str, headers: dict[str, Any], body: Any) -> tuple[Any, ...]:
    """The response by either way, which has to be the same. The key makes the second request a repetition."""
    dispatched = await app.ask("POST", path, {"Idempotency-Key": KEY, **headers}, body, whole=True)
    passed_on = await app.ask("POST", path, {"Idempotency-Key": KEY, **headers, **VIA_FRAMEWORK}, body, whole=True)
    assert told(dispatched) == told(passed_on)
    return told(dispatched)


@pytest.mark.parametrize("path", POSTS)
async def test_dispatcher_and_framework_send_the_same_bytes(path: str) -> None:
    """For every address, with headers and bodies of every kind."""
    found = set()
    for headers in ASKED_WITH.values():
        async with web(allowed_origins=("https://app.example",)) as app:
            found.add((await both_ways(app, await fill(app, path), headers, POSTS[path]))[0])
    for body in BODIES.values():
        async with web() as app:
            given = POSTS[path] if body is None else body
            found.add((await both_ways(app, await fill(app, path), {}, given))[0])
    assert {400, 403, 415, 421, 422} <= found


@pytest.mark.parametrize("path", ["/v1/conversations/", "/v1//conversations", "/v1/generations?x=1", "/v1/nope"])
async def test_other_spellings_of_an_address_go_to_the_framework(path: str) -> None:
    """A slash at the end does no harm; what is no address is 404."""
    async with web() as app:
        path, _, query = path.partition("?")
        answer = await app.ask("POST", path, {}, ASKED if "gen" in path else {}, query=query, whole=True)
        assert answer.status == {"/v1/conversations/": 201, "/v1/generations": 202}.get(path, 404)


async def test_a_stream_is_the_same_by_either_way() -> None:
    async with web() as app:
        for more in ({}, VIA_FRAMEWORK):
            headers = {"Accept": "text/event-stream", "Idempotency-Key": KEY, **more}
            answer = await app.ask("POST", "/v1/generations", headers, ASKED, whole=True)
            assert answer.status == 200
            assert [frame.data for frame in sse.Parser().feed(answer.body)][-1] == "[DONE]"
        assert len((await app.ask("GET", "/v1/conversations")).json["conversations"]) == 1


@pytest.mark.parametrize("size", [60_000, 70_000, 1_048_577])
async def test_bodies_of_any_size(size: int) -> None:
    """One over the limit is refused with it; below it, size makes no difference."""
    async with web() as app:
        body = b'{"title":"' + b"x" * (size - 12) + b'"}'
        answer = await app.ask("POST", "/v1/conversations", {"Content-Length": str(size)}, body, whole=True)
        refused = (413, "body_too_large") if size > 1_048_576 else (422, "invalid_request")
        assert (answer.status, answer.code) == refused


async def test_a_request_is_counted_by_the_rule_of_its_route() -> None:
    """By the route's template: a raw path would make a series of each id."""
    async with web(fake=FakeUpstream(FOREVER)) as app:
        path = await fill_generation(app)
        for more in ({}, VIA_FRAMEWORK):
            await app.ask("POST", path, more, {}, whole=True)
        counted = (await app.ask("GET", "/metrics", whole=True)).body.decode()
        lines = [one for one in counted.splitlines() if one.startswith("tokentape_http_requests_total")]
        (line,) = [one for one in lines if "cancel" in one]
        assert line.endswith((" 2", " 2.0"))
        assert "gen_" not in line


async def fill_generation(app: Web) -> str:
    """The address to cancel a run that goes on."""
    made = await app.post("/v1/generations", ASKED)
    return f"/v1/generations/{made.json['id']}/cancel"


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("version", ["1.1", "2"])
@pytest.mark.parametrize("length", [True, False])
async def test_a_body_over_the_limit_is_refused_whatever_its_head_says(
    path: str, version: str, length: bool
) -> None:
    """On HTTP/2 a request without a length may have any body."""
    body = b'{"title":"' + b"a" * 2_000_000 + b'"}'
    async with web(fake=FakeUpstream(("a",))) as app:
        headers = {"Content-Length": str(len(body))} if length else {} if version == "2" else VIA_FRAMEWORK
        answer = await app.ask("POST", await fill(app, path), headers, body, whole=True, version=version)
        assert (answer.status, answer.code) == (413, "body_too_large")


@pytest.mark.parametrize("method", ["websocket", "PATCH", "X"])
async def test_methods_that_no_route_takes_are_405(method: str) -> None:
    """A method may have the name of a kind of ASGI scope, and is still no WebSocket."""
    async with web() as app:
        conversation = (await app.post("/v1/conversations", {})).json["id"]
        for path in (f"/v1/conversations/{conversation}", f"/v1/conversations/{conversation}/events"):
            assert (await app.ask(method, path, whole=True)).status == 405
        assert (await app.ask(method, f"/v1/conversations/{conversation}/ws", whole=True)).status in (405, 426)
