"""HTTP/1.1 connections over a real socket, with ASGI apps that misbehave on purpose.

Covers the order of pipelined responses, clients that disconnect, apps that fail, request bodies, idle and
overdue connections, and the memory held for responses that a client does not read.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

import pytest
import trio

from server.http import HttpOptions
from server.http import connection as connection_module
from tests.http.http_server import send_response, serving, wait_until


def request(path: str = "/", *headers: str, method: str = "GET", version: str = "1.1") -> bytes:
    """The bytes of a request without a body."""
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: x", *headers, "", ""]).encode()


async def read_all(stream: trio.SocketStream, seconds: float = 10) -> bytes:
    """Reads until the server closes the connection; a reset adds `<reset>`."""
    got = b""
    with trio.fail_after(seconds):
        try:
            while part := await stream.receive_some():
                got += part
        except trio.BrokenResourceError:
            got += b"<reset>"
    return got


async def read_until(stream: trio.SocketStream, words: bytes, seconds: float = 10) -> bytes:
    """Reads until these bytes have come. Fails if the connection ends first."""
    got = b""
    with trio.fail_after(seconds):
        while words not in got:
            part = await stream.receive_some()
            assert part, got
            got += part
    return got


class App:
    """One handler per path. `running` is the number of requests in progress, `heard` lists the bodies received."""

    def __init__(self) -> None:
        self.running = 0
        self.began: list[str] = []
        self.heard: list[bytes] = []
        self.let = trio.Event()
        self.large_bytes = 20_000_000

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.running += 1
        self.began.append(scope["path"])
        try:
            await getattr(self, scope["path"].removeprefix("/").partition("/")[0] or "quick")(scope, receive, send)
        finally:
            self.running -= 1

    async def quick(self, scope: Any, receive: Any, send: Any) -> None:
        await send_response(send, scope["path"].encode())

    async def held(self, scope: Any, receive: Any, send: Any) -> None:
        await self.let.wait()
        await send_response(send)

    async def stream(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await self.let.wait()

    async def pour(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": bytes(20_000), "more_body": True})

    async def large(self, scope: Any, receive: Any, send: Any) -> None:
        await send_response(send, bytes(self.large_bytes))

    async def cut(self, scope: Any, receive: Any, send: Any) -> None:
        """The app cancels its own send in the middle of a chunk, and then sends another."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        with trio.move_on_after(0.2):
            await send({"type": "http.response.body", "body": b"a" * 20_000_000, "more_body": True})
        await send({"type": "http.response.body", "body": b"b" * 100, "more_body": False})

    async def body(self, scope: Any, receive: Any, send: Any) -> None:
        got, more = b"", True
        while more:
            message = await receive()
            assert message["type"] == "http.request"
            got += message["body"]
            more = message["more_body"]
        self.heard.append(got)
        await send_response(send, b"%d" % len(got))
        assert (await receive())["type"] == "http.disconnect"

    async def early(self, scope: Any, receive: Any, send: Any) -> None:
        await send_response(send, b"no" if self.large_bytes == 20_000_000 else bytes(self.large_bytes), status=413)

    async def missing(self, scope: Any, receive: Any, send: Any) -> None:
        await send_response(send, b"none", status=404)

    async def crash(self, scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("on purpose")

    async def half(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half of", "more_body": True})
        raise RuntimeError("on purpose")

    async def short(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
        await send({"type": "http.response.body", "body": b"short", "more_body": False})

    async def split(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"b\r\nSet-Cookie: c")]})
        await send({"type": "http.response.body", "body": b""})


async def test_pipelined_requests_are_answered_in_order() -> None:
    """The second request starts only after the first response, even if that one takes long."""
    app = App()
    async with serving(app) as served, await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
        await stream.send_all(request("/held") + b"".join(request(f"/quick/{n}") for n in range(50)))
        await wait_until(lambda: app.running == 1)
        assert app.began == ["/held"]
        app.let.set()
        got = await read_until(stream, b"/quick/49")
        assert [got.index(b"/quick/%d" % n) for n in range(50)] == sorted(
            got.index(b"/quick/%d" % n) for n in range(50)
        )
        assert got.count(b"HTTP/1.1 200 OK\r\n") == 51


@pytest.mark.parametrize("extra", [b"", b"\r\n", b"x", request("/quick")], ids=["none", "crlf", "byte", "request"])
@pytest.mark.parametrize("path", ["/held", "/stream", "/pour"])
@pytest.mark.parametrize("end", ["fin", "rst"])
async def test_disconnect_cancels_the_app_and_closes_the_socket(
    path: str, extra: bytes, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever bytes the client sent ahead of its disconnect."""
    monkeypatch.setattr(connection_module, "GRACE_SECONDS", 0.3)
    app = App()
    async with serving(app) as served:
        stream = await trio.open_tcp_stream("127.0.0.1", served.port)
        await stream.send_all(request(path) + extra)
        await wait_until(lambda: app.running == 1)
        if end == "rst":
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        await stream.aclose()
        await wait_until(lambda: app.running == 0 and served.sockets == 0, 5)


@pytest.mark.parametrize("path", ["/quick", "/body", "/large"])
async def test_half_closed_client_still_gets_its_response(path: str) -> None:
    """`nc -N` closes its sending side after the request and reads on."""
    async with serving(App()) as served, await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
        await stream.send_all(request(path))
        await stream.send_eof()
        got = await read_all(stream)
        assert got.startswith(b"HTTP/1.1 200 OK\r\n")
        assert not got.endswith(b"<reset>")
        assert path != "/large" or len(got) > 20_000_000


async def test_nothing_is_sent_after_a_chunk_cut_short() -> None:
    """A client would take the next bytes for the rest of the unfinished chunk."""
    async with serving(App()) as served, await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
        await stream.send_all(request("/cut"))
        await trio.sleep(0.5)
        got = await read_all(stream)
        assert b"HTTP/1.1 200" in got
        assert b"b" not in got.partition(b"\r\n\r\n")[2].partition(b"\r\n")[2]


@pytest.mark.parametrize(
    ("path", "begins", "complete"),
    [("/crash", b"HTTP/1.1 500 ", True), ("/split", b"HTTP/1.1 500 ", True), ("/half", b"HTTP/1.1 200 ", False)],
)
async def test_app_error_gives_500_or_a_truncated_response(path: str, begins: bytes, complete: bool) -> None:
    """Before the response has started the client gets a 500. Afterwards the body ends without its last chunk,
    so that the client can tell that it is incomplete.
    """
    async with serving(App()) as served, await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
        await stream.send_all(request(path) + request())
        got = await read_all(stream)
        assert got.startswith(begins)
        assert got.count(b"HTTP/1.1") == 1
        assert (b"application/problem+json" in got) is complete
        assert not got.endswith(b"0\r\n\r\n")


async def test_response_shorter_than_its_content_length_becomes_500() -> None:
    """The app is at fault; the client must not get a response that ends too early."""
    async with serving(App()) as served, await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
        await stream.send_all(request("/short"))
        assert (await read_all(stream)).startswith(b"HTTP/1.1 500 ")


BODIES = [
    (["Content-Length: 5"], b"hello", b"hello"),
    (["Transfer-Encoding: chunked"], b"2\r\nhe\r\n3;x\r\nllo\r\n0\r\nA: b\r\n\r\n", b"hello"),
    ([], b"", b""),
]


@pytest.mark.parametrize(("headers", "raw", "body"), BODIES, ids=["length", "chunked", "none"])
@pytest.mark.parametrize("piece", [1, 10_000])
async def test_body_in_pieces_is_read_and_the_next_request_answered(
    headers: list[str], raw: bytes, body: bytes, piece: int
) -> None:
    app = App()
    async with serving(app) as served, await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
        said = request("/body", *headers, method="POST") + raw + request("/quick/behind", "Connection: close")
        for start in range(0, len(said), piece):
            await stream.send_all(said[start : start + piece])
        got = await read_all(stream)
        assert app.heard == [body]
        assert got.count(b"HTTP/1.1 200 OK\r\n") == 2
        assert got.endswith(b"/quick/behind")


async def test_malformed_chunk_gets_400_and_the_app_sees_no_body() -> None:
    app = App()
    async with serving(app) as served, await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
        await stream.send_all(request("/body", "Transfer-Encoding: chunked", method="POST") + b"zz\r\n")
        got = await read_all(stream)
        assert got.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"chunks" in got
        assert not app.heard


async def test_early_response_reaches_a_client_that_is_still_sending() -> None:
    """The response says `Connection: close`; the server reads the rest of the body and discards it."""
    async with serving(App()) as served, await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
        await stream.send_all(request("/early", "Content-Length: 5000000", method="POST"))
        await stream.send_all(bytes(5_000_000))
        got = await read_all(stream)
        assert got.startswith(b"HTTP/1.1 413 ")
        assert b"connection: close" in got
        assert got.endswith(b"no")


async def test_100_continue_is_sent_when_the_app_reads_the_body() -> None:
    """An app that responds without reading the body sends no 100."""
    async with serving(App()) as served, await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
        await stream.send_all(request("/body", "Content-Length: 2", "Expect: 100-continue", method="POST"))
        assert await read_until(stream, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await stream.send_all(b"hi")
        await read_until(stream, b"\r\n\r\n2")
        await stream.send_all(request("/early", "Content-Length: 2", "Expect: 100-continue", method="POST"))
        assert (await read_all(stream)).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(("version", "headers"), [("1.0", []), ("1.0", ["Connection: keep-alive"]), ("1.1", [])])
async def test_http_1_0_client_gets_no_chunks(version: str, headers: list[str]) -> None:
    """Its connection is kept open only if the client asks for keep-alive."""
    async with serving(App()) as served, await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
        await stream.send_all(request("/quick", *headers, version=version))
        got = await read_until(stream, b"/quick")
        assert (b"connection: close" in got) is (version == "1.0" and not headers)
        assert (b"connection: keep-alive" in got) is bool(headers)
        if not (version == "1.0" and not headers):
            await stream.send_all(request("/half", version="1.0"))
            assert b"chunked" not in await read_all(stream)


async def test_unsent_response_bytes_are_limited_and_released() -> None:
    """A second large response is refused with 503 while the first is unread, and accepted after that client has
    left.
    """
    async with serving(App(), options=HttpOptions(unsent_bytes=30_000_000)) as served:
        budget = served.server._state.budget
        slow = await trio.open_tcp_stream("127.0.0.1", served.port)
        await slow.send_all(request("/large"))
        await wait_until(lambda: budget.held == 20_000_000)
        async with await trio.open_tcp_stream("127.0.0.1", served.port) as other:
            await other.send_all(request("/large", "Connection: close"))
            got = await read_all(other)
            assert got.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 2" in got
        await slow.aclose()
        await wait_until(lambda: budget.held == 0)
        async with await trio.open_tcp_stream("127.0.0.1", served.port) as other:
            await other.send_all(request("/large", "Connection: close"))
            assert len(await read_all(other)) > 20_000_000


async def test_stop_finishes_responses_and_closes_idle_connections() -> None:
    app = App()
    async with serving(app) as served:
        idle = await trio.open_tcp_stream("127.0.0.1", served.port)
        await idle.send_all(request())
        await read_until(idle, b"\r\n\r\n/")
        busy = await trio.open_tcp_stream("127.0.0.1", served.port)
        await busy.send_all(request("/held"))
        await wait_until(lambda: app.running == 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.server.close, 10)
            assert await read_all(idle, 2) == b""
            app.let.set()
            got = await read_all(busy, 4)
            assert b"connection: close" in got
            assert got.endswith(b"ok")
            await idle.aclose()
            await busy.aclose()
        assert served.sockets == 0


HIDDEN = request("/quick/hidden")
"""A complete request that a test sends as the body of another request."""


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (("*", "OPTIONS"), b"204 "),
        (("no-slash", "GET"), b"400 "),
        (("/missing", "POST"), b"404 "),
        (("/quick", "GET"), b"200 "),
        (("/crash", "GET"), b"500 "),
    ],
    ids=["options-all", "refused", "missing", "app", "crash"],
)
@pytest.mark.parametrize("body", ["same packet", "later", "chunked"])
async def test_unread_body_is_never_parsed_as_a_request(line: tuple[str, str], status: bytes, body: str) -> None:
    """Whether the app or the server itself responds, the body is skipped, or the connection ends after the
    response. Otherwise a body could smuggle in a second request.
    """
    app = App()
    async with serving(app) as served, await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
        if body == "chunked":
            framing, sent = "Transfer-Encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)
        else:
            framing, sent = f"Content-Length: {len(HIDDEN)}", HIDDEN
        head = request(line[0], framing, method=line[1])
        behind = request("/quick/behind", "Connection: close")
        got = b""
        if body == "later":
            await stream.send_all(head)
            got = await read_until(stream, b"\r\n\r\n")
            await stream.send_all(sent + behind)
        else:
            await stream.send_all(head + sent + behind)
        got += await read_all(stream)
        assert got.startswith(b"HTTP/1.1 " + status)
        assert "/quick/hidden" not in app.began
        followed = "/quick/behind" in app.began
        assert got.count(b"HTTP/1.1 ") == 1 + followed
        assert followed is (body == "same packet" and status in (b"204 ", b"404 ", b"200 "))
        assert followed or b"connection: close" in got


@pytest.mark.parametrize("behind", ["", "\r\n", "\r\n\r\n", "G", "\r\nG", "GET / HTTP/1.1\r\nHo"])
@pytest.mark.parametrize("packets", [1, 2])
@pytest.mark.parametrize("end", ["overdue", "room", "stop"])
async def test_connection_waiting_for_a_request_head_can_be_closed(behind: str, packets: int, end: str) -> None:
    """Whatever part of a next request head has already arrived, in the same packet or in a later one."""
    options = HttpOptions(keep_alive=0.3, head_seconds=0.3) if end == "overdue" else HttpOptions(max_connections=1)
    async with serving(App(), options=options, stop_seconds=10) as served:
        table = served.server._table
        async with await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
            await stream.send_all(request() + (behind.encode() if packets == 1 else b""))
            await read_until(stream, b"\r\n\r\n/")
            [connection] = served.connections
            if packets == 2 and behind:
                await stream.send_all(behind.encode())
            state = "asking" if "G" in behind else "idle"
            await wait_until(lambda: end == "overdue" or table.state(connection) == state)
            if end == "room":
                table._make_room(trio.current_time() + 10, None)
            elif end == "stop":
                table.end_waiting()
            assert await read_all(stream, 3) == b""
            await wait_until(lambda: served.sockets == 0)


async def test_empty_lines_do_not_keep_an_idle_connection_open() -> None:
    """A client that sends an empty line now and then still counts as idle."""
    async with serving(App(), options=HttpOptions(keep_alive=0.4)) as served:
        async with await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
            await stream.send_all(request())
            await read_until(stream, b"\r\n\r\n/")
            with trio.fail_after(3), suppress(trio.BrokenResourceError):
                while served.sockets:
                    await stream.send_all(b"\r\n")
                    await trio.sleep(0.05)


@pytest.mark.parametrize("path", ["/large", "/early"])
async def test_unread_response_is_dropped_after_the_stall_timeout(path: str) -> None:
    """Further bytes from the client do not renew the timeout."""
    options = HttpOptions(keep_alive=0.2, stall_timeout=0.6)
    app = App()
    app.large_bytes = 1_500_000
    async with serving(app, options=options) as served:
        stream = await connect_without_reading(served.port)
        try:
            headers = ["Content-Length: 9000000"] if path == "/early" else []
            await stream.send_all(request(path, *headers, method="POST"))
            await wait_until(lambda: bool(app.began) and app.running == 0)
            with trio.fail_after(5), suppress(trio.BrokenResourceError):
                while served.sockets:
                    await stream.send_all(b"\r\n")
                    await trio.sleep(0.05)
        finally:
            await trio.aclose_forcefully(stream)


async def connect_without_reading(port: int) -> trio.SocketStream:
    """A client with a tiny receive buffer that never reads, so that the response cannot be sent."""
    sock = trio.socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    await sock.connect(("127.0.0.1", port))
    return trio.SocketStream(sock)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (request("no-slash"), 400),
        (request("/" + "a" * 9_000), 414),
        (request("/", "Expect: more"), 417),
        (request("/", *["A: b"] * 200), 431),
        (request("/crash"), 500),
        (request("/large"), 503),
        (request("/", "Connection: Upgrade", "Upgrade: websocket"), 400),
    ],
    ids=str,
)
async def test_errors_of_the_http_server_are_problem_json(raw: bytes, status: int) -> None:
    """With `nosniff`, so that no browser guesses another type."""
    async with serving(App(), options=HttpOptions(unsent_bytes=100)) as served:
        served.server._state.budget.of(None).add(50)
        async with await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
            await stream.send_all(raw[:-2] + b"Connection: close\r\n\r\n" if status == 503 else raw)
            got = await read_all(stream)
        assert got.startswith(b"HTTP/1.1 %d " % status)
        for header in (b"content-type: application/problem+json", b"x-content-type-options: nosniff", b"date: "):
            assert got.count(b"\r\n" + header) == 1


@pytest.mark.parametrize("end", ["time", "room"])
async def test_client_that_keeps_sending_after_the_response_is_closed(end: str) -> None:
    """After the lingering time, or earlier when another connection needs the room."""
    async with serving(App()) as served:
        table = served.server._table
        stream = await trio.open_tcp_stream("127.0.0.1", served.port)
        try:
            await stream.send_all(request("/early", "Content-Length: 9000000", method="POST"))
            await read_until(stream, b"no")
            [connection] = served.connections
            await wait_until(lambda: table.state(connection) == "idle")
            if end == "room":
                table.make_room(trio.current_time())
            seconds = 1.0 if end == "room" else connection_module.LINGER_SECONDS + 2
            with trio.fail_after(seconds), suppress(trio.BrokenResourceError):
                while served.sockets:
                    await stream.send_all(b"a")
                    await trio.sleep(0.05)
        finally:
            await trio.aclose_forcefully(stream)
