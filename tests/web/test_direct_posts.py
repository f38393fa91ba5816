"""The direct way for POSTs and the framework's: the same bytes, and who goes which way."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients import sse
from tests.generation.fake_upstream import FOREVER, FakeUpstream

from .asgi import Answered, Web, web
from .test_posts_refused import ASKED, POSTS, fill

KEY = "a-key-of-sixteen"
AROUND = {"Transfer-Encoding": "chunked"}
"""What makes it go the framework's way."""
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


async def both(app: Web, path: str, headers: dict[str, Any], body: Any) -> tuple[Any, ...]:
    """The same both ways, and what it is. With a key, so that the second is the first again."""
    direct = await app.ask("POST", path, {"Idempotency-Key": KEY, **headers}, body, whole=True)
    around = await app.ask("POST", path, {"Idempotency-Key": KEY, **headers, **AROUND}, body, whole=True)
    assert told(direct) == told(around)
    return told(direct)


@pytest.mark.parametrize("path", POSTS)
async def test_the_same_bytes_both_ways(path: str) -> None:
    """For every address, with headers and bodies of every kind."""
    found = set()
    for headers in ASKED_WITH.values():
        async with web(allowed_origins=("https://app.example",)) as app:
            found.add((await both(app, await fill(app, path), headers, POSTS[path]))[0])
    for body in BODIES.values():
        async with web() as app:
            given = POSTS[path] if body is None else body
            found.add((await both(app, await fill(app, path), {}, given))[0])
    assert {400, 403, 415, 421, 422} <= found


@pytest.mark.parametrize("path", ["/v1/conversations/", "/v1//conversations", "/v1/generations?x=1", "/v1/nope"])
async def test_what_is_not_exactly_an_address_goes_around(path: str) -> None:
    """And is answered as the framework sees fit: a slash at the end does no harm."""
    async with web() as app:
        path, _, query = path.partition("?")
        answer = await app.ask("POST", path, {}, ASKED if "gen" in path else {}, query=query, whole=True)
        assert answer.status == {"/v1/conversations/": 201, "/v1/generations": 202}.get(path, 404)


async def test_a_stream_is_answered_whichever_way() -> None:
    async with web() as app:
        for more in ({}, AROUND):
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


async def test_it_is_counted_as_the_framework_counts() -> None:
    """By the route's template: a raw path would make a series of each id."""
    async with web(fake=FakeUpstream(FOREVER)) as app:
        path = await fill_generation(app)
        for more in ({}, AROUND):
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
        headers = {"Content-Length": str(len(body))} if length else {} if version == "2" else AROUND
        answer = await app.ask("POST", await fill(app, path), headers, body, whole=True, version=version)
        assert (answer.status, answer.code) == (413, "body_too_large")
