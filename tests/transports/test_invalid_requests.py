"""Requests that are wrong apart from their body's content: path, method, content type, size, Host and Origin.

The last tests send bytes that are hardly HTTP beside a run, which must not be disturbed.
"""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import pytest
import trio

from tests.clients.api import Api, demo
from tests.clients.http1 import Broken, Connection
from tests.harness.servers import Server

from .problem_checks import check_problem

JSON_TYPE = {"Content-Type": "application/json"}
HUGE = 20_000_000


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/conversations", {"GET", "POST"}),
        ("PUT", "/v1/conversations/{conversation}", {"GET"}),
        ("PATCH", "/v1/generations/{generation}", {"GET"}),
        ("POST", "/v1/generations/{generation}", {"GET"}),
        ("POST", "/v1/generations/{generation}/events", {"GET"}),
        ("GET", "/v1/generations/{generation}/cancel", {"POST"}),
        ("GET", "/v1/conversations/{conversation}/messages", {"POST"}),
        ("GET", "/v1/generations", {"POST"}),
        ("POST", "/healthz", {"GET"}),
        ("BREW", "/healthz", {"GET"}),
    ],
)
async def test_wrong_method_gets_405_with_allow(api: Api, method: str, path: str, allowed: set[str]) -> None:
    generation = await api.generate()
    snapshot = await api.get(generation)
    target = path.format(generation=snapshot["id"], conversation=snapshot["conversation"])
    answer = await api.http.request(method, target)
    check_problem(405, answer.headers, answer.content)
    assert answer.status_code == 405
    assert {name.strip() for name in answer.headers["Allow"].split(",")} >= allowed


@pytest.mark.parametrize(
    "path", ["/nope", "/v1", "/v1/", "/v2/conversations", "/v1/conversations/x/y/z", "/%00", "/é"]
)
async def test_unknown_path_gets_404(api: Api, path: str) -> None:
    """For every method."""
    for method in ("GET", "POST", "DELETE"):
        answer = await api.http.request(method, path)
        assert answer.status_code == 404
        check_problem(404, answer.headers, answer.content)


@pytest.mark.parametrize(
    "kind", [None, "", "text/plain", "application/x-www-form-urlencoded", "application/jsonx", "é"]
)
async def test_wrong_content_type_gets_415(api: Api, kind: str | None) -> None:
    """A page of another site can send everything but JSON without a preflight."""
    conversation = await api.conversation()
    body = b'{"role": "user", "content": "x"}'
    for path in ("/v1/conversations", f"{conversation}/messages", "/v1/generations"):
        headers = {} if kind is None else {"Content-Type": kind.encode()}
        answer = await api.http.post(path, content=body, headers=headers)  # type: ignore[arg-type]
        assert answer.status_code == 415
        check_problem(415, answer.headers, answer.content)
    assert len(await api.log(conversation)) == 1


async def large_chunked_body(size: int) -> AsyncIterator[bytes]:
    """A body of that many bytes, in parts."""
    yield b'{"title": "'
    for _ in range(size // 50_000):
        yield b"x" * 50_000
    yield b'"}'


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("path", ["/v1/conversations", "/v1/generations", "/nope"])
async def test_huge_body_gets_413(api: Api, path: str, chunked: bool) -> None:
    """A normal HTTP client can read the response, and the next request works."""
    body: object = large_chunked_body(HUGE) if chunked else b'{"title": "' + b"x" * HUGE + b'"}'
    with trio.fail_after(30):
        answer = await api.http.post(path, content=body, headers=JSON_TYPE)  # type: ignore[arg-type]
    if path == "/nope":
        assert answer.status_code in (404, 413)
    else:
        assert answer.status_code == 413
        problem = check_problem(413, answer.headers, answer.content)
        assert any(character.isdigit() for character in problem["detail"])
    assert (await api.http.get("/healthz")).status_code == 200


async def test_huge_content_length_gets_413_before_the_body_is_sent(api: Api) -> None:
    """Also if the client waits for 100 Continue."""
    for extra in ({}, {"Expect": "100-continue"}):
        async with await Connection.open(api.port) as connection:
            head = await connection.ask(
                "POST", "/v1/conversations", {**JSON_TYPE, **extra, "Content-Length": str(10**12)}
            )
            if head.status == 100:
                head = await connection.head()
            check_problem(head.status, head.headers, await connection.body())
            assert head.status == 413


@pytest.mark.parametrize("length", [10**12, 100])
async def test_disconnect_after_100_continue_logs_nothing(api: Api, length: int) -> None:
    """It must not cause a traceback."""
    for _ in range(20):
        async with await Connection.open(api.port) as connection:
            asked = {**JSON_TYPE, "Expect": "100-continue", "Content-Length": str(length)}
            await connection.ask("POST", "/v1/conversations", asked)
        assert (await api.http.get("/healthz")).status_code == 200


async def test_expect_100_continue(api: Api) -> None:
    """RFC 9110 section 10.1.1."""
    async with await Connection.open(api.port) as connection:
        head = await connection.ask(
            "POST", "/v1/conversations", {**JSON_TYPE, "Expect": "100-continue", "Content-Length": "2"}
        )
        assert head.status == 100
        await connection.send(b"{}")
        assert (await connection.head()).status == 201


FOREIGN: list[dict[str, str]] = [
    {"Host": "evil.example"},
    {"Host": "127.0.0.1.evil.example"},
    {"Host": "evil.example@127.0.0.1"},
    {"Host": ""},
    {"Host": "[::1"},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://[::1"},
    {"Origin": "https://127.0.0.1.evil.example:80"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": ""},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
async def test_post_with_foreign_host_or_origin_is_refused(
    server: Server, api: Api, headers: dict[str, str]
) -> None:
    """Nothing is recorded. The server's own page may post."""
    conversation = await api.conversation()
    body = b'{"role": "user", "content": "x"}'
    async with await Connection.open(api.port) as connection:
        head = await connection.ask("POST", f"{conversation}/messages", {**JSON_TYPE, **headers}, body)
        assert head.status in (400, 403, 421)
        check_problem(head.status, head.headers, await connection.body())
    assert len(await api.log(conversation)) == 1
    assert (await api.http.post("/v1/conversations", headers={"Origin": server.url}, json={})).status_code == 201


async def test_plain_get_of_the_websocket_path_is_a_problem(api: Api) -> None:
    answer = await api.http.get(f"{await api.conversation()}/ws")
    assert answer.status_code in (400, 404, 405, 426)
    check_problem(answer.status_code, answer.headers, answer.content)


@pytest.mark.parametrize("path", ["/v1/conversations", "/nope", "/healthz"])
async def test_upgrade_of_a_path_without_websocket_is_refused(api: Api, path: str) -> None:
    asked = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    async with await Connection.open(api.port) as connection:
        head = await connection.ask("GET", path, {**asked, "Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg=="})
    assert 400 <= head.status < 500


async def test_garbage_connections_do_not_disturb_a_run(api: Api) -> None:
    """A thousand connections that send bytes that are no, or only nearly, HTTP."""
    rng = random.Random(5)
    conversation = await api.conversation()
    body = json.dumps(demo(5)).encode()
    starts: list[Callable[[], bytes]] = [
        lambda: rng.randbytes(rng.randint(1, 3000)),
        lambda: b"GET / HTTP/1.1\r\n",
        lambda: b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        lambda: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rng.randbytes(200),
        lambda: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(300),
        lambda: b"POST /v1/conversations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 50\r\n\r\n{",
        lambda: b"POST /v1/conversations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -5\r\n\r\n",
        lambda: b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nx\r\n",
        lambda: b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        lambda: b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        lambda: b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
        lambda: f"GET {conversation}/ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n\r\n".encode(),
        lambda: f"GET {conversation}/events?format=sse HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode(),
    ]
    limiter = trio.CapacityLimiter(50)

    async def one(start: bytes, patient: bool) -> None:
        async with limiter, await Connection.open(api.port) as connection:
            with trio.move_on_after(0.5 if patient else 0):
                try:
                    await connection.send(start)
                    await connection.head()
                except (Broken, trio.BrokenResourceError):
                    pass  # to be cut off is an answer, too

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for number in range(1000):
                nursery.start_soon(one, starts[number % len(starts)](), rng.random() < 0.3)
            answer = await api.http.post(f"{conversation}/generations", content=body, headers=JSON_TYPE)
            assert answer.status_code == 202
            assert len(await api.finished(answer.headers["Location"])) == 8
    assert (await api.http.get("/readyz")).status_code == 200


@pytest.mark.soak
async def test_endless_request_head_is_cut(api: Api) -> None:
    """The client sends a byte at a time."""
    async with await Connection.open(api.port) as connection:
        with trio.fail_after(60), suppress(trio.BrokenResourceError):
            await connection.send(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
            while not await connection.ended_within(0.5):
                await connection.send(b"y")
