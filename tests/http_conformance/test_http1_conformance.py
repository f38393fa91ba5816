"""Conformance to HTTP/1.1 (RFC 9112 and RFC 9110).

Covers the order of responses, HTTP/1.0 clients, persistent connections, `Expect: 100-continue`, chunked bodies,
status lines, methods and size limits. The client sends raw bytes to a server process.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import trio

from tests.clients.api import Api, new_key
from tests.clients.http1 import Broken

from .connection_end_clients import Logs
from .http1_requests import JSON, Answer, Http1Client, http1_client, raw_answer, reason, status_line
from .server_probe import Probe

CHUNKED = {**JSON, "Transfer-Encoding": "chunked"}
UNREAD = (404, 405, 413, 415)


@pytest.fixture
async def client(probe: Probe) -> AsyncIterator[Http1Client]:
    """A client on its own connection. After the test the server's log must hold no traceback."""
    before = len(probe.server.logged())
    async with http1_client(probe.port) as client:
        yield client
    logged = probe.server.logged()[before:]
    assert "Traceback" not in logged, logged[:4_000]


@pytest.fixture
async def api(probe: Probe) -> AsyncIterator[Api]:
    """A JSON client of the same server."""
    async with Api.open(probe.port) as api:
        yield api


def chunks(*parts: bytes, extension: bytes = b"", trailers: bytes = b"") -> bytes:
    """A chunked body (RFC 9112 section 7.1)."""
    framed = [b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts]
    return b"".join([*framed, b"0%b\r\n%b\r\n" % (extension, trailers)])


# Order (RFC 9112 section 9.3.2)


async def test_pipelined_requests_are_answered_in_order(client: Http1Client, api: Api) -> None:
    """Long polls, snapshots and errors, all sent in one piece."""
    targets = [await api.conversation() for _ in range(5)]
    requests = b""
    expected: list[tuple[str, int, str | None]] = []
    for target in targets:
        requests += client.request("GET", f"{target}/events?after=1&wait=0.3")
        requests += client.request("GET", target)
        requests += client.request("GET", "/nope")
        requests += client.request("HEAD", target)
        expected += [("GET", 200, None), ("GET", 200, target), ("GET", 404, None), ("HEAD", 200, None)]
    await client.send(requests)
    for method, status, found in expected:
        answer = await client.answer(method)
        assert answer.status == status
        assert found is None or json.loads(answer.body)["id"] == found.rpartition("/")[2]


async def test_pipelined_request_sees_the_effect_of_the_one_before(client: Http1Client, api: Api) -> None:
    """No request is started before the response to the one before is complete."""
    conversation = await api.conversation()
    for number in range(5):
        body = json.dumps({"role": "user", "content": str(number)}).encode()
        await client.send(
            client.request("POST", f"{conversation}/messages", JSON, body)
            + client.request("GET", f"{conversation}/events")
        )
        assert (await client.answer()).status == 201
        events = json.loads((await client.answer()).body)["events"]
        assert [event["content"] for event in events[1:]] == [str(each) for each in range(number + 1)]


async def test_request_pipelined_behind_a_stream_waits_for_its_end(client: Http1Client, api: Api) -> None:
    """The last chunk of the stream comes first, then the next response."""
    generation = await api.generate(tokens=20, rate=40)
    await client.send(client.request("GET", f"{generation}/events?format=sse") + client.request("GET", "/healthz"))
    stream, health = await client.answer(), await client.answer()
    assert stream.body.endswith(b"data: [DONE]\n\n")
    assert (health.status, health.headers["content-type"]) == (200, "application/json")


async def test_requests_sent_byte_by_byte_are_answered(client: Http1Client) -> None:
    body = b'{"title": "slow"}'
    requests = client.request("POST", "/v1/conversations", JSON, body) + client.request("GET", "/healthz")
    requests += client.request("POST", "/v1/conversations", CHUNKED, chunks(body[:5], body[5:]))
    for at in range(len(requests)):
        await client.send(requests[at : at + 1])
        if at % 20 == 0:
            await trio.sleep(0.001)  # so that the kernel does not put them together
    assert [(await client.answer()).status for _ in range(3)] == [201, 200, 201]


# Versions


@pytest.mark.parametrize("host", [True, False])
async def test_http_1_0_response_has_no_chunks_and_closes(client: Http1Client, host: bool) -> None:
    """HTTP/1.0 needs no Host header."""
    await client.send(client.request("GET", "/healthz", {} if host else {"Host": ""}, version="1.0"))
    answer = await client.answer()
    assert answer.status == 200
    assert "transfer-encoding" not in answer.headers
    assert await client.ended()


async def test_http_1_0_keep_alive_is_honoured_and_announced(client: Http1Client) -> None:
    for _ in range(3):
        await client.send(client.request("GET", "/healthz", {"Connection": "Keep-Alive"}, version="1.0"))
        answer = await client.answer()
        assert answer.status == 200
        assert answer.headers["connection"].lower() == "keep-alive"


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
async def test_http_1_0_stream_ends_with_its_connection(client: Http1Client, api: Api, connection: str) -> None:
    """HTTP/1.0 has no chunked coding (RFC 9112 section 6.1)."""
    generation = await api.generate(tokens=20, rate=40)
    headers = {"Connection": connection}
    await client.send(client.request("GET", f"{generation}/events?format=sse", headers, version="1.0"))
    answer = await client.answer()
    assert "transfer-encoding" not in answer.headers
    assert "content-length" not in answer.headers
    assert answer.headers.get("connection", "close") == "close"
    assert answer.body.startswith((b"retry:", b"id:", b":"))
    assert answer.body.endswith(b"data: [DONE]\n\n")


async def test_http_1_0_expectation_is_ignored(client: Http1Client) -> None:
    """RFC 9110 section 10.1.1."""
    headers = {**JSON, "Expect": "100-continue"}
    await client.send(client.request("POST", "/v1/conversations", headers, b"{}", version="1.0"))
    assert (await client.answer()).status == 201


# Persistence (RFC 9112 section 9.3)


@pytest.mark.parametrize("option", ["close", "Close", "x, close", "keep-alive, close", "close, x"])
@pytest.mark.parametrize("target", ["/healthz", "/nope", "/v1/conversations"])
async def test_connection_close_is_honoured_and_announced(client: Http1Client, option: str, target: str) -> None:
    """In any spelling, alone or in a list, after success and after an error."""
    answer = await client.ask("GET", target, {"Connection": option})
    assert answer.closes
    assert await client.ended()


async def test_connection_close_takes_effect_after_a_stream_ends(client: Http1Client, api: Api) -> None:
    generation = await api.generate(tokens=20, rate=40)
    answer = await client.ask("GET", f"{generation}/events?format=ndjson", {"Connection": "close"})
    assert json.loads(answer.body.splitlines()[-1])["type"] == "generation.completed"
    assert answer.closes
    assert await client.ended()


async def test_connection_is_reusable_after_every_kind_of_response(client: Http1Client, api: Api) -> None:
    """Only a response to a request whose body was not read may close the connection, and must say so."""
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
        answer = await client.ask(method, target, headers, body)
        assert answer.status == status, (method, target, answer)
        if answer.closes and body:  # allowed where the body was not read, if it is said
            assert status in UNREAD
            await client.reopen()
        else:
            assert not answer.closes, (method, target, answer)


async def test_half_closed_client_gets_its_response(client: Http1Client) -> None:
    """The client sends FIN right after the request, as `nc -N` does."""
    await client.send(client.request("POST", "/v1/conversations", JSON, b"{}"))
    await client.connection.stream.send_eof()
    assert (await client.answer()).status == 201
    assert await client.ended()


# Expectations (RFC 9110 section 10.1.1)


@pytest.mark.parametrize("expect", ["100-continue", "100-Continue"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_expect_100_continue_is_answered_with_100(client: Http1Client, expect: str, chunked: bool) -> None:
    """The body and the final response follow, and the connection can be used again."""
    framing = CHUNKED if chunked else {**JSON, "Content-Length": "2"}
    await client.send(client.request("POST", "/v1/conversations", {**framing, "Expect": expect}))
    assert (await client.answer()).status == 100
    await client.send(chunks(b"{}") if chunked else b"{}")
    assert (await client.answer()).status == 201
    assert (await client.ask("GET", "/healthz")).status == 200


REFUSED_BY_THEIR_HEAD: list[tuple[str, str, dict[str, str], tuple[int, ...]]] = [
    ("POST", "/nope", {}, (404,)),
    ("DELETE", "/healthz", {}, (405,)),
    ("POST", "/v1/conversations", {"Content-Length": "100000000"}, (413,)),
    ("POST", "/v1/conversations", {"Host": "evil.example"}, (403, 421)),
    ("POST", "/v1/conversations", {"Origin": "http://evil.example"}, (403,)),
    ("POST", "/v1/conversations", {"Content-Type": "text/plain"}, (415,)),
]


@pytest.mark.parametrize(("method", "target", "headers", "statuses"), REFUSED_BY_THEIR_HEAD)
async def test_refused_request_gets_no_100_continue(
    client: Http1Client, method: str, target: str, headers: dict[str, str], statuses: tuple[int, ...]
) -> None:
    """The refusal comes at once and closes the connection, because the client may or may not send the body now."""
    expecting = {**JSON, "Content-Length": "50", "Expect": "100-continue", **headers}
    await client.send(client.request(method, target, expecting))
    answer = await client.answer()
    answer.problem(*statuses)
    assert answer.closes
    assert await client.ended()


async def test_body_sent_without_waiting_for_100(client: Http1Client) -> None:
    """The server may then leave out the 100, but not the final response."""
    await client.send(client.request("POST", "/v1/conversations", {**JSON, "Expect": "100-continue"}, b"{}"))
    answer = await client.answer()
    if answer.status == 100:
        answer = await client.answer()
    assert answer.status == 201
    assert (await client.ask("GET", "/healthz")).status == 200


async def test_unknown_expectation_gets_417(client: Http1Client) -> None:
    (await client.ask("POST", "/v1/conversations", {**JSON, "Expect": "tea"}, b"{}")).problem(417)


async def test_expect_100_continue_without_a_body_is_ignored(client: Http1Client) -> None:
    assert (await client.ask("GET", "/healthz", {"Expect": "100-continue"})).status == 200


# Chunks


async def test_chunk_extensions_and_trailers_are_ignored(client: Http1Client) -> None:
    """The body is only what the chunks contain."""
    body = json.dumps({"title": "In parts, ü"}).encode()
    framed = chunks(
        *[body[at : at + 3] for at in range(0, len(body), 3)],
        extension=b';a=b;c="d;e\\"";f',
        trailers=b"X-Sum: 1\r\nX-Other: 2\r\n",
    )
    answer = await client.ask("POST", "/v1/conversations", CHUNKED, framed)
    assert answer.status == 201
    assert json.loads(answer.body)["title"] == "In parts, ü"
    assert (await client.ask("GET", "/healthz")).status == 200


@pytest.mark.parametrize(
    ("trailers", "extension", "statuses"),
    [
        (b"X: " + b"a" * 100_000 + b"\r\n", b"", (400, 413, 431)),
        (b"X: a\r\n" * 10_000, b"", (400, 413, 431)),
        (b"", b";" + b"a" * 100_000, (400, 413)),
    ],
    ids=["long trailer", "many trailers", "long extension"],
)
async def test_oversized_chunk_trailers_and_extensions_are_refused(
    client: Http1Client, trailers: bytes, extension: bytes, statuses: tuple[int, ...]
) -> None:
    """Otherwise a client could make the server store or read them without end."""
    with trio.fail_after(20):
        body = chunks(b"{}", extension=extension, trailers=trailers)
        await client.send(client.request("POST", "/v1/conversations", CHUNKED, body))
        (await client.answer()).problem(*statuses)


# Answers


@pytest.mark.parametrize("status", [200, 201, 202, 204, 304, 400, 404, 405, 415, 422])
async def test_status_line_has_version_status_and_reason(probe: Probe, api: Api, status: int) -> None:
    """RFC 9112 section 4. Some clients read the reason phrase."""
    conversation = await api.conversation()
    generation = await api.generate()
    last = (await api.finished(generation))[-1]["position"]
    async with http1_client(probe.port) as client:
        request = {
            200: client.request("GET", "/healthz"),
            201: client.request("POST", "/v1/conversations", JSON, b"{}"),
            202: client.request("POST", "/v1/generations", JSON, b'{"model": "demo"}'),
            204: client.request("GET", f"{generation}/events?format=sse&after={last}"),
            304: client.request("GET", conversation, {"If-None-Match": "*"}),
            400: client.request("GET", f"{conversation}/events?after=x"),
            404: client.request("GET", "/nope"),
            405: client.request("DELETE", "/healthz"),
            415: client.request("POST", "/v1/conversations", {"Content-Type": "text/plain"}, b"{}"),
            422: client.request("POST", f"{conversation}/messages", JSON, b"{}"),
        }[status]
    assert await status_line(probe.port, request) == f"HTTP/1.1 {status} {reason(status)}"


@pytest.mark.parametrize("status", [204, 304])
async def test_responses_204_and_304_have_no_body_framing(client: Http1Client, api: Api, status: int) -> None:
    """RFC 9110 section 8.6, RFC 9112 section 6.1. They carry a Date like all others."""
    generation = await api.generate()
    last = (await api.finished(generation))[-1]["position"]
    if status == 204:
        answer = await client.ask("GET", f"{generation}/events?format=sse&after={last}")
    else:
        answer = await client.ask("GET", generation, {"If-None-Match": "*"})
    assert answer.status == status
    assert "transfer-encoding" not in answer.headers
    assert status == 304 or "content-length" not in answer.headers
    assert answer.headers.get("content-length") != "0"
    assert "date" in answer.headers


async def test_response_has_content_length_or_chunks_but_never_both(client: Http1Client, api: Api) -> None:
    """RFC 9112 section 6.2."""
    generation = await api.generate()
    await api.finished(generation)
    for target in ("/healthz", generation, f"{generation}/events", f"{generation}/events?format=sse"):
        answer: Answer = await client.ask("GET", target)
        assert ("content-length" in answer.headers) != ("transfer-encoding" in answer.headers), target


# What is too large


@pytest.mark.parametrize(
    ("target", "headers", "status"),
    [
        ("/" + "a" * 70_000, {}, 414),
        ("/healthz", {"X": "a" * 70_000}, 431),
        ("/healthz", {f"X-{number}": "a" for number in range(5_000)}, 431),
    ],
    ids=["long target", "long header", "many headers"],
)
async def test_too_long_target_gets_414_and_too_large_head_431(
    client: Http1Client, target: str, headers: dict[str, str], status: int
) -> None:
    with trio.fail_after(20):
        await client.send(client.request("GET", target, headers))
        (await client.answer()).problem(status)


@pytest.mark.parametrize("head", [b"GET /" + b"a" * 10_000_000, b"GET / HTTP/1.1\r\nX: " + b"a" * 10_000_000])
async def test_endless_head_is_refused_without_being_stored(probe: Probe, head: bytes) -> None:
    """The server refuses it long before ten megabytes have arrived."""
    before = probe.memory()
    async with http1_client(probe.port) as client:
        with trio.fail_after(20), suppress(Broken):  # to be cut off in the middle of it is an answer, too
            await client.send(head)
            (await client.answer()).problem(414, 431)
    assert probe.memory() - before < 8_000_000


@pytest.mark.parametrize("method", ["BREW", "PROPFIND", "get"])
@pytest.mark.parametrize("target", ["/healthz", "/v1/conversations", "/nope"])
async def test_unknown_method_gets_405_or_501(probe: Probe, method: str, target: str) -> None:
    """RFC 9110 section 9.1: 405 for a method the resource does not allow, 501 for one the server does not know."""
    async with http1_client(probe.port) as client:
        answer = await client.ask(method, target)
    answer.problem(*((404, 405, 501) if target == "/nope" else (405, 501)))
    assert answer.status != 405 or answer.headers["allow"]


async def test_trace_and_connect_are_refused(probe: Probe) -> None:
    """The server neither echoes a request nor opens a tunnel."""
    async with http1_client(probe.port) as client:
        (await client.ask("TRACE", "/healthz", {"X-Secret": "s"})).problem(405, 501)
        answer = await raw_answer(probe.port, client.request("CONNECT", "127.0.0.1:5432"))
        answer.problem(400, 405, 501)


async def test_large_page_arrives_complete(client: Http1Client, logs: Logs) -> None:
    """Megabytes in one response, after which the connection can be used again."""
    answer = await client.ask("GET", f"{logs.large}/events?limit=3")
    assert [len(event.get("content", "")) for event in json.loads(answer.body)["events"]] == [
        0,
        1_000_000,
        1_000_000,
    ]
    assert (await client.ask("GET", "/healthz")).status == 200
