"""What nginx answers by itself: a problem+json, or a stream that says to come back; and no log has a query."""

import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.clients.api import new_key
from tests.harness.http import http_client
from tests.harness.servers import free_port

from .nginx import NGINX, NO_NGINX, Nginx
from .stack import Stack

EVENTS = "/v1/conversations/conv_x/events"
LOCATIONS = ("/v1/conversations", EVENTS, "/v1/generations/gen_x/events?format=sse", "/", "/metrics", "/healthz")
SECRET = "not-for-logs"


@asynccontextmanager
async def _raw_request(port: int, head: str, *body: bytes) -> AsyncIterator[trio.SocketStream]:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        with trio.fail_after(20):
            await stream.send_all(head.encode())
            try:
                for part in body:
                    await stream.send_all(part)
            except trio.BrokenResourceError:
                pass  # it has answered, and closed; the answer is there to be read
            yield stream


async def _answer(stream: trio.SocketStream) -> tuple[int, dict[str, str], str]:
    """Status, headers and body of the one answer before the end."""
    received = b""
    try:
        while part := await stream.receive_some():
            received += part
    except trio.BrokenResourceError:
        pass
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(first.split()[1]), headers, body.decode()


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("path", LOCATIONS)
async def test_too_large_body(up: Stack, path: str, chunked: bool, keyed: bool) -> None:
    """Wherever it is sent, however its length is told, with a key or without: the same problem."""
    framing = "Transfer-Encoding: chunked" if chunked else "Content-Length: 3000000"
    key = f"Idempotency-Key: {new_key()}\r\n" if keyed else ""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n{key}Content-Type: application/json\r\n"
    block = b"x" * 100_000
    parts = [b"%x\r\n%s\r\n" % (len(block), block) if chunked else block] * 30
    async with _raw_request(
        up.nginx.port, f"{head}Connection: close\r\n\r\n", *parts, *([b"0\r\n\r\n"] * chunked)
    ) as stream:
        status, headers, body = await _answer(stream)
    if path == "/metrics" and chunked:  # answered before the body is looked at
        assert (status, json.loads(_unchunked(body))["code"]) == (404, "not_found")
        return
    assert status == 413
    assert headers["content-type"] == "application/problem+json"
    assert json.loads(_unchunked(body))["code"] == "body_too_large"


async def test_a_file_passes_through(up: Stack) -> None:
    """Above what other bodies may have, and up to the server's own limit; in parts of unknown length, too."""
    data = b"x" * 5_000_000

    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 100_000):
            yield data[start : start + 100_000]

    raw = {"Content-Type": "application/octet-stream"}
    async with http_client(f"http://127.0.0.1:{up.nginx.port}") as client:
        for body, status in (
            (data, 201),
            (parts(), 200),
            (bytes(33 * 1_048_576), 413),
            (bytes(40 * 1_048_576), 413),
        ):
            answer = await client.post("/v1/files", content=body, headers=raw, timeout=60)
            assert answer.status_code == status, answer.text
        path = f"/v1/files/{hashlib.sha256(data).hexdigest()}"
        for _ in up.servers:
            assert (await client.get(path)).content == data
            assert (await client.get(path, headers={"Range": "bytes=7-8"})).status_code == 206


@pytest.mark.parametrize(
    ("head", "status", "code"),
    [
        ("GET / HTTP/1.1\r\nHost: localhost\r\nbad header\x01: x\r\n", 400, "bad_request"),
        ("GET / HTTP/1.1\r\n", 400, "bad_request"),
        (f"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: {'x' * 40_000}\r\n", 400, "bad_request"),
        (f"GET /?{'x' * 40_000} HTTP/1.1\r\nHost: localhost\r\n", 414, "uri_too_long"),
    ],
)
async def test_malformed_request_is_refused_by_nginx(up: Stack, head: str, status: int, code: str) -> None:
    async with _raw_request(up.nginx.port, f"{head}Connection: close\r\n\r\n") as stream:
        got, headers, body = await _answer(stream)
    assert got == status
    if headers["content-type"] != "application/problem+json":
        raise AssertionError(body)
    assert json.loads(_unchunked(body))["code"] == code


@pytest.fixture
def alone() -> Iterator[Nginx]:
    """An nginx whose servers are not there, with the limits of its file switched on, and low."""
    if NGINX is None:
        pytest.skip(NO_NGINX)
    nginx = Nginx(
        (free_port(), free_port()),
        {
            "#limit_conn_zone": "limit_conn_zone",
            "#limit_req_zone": "limit_req_zone",
            "#limit_conn tokentape_connections 200": "limit_conn tokentape_connections 20",
            "#limit_req zone=tokentape_requests burst=200": "limit_req zone=tokentape_requests burst=10",
            "rate=50r/s": "rate=1r/m",
        },
    )
    try:
        yield nginx
    finally:
        nginx.close()


@pytest.mark.parametrize(
    ("query", "headers", "cursor"),
    [
        ("", {}, None),
        ("", {"Last-Event-ID": "17"}, "17"),
        ("?after=3", {"Last-Event-ID": "17"}, "17"),
        ("?lastEventId=5&after=3", {}, "5"),
        ("?after=3&lastEventId=5", {"Last-Event-ID": "17"}, "17"),
        ("?after=3", {}, "3"),
        ("?after=now", {}, None),
        ("?after=3%0d%0aretry:9", {}, None),
        ("", {"Last-Event-ID": "seventeen"}, None),
    ],
)
async def test_refused_stream_keeps_its_cursor(
    alone: Nginx, query: str, headers: dict[str, str], cursor: str | None
) -> None:
    """One block with the cursor as it came: clients that take an absent id for an empty one would start over."""
    async with http_client(alone.url) as client:
        got = await client.get(EVENTS + query, headers={"Accept": "text/event-stream", **headers})
    assert got.status_code == 200
    block, end = got.text.split("\n\n")
    assert end == ""
    lines = block.split("\n")
    assert [line for line in lines if line.startswith("id:")] == ([f"id: {cursor}"] if cursor else [])
    assert len([line for line in lines if line.startswith("retry: ")]) == 1
    assert len(lines) == 2 + (cursor is not None)


async def test_nginx_limits_requests_of_one_address(alone: Nginx) -> None:
    """429 with `Retry-After`; but a native EventSource is told to come back, with its cursor."""
    async with http_client(alone.url) as client:
        for _ in range(11):
            assert (await client.get("/v1/x")).status_code == 503
        refused = await client.get("/v1/x")
        assert refused.status_code == 429
        assert refused.headers["Content-Type"] == "application/problem+json"
        assert refused.headers["Retry-After"] == "2"
        assert refused.json()["code"] == "too_many_requests"
        stream = await client.get(EVENTS, headers={"Accept": "text/event-stream", "Last-Event-ID": "17"})
        assert stream.status_code == 200
        assert stream.text.startswith("id: 17\nretry: ")
        assert "too_many_requests" in stream.text


async def test_no_log_line_has_a_ticket_a_key_or_a_cookie(alone: Nginx) -> None:
    """Whatever goes wrong: servers away, a body too large, one address too often, a folder that is none."""
    query = f"?ticket={SECRET}"
    headers = {
        "Authorization": f"Bearer {SECRET}",
        "Cookie": f"__Host-tokentape={SECRET}; tokentape={SECRET}",
        "Sec-WebSocket-Protocol": f"tokentape.v1, tokentape.ticket.{SECRET}",
        "Referer": f"https://page.example/{query}",
    }
    async with http_client(alone.url) as client:
        client.headers.update(headers)
        for path in ("/v1/x", EVENTS):
            assert (await client.get(path + query)).status_code == 503
        assert (await client.post(f"/v1/x{query}", content=b"x" * 3_000_000)).status_code == 413
        (alone.folder / "client_body").rename(alone.folder / "moved")
        (alone.folder / "client_body").write_bytes(b"")
        assert (await client.post(f"/v1/x{query}", content=b"x" * 600_000)).status_code == 500
        while (await client.get(f"/v1/x{query}")).status_code != 429:
            pass
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    for head in (
        f"GET /v1/x{query} HTTP/1.1\r\n{lines}",  # no Host
        f"GET /v1/x{query} HTTP/1.1\r\nHost: localhost\r\n{lines}bad header\x01: {SECRET}\r\n",
        f"GET /v1/x{query} HTTP/1.1\r\nHost: localhost\r\n{lines}X-Long: {'x' * 40_000}\r\n",
        f"GET /v1/x{query} HTTP/9.9\r\nHost: localhost\r\n{lines}",
        f"GET /v1/{'x' * 40_000}{query} HTTP/1.1\r\nHost: localhost\r\n{lines}",
    ):
        async with _raw_request(alone.port, f"{head}Connection: close\r\n\r\n") as stream:
            assert (await _answer(stream))[0] in (400, 414, 505)
    assert SECRET not in alone.errors()
    assert SECRET not in json.dumps(alone.requests())


def _unchunked(body: str) -> str:
    return body[body.index("{") : body.rindex("}") + 1]
