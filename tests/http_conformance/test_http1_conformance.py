"""HTTP/1.1 by RFC 9112 and RFC 9110: order, versions, persistence, expectations, framing, methods."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import trio

from tests.clients.api import Api, new_key
from tests.clients.http1 import Broken

from .connection_end_clients import Logs
from .http1_requests import JSON, Answer, Asker, asking, raw_answer, reason, status_line
from .server_probe import Probe

CHUNKED = {**JSON, "Transfer-Encoding": "chunked"}
UNREAD = (404, 405, 413, 415)


@pytest.fixture
async def asker(probe: Probe) -> AsyncIterator[Asker]:
    """A connection of the test's own; behind it there is no traceback in the server's log."""
    before = len(probe.server.logged())
    async with asking(probe.port) as asker:
        yield asker
    logged = probe.server.logged()[before:]
    assert "Traceback" not in logged, logged[:4_000]


@pytest.fixture
async def api(probe: Probe) -> AsyncIterator[Api]:
    """A JSON client."""
    async with Api.open(probe.port) as api:
        yield api


def chunks(*parts: bytes, extension: bytes = b"", trailers: bytes = b"") -> bytes:
    """A chunked body (RFC 9112 section 7.1)."""
    framed = [b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts]
    return b"".join([*framed, b"0%b\r\n%b\r\n" % (extension, trailers)])


# Order (RFC 9112 section 9.3.2)


async def test_pipelined_requests_are_answered_in_order(asker: Asker, api: Api) -> None:
    """Quick ones behind slow ones, refusals between them, all sent in one piece."""
    targets = [await api.conversation() for _ in range(5)]
    requests = b""
    expected: list[tuple[str, int, str | None]] = []
    for target in targets:
        requests += asker.request("GET", f"{target}/events?after=1&wait=0.3")
        requests += asker.request("GET", target)
        requests += asker.request("GET", "/nope")
        requests += asker.request("HEAD", target)
        expected += [("GET", 200, None), ("GET", 200, target), ("GET", 404, None), ("HEAD", 200, None)]
    await asker.send(requests)
    for method, status, found in expected:
        answer = await asker.answer(method)
        assert answer.status == status
        assert found is None or json.loads(answer.body)["id"] == found.rpartition("/")[2]


async def test_a_pipelined_request_sees_what_the_one_before_it_did(asker: Asker, api: Api) -> None:
    """Nothing is begun before the answer in front of it is complete."""
    conversation = await api.conversation()
    for number in range(5):
        body = json.dumps({"role": "user", "content": str(number)}).encode()
        await asker.send(
            asker.request("POST", f"{conversation}/messages", JSON, body)
            + asker.request("GET", f"{conversation}/events")
        )
        assert (await asker.answer()).status == 201
        events = json.loads((await asker.answer()).body)["events"]
        assert [event["content"] for event in events[1:]] == [str(each) for each in range(number + 1)]


async def test_a_request_behind_a_stream_waits_for_its_end(asker: Asker, api: Api) -> None:
    """The stream's last chunk, then the next answer."""
    generation = await api.generate(tokens=20, rate=40)
    await asker.send(asker.request("GET", f"{generation}/events?format=sse") + asker.request("GET", "/healthz"))
    stream, health = await asker.answer(), await asker.answer()
    assert stream.body.endswith(b"data: [DONE]\n\n")
    assert (health.status, health.headers["content-type"]) == (200, "application/json")


async def test_requests_that_come_byte_by_byte(asker: Asker) -> None:
    """Where they are cut makes no difference."""
    body = b'{"title": "slow"}'
    requests = asker.request("POST", "/v1/conversations", JSON, body) + asker.request("GET", "/healthz")
    requests += asker.request("POST", "/v1/conversations", CHUNKED, chunks(body[:5], body[5:]))
    for at in range(len(requests)):
        await asker.send(requests[at : at + 1])
        if at % 20 == 0:
            await trio.sleep(0.001)  # so that the kernel does not put them together
    assert [(await asker.answer()).status for _ in range(3)] == [201, 200, 201]


# Versions


@pytest.mark.parametrize("host", [True, False])
async def test_http_1_0(asker: Asker, host: bool) -> None:
    """No Host is needed; the answer has no chunks, and the connection ends behind it."""
    await asker.send(asker.request("GET", "/healthz", {} if host else {"Host": ""}, version="1.0"))
    answer = await asker.answer()
    assert answer.status == 200
    assert "transfer-encoding" not in answer.headers
    assert await asker.ended()


async def test_http_1_0_with_keep_alive(asker: Asker) -> None:
    """Said by the client, and said back."""
    for _ in range(3):
        await asker.send(asker.request("GET", "/healthz", {"Connection": "Keep-Alive"}, version="1.0"))
        answer = await asker.answer()
        assert answer.status == 200
        assert answer.headers["connection"].lower() == "keep-alive"


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
async def test_a_stream_for_http_1_0_ends_with_its_connection(asker: Asker, api: Api, connection: str) -> None:
    """It knows no chunks (RFC 9112 section 6.1)."""
    generation = await api.generate(tokens=20, rate=40)
    headers = {"Connection": connection}
    await asker.send(asker.request("GET", f"{generation}/events?format=sse", headers, version="1.0"))
    answer = await asker.answer()
    assert "transfer-encoding" not in answer.headers
    assert "content-length" not in answer.headers
    assert answer.headers.get("connection", "close") == "close"
    assert answer.body.startswith((b"retry:", b"id:", b":"))
    assert answer.body.endswith(b"data: [DONE]\n\n")


async def test_http_1_0_is_not_told_to_continue(asker: Asker) -> None:
    """RFC 9110 section 10.1.1: its expectation is ignored."""
    headers = {**JSON, "Expect": "100-continue"}
    await asker.send(asker.request("POST", "/v1/conversations", headers, b"{}", version="1.0"))
    assert (await asker.answer()).status == 201


# Persistence (RFC 9112 section 9.3)


@pytest.mark.parametrize("option", ["close", "Close", "x, close", "keep-alive, close", "close, x"])
@pytest.mark.parametrize("target", ["/healthz", "/nope", "/v1/conversations"])
async def test_connection_close(asker: Asker, option: str, target: str) -> None:
    """Honoured, and said back."""
    answer = await asker.ask("GET", target, {"Connection": option})
    assert answer.closes
    assert await asker.ended()


async def test_connection_close_behind_a_stream(asker: Asker, api: Api) -> None:
    """At its end, not before."""
    generation = await api.generate(tokens=20, rate=40)
    answer = await asker.ask("GET", f"{generation}/events?format=ndjson", {"Connection": "close"})
    assert json.loads(answer.body.splitlines()[-1])["type"] == "generation.completed"
    assert answer.closes
    assert await asker.ended()


async def test_a_connection_serves_on_after_every_kind_of_answer(asker: Asker, api: Api) -> None:
    """None of them says anything of the next request."""
    conversation = await api.conversation()
    generation = await api.generate()
    events = await api.finished(generation)
    etag = (await api.http.get(conversation)).headers["ETag"]
    post = f"{conversation}/messages"
    message = json.dumps({"role": "user", "content": "x"}).encode()
    key = new_key()
    steps: list[tuple[int, str, str, dict[str, str], bytes]] = [
        (200, "GET", "/healthz", {}, b""),
        (200, "GET", f"{generation}/events?format=sse", {}, b""),
        (200, "GET", f"{generation}/events?format=ndjson", {}, b""),
        (204, "GET", f"{generation}/events?format=sse&after={events[-1]['position']}", {}, b""),
        (304, "GET", conversation, {"If-None-Match": etag}, b""),
        (200, "HEAD", conversation, {}, b""),
        (200, "HEAD", f"{conversation}/events?format=sse", {}, b""),
        (400, "GET", f"{conversation}/events?after=x", {}, b""),
        (404, "GET", "/nope", {}, b""),
        (405, "DELETE", "/healthz", {}, b""),
        (426, "GET", f"{conversation}/ws", {}, b""),
        (201, "POST", post, {**JSON, "Idempotency-Key": key}, message),
        (201, "POST", post, {**JSON, "Idempotency-Key": key}, message),
        (400, "POST", post, JSON, b"{"),
        (422, "POST", post, JSON, b"{}"),
        (202, "POST", "/v1/generations", JSON, json.dumps({"model": "demo"}).encode()),
        # Answered without a look at the body, which is there all the same.
        (415, "POST", post, {"Content-Type": "text/plain"}, message),
        (404, "POST", "/nope", JSON, message * 100),
        (405, "POST", "/healthz", JSON, message * 1_000),
        (201, "POST", "/v1/conversations", CHUNKED, chunks(b"{", b"}")),
        (404, "POST", "/nope", CHUNKED, chunks(*[message] * 100)),
        (200, "GET", "/healthz", {}, b""),
    ]
    for status, method, target, headers, body in steps:
        answer = await asker.ask(method, target, headers, body)
        assert answer.status == status, (method, target, answer)
        if answer.closes and body:  # allowed where the body was not read, if it is said
            assert status in UNREAD
            await asker.reopen()
        else:
            assert not answer.closes, (method, target, answer)


async def test_an_answer_to_a_client_that_says_no_more(asker: Asker) -> None:
    """It closes its half behind the request, as `nc -N` does, and reads."""
    await asker.send(asker.request("POST", "/v1/conversations", JSON, b"{}"))
    await asker.connection.stream.send_eof()
    assert (await asker.answer()).status == 201
    assert await asker.ended()


# Expectations (RFC 9110 section 10.1.1)


@pytest.mark.parametrize("expect", ["100-continue", "100-Continue"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_is_asked_for(asker: Asker, expect: str, chunked: bool) -> None:
    """100, then the body, then the answer; and the connection serves on."""
    framing = CHUNKED if chunked else {**JSON, "Content-Length": "2"}
    await asker.send(asker.request("POST", "/v1/conversations", {**framing, "Expect": expect}))
    assert (await asker.answer()).status == 100
    await asker.send(chunks(b"{}") if chunked else b"{}")
    assert (await asker.answer()).status == 201
    assert (await asker.ask("GET", "/healthz")).status == 200


REFUSED_BY_THEIR_HEAD: list[tuple[str, str, dict[str, str], tuple[int, ...]]] = [
    ("POST", "/nope", {}, (404,)),
    ("DELETE", "/healthz", {}, (405,)),
    ("POST", "/v1/conversations", {"Content-Length": "100000000"}, (413,)),
    ("POST", "/v1/conversations", {"Host": "evil.example"}, (403, 421)),
    ("POST", "/v1/conversations", {"Origin": "http://evil.example"}, (403,)),
    ("POST", "/v1/conversations", {"Content-Type": "text/plain"}, (415,)),
]


@pytest.mark.parametrize(("method", "target", "headers", "statuses"), REFUSED_BY_THEIR_HEAD)
async def test_a_body_that_is_not_wanted_is_not_asked_for(
    asker: Asker, method: str, target: str, headers: dict[str, str], statuses: tuple[int, ...]
) -> None:
    """The refusal comes first; and as the client may send the body or not now, the connection ends."""
    expecting = {**JSON, "Content-Length": "50", "Expect": "100-continue", **headers}
    await asker.send(asker.request(method, target, expecting))
    answer = await asker.answer()
    answer.problem(*statuses)
    assert answer.closes
    assert await asker.ended()


async def test_a_body_that_does_not_wait_to_be_asked_for(asker: Asker) -> None:
    """100 may be left out then; the answer may not."""
    await asker.send(asker.request("POST", "/v1/conversations", {**JSON, "Expect": "100-continue"}, b"{}"))
    answer = await asker.answer()
    if answer.status == 100:
        answer = await asker.answer()
    assert answer.status == 201
    assert (await asker.ask("GET", "/healthz")).status == 200


async def test_another_expectation(asker: Asker) -> None:
    """417: it cannot be met."""
    (await asker.ask("POST", "/v1/conversations", {**JSON, "Expect": "tea"}, b"{}")).problem(417)


async def test_an_expectation_without_a_body(asker: Asker) -> None:
    """There is nothing to ask for."""
    assert (await asker.ask("GET", "/healthz", {"Expect": "100-continue"})).status == 200


# Chunks


async def test_chunks_with_extensions_and_trailers(asker: Asker) -> None:
    """Read over: the body is what is in the chunks."""
    body = json.dumps({"title": "In parts, ü"}).encode()
    framed = chunks(
        *[body[at : at + 3] for at in range(0, len(body), 3)],
        extension=b';a=b;c="d;e\\"";f',
        trailers=b"X-Sum: 1\r\nX-Other: 2\r\n",
    )
    answer = await asker.ask("POST", "/v1/conversations", CHUNKED, framed)
    assert answer.status == 201
    assert json.loads(answer.body)["title"] == "In parts, ü"
    assert (await asker.ask("GET", "/healthz")).status == 200


@pytest.mark.parametrize("trailers", [b"X: " + b"a" * 100_000 + b"\r\n", b"X: a\r\n" * 10_000])
async def test_trailers_without_end(asker: Asker, trailers: bytes) -> None:
    """Nobody keeps them: refused, and closed."""
    with trio.fail_after(20):
        await asker.send(asker.request("POST", "/v1/conversations", CHUNKED, chunks(b"{}", trailers=trailers)))
        (await asker.answer()).problem(400, 413, 431)


async def test_an_extension_without_end(asker: Asker) -> None:
    """The same."""
    with trio.fail_after(20):
        body = chunks(b"{}", extension=b";" + b"a" * 100_000)
        await asker.send(asker.request("POST", "/v1/conversations", CHUNKED, body))
        (await asker.answer()).problem(400, 413)


# Answers


@pytest.mark.parametrize("status", [200, 201, 202, 204, 304, 400, 404, 405, 415, 422])
async def test_the_status_line(probe: Probe, api: Api, status: int) -> None:
    """Version, status and reason phrase (RFC 9112 section 4): some clients look for the last."""
    conversation = await api.conversation()
    generation = await api.generate()
    last = (await api.finished(generation))[-1]["position"]
    async with asking(probe.port) as asker:
        request = {
            200: asker.request("GET", "/healthz"),
            201: asker.request("POST", "/v1/conversations", JSON, b"{}"),
            202: asker.request("POST", "/v1/generations", JSON, b'{"model": "demo"}'),
            204: asker.request("GET", f"{generation}/events?format=sse&after={last}"),
            304: asker.request("GET", conversation, {"If-None-Match": "*"}),
            400: asker.request("GET", f"{conversation}/events?after=x"),
            404: asker.request("GET", "/nope"),
            405: asker.request("DELETE", "/healthz"),
            415: asker.request("POST", "/v1/conversations", {"Content-Type": "text/plain"}, b"{}"),
            422: asker.request("POST", f"{conversation}/messages", JSON, b"{}"),
        }[status]
    assert await status_line(probe.port, request) == f"HTTP/1.1 {status} {reason(status)}"


@pytest.mark.parametrize("status", [204, 304])
async def test_answers_that_have_no_body(asker: Asker, api: Api, status: int) -> None:
    """No framing either (RFC 9110 section 8.6, RFC 9112 section 6.1), and a Date as all others."""
    generation = await api.generate()
    last = (await api.finished(generation))[-1]["position"]
    if status == 204:
        answer = await asker.ask("GET", f"{generation}/events?format=sse&after={last}")
    else:
        answer = await asker.ask("GET", generation, {"If-None-Match": "*"})
    assert answer.status == status
    assert "transfer-encoding" not in answer.headers
    assert status == 304 or "content-length" not in answer.headers
    assert answer.headers.get("content-length") != "0"
    assert "date" in answer.headers


async def test_the_same_answer_is_sized_or_in_chunks_but_never_both(asker: Asker, api: Api) -> None:
    """RFC 9112 section 6.2."""
    generation = await api.generate()
    await api.finished(generation)
    for target in ("/healthz", generation, f"{generation}/events", f"{generation}/events?format=sse"):
        answer: Answer = await asker.ask("GET", target)
        assert ("content-length" in answer.headers) != ("transfer-encoding" in answer.headers), target


# What is too large


async def test_a_target_that_is_too_long(asker: Asker) -> None:
    """414, with the limit."""
    with trio.fail_after(20):
        await asker.send(asker.request("GET", "/" + "a" * 70_000))
        (await asker.answer()).problem(414)


@pytest.mark.parametrize("headers", [{"X": "a" * 70_000}, {f"X-{number}": "a" for number in range(5_000)}])
async def test_a_head_that_is_too_large(asker: Asker, headers: dict[str, str]) -> None:
    """431, with the limit."""
    with trio.fail_after(20):
        await asker.send(asker.request("GET", "/healthz", headers))
        (await asker.answer()).problem(431)


@pytest.mark.parametrize("head", [b"GET /" + b"a" * 10_000_000, b"GET / HTTP/1.1\r\nX: " + b"a" * 10_000_000])
async def test_a_head_that_never_ends_is_not_kept(probe: Probe, head: bytes) -> None:
    """Refused long before it has all come."""
    before = probe.memory()
    async with asking(probe.port) as asker:
        with trio.fail_after(20), suppress(Broken):  # to be cut off in the middle of it is an answer, too
            await asker.send(head)
            (await asker.answer()).problem(414, 431)
    assert probe.memory() - before < 8_000_000


@pytest.mark.parametrize("method", ["BREW", "PROPFIND", "get"])
@pytest.mark.parametrize("target", ["/healthz", "/v1/conversations", "/nope"])
async def test_an_unknown_method(probe: Probe, method: str, target: str) -> None:
    """405 where it is a method of somebody's, 501 where it is none that is known (RFC 9110 section 9.1)."""
    async with asking(probe.port) as asker:
        answer = await asker.ask(method, target)
    answer.problem(*((404, 405, 501) if target == "/nope" else (405, 501)))
    assert answer.status != 405 or answer.headers["allow"]


async def test_trace_and_connect_are_not_taken(probe: Probe) -> None:
    """Neither echoes anything, nor opens a tunnel."""
    async with asking(probe.port) as asker:
        (await asker.ask("TRACE", "/healthz", {"X-Secret": "s"})).problem(405, 501)
        answer = await raw_answer(probe.port, asker.request("CONNECT", "127.0.0.1:5432"))
        answer.problem(400, 405, 501)


async def test_a_large_conversation_is_one_answer(asker: Asker, logs: Logs) -> None:
    """Megabytes, in one piece or many, come whole; and the connection serves on."""
    answer = await asker.ask("GET", f"{logs.large}/events?limit=3")
    assert [len(event.get("content", "")) for event in json.loads(answer.body)["events"]] == [
        0,
        1_000_000,
        1_000_000,
    ]
    assert (await asker.ask("GET", "/healthz")).status == 200
