"""Connections that send invalid bytes, huge messages or unexpected frames.

Only the offending connection may end; the server must go on and log no traceback.
"""

import json
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import psutil
import pytest
import trio
from h2.connection import H2Connection
from h2.events import StreamEnded

from tests.harness.databases import TestDatabase
from tests.harness.http import http_client
from tests.harness.servers import Server, running

UPGRADE = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{extra}\r\n"
)


async def test_undecodable_bytes_end_their_own_connection_only(database: TestDatabase) -> None:
    """In upgrade headers, request lines and HTTP/2 headers: each once ended the whole server."""
    async with running(database.app_url) as server:
        for raw in (
            _upgrade(server, "/v1/x", "Sec-WebSocket-Protocol: \u00ff\r\n"),
            _upgrade(server, "/v1/x", "Connection: Upgrade, \u00ff\r\n"),
            f"GET ?x HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode(),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
            b"GET / HTTP/1.1\r\n" + b"A: " + b"x" * 100_000 + b"\r\n\r\n",
        ):
            await _send_and_read_to_end(server, raw)
        strange: list[list[tuple[str, str | bytes]]] = [
            [(":method", "CONNECT"), (":authority", f"127.0.0.1:{server.port}")],
            [(":method", "GET"), (":path", b"/\xff"), (":scheme", "http"), (":authority", "x")],
        ]
        for headers in strange:
            await _speak_h2(server, headers)
        await _check_server_works(server)


async def test_http2_body_after_an_early_response(database: TestDatabase) -> None:
    """The POST is answered before its body arrives."""
    async with running(database.app_url) as server:
        post = [(":method", "POST"), (":path", "/nothing"), (":scheme", "http"), (":authority", "127.0.0.1")]
        await _speak_h2(server, post, body=b"x" * 1_000, end_headers=False)
        await _check_server_works(server)


@pytest.mark.parametrize("origin", ["http://[", "null", "http://evil.example", "http://127.0.0.1:1"])
async def test_foreign_or_invalid_origin_gets_403(database: TestDatabase, origin: str) -> None:
    """An invalid one once caused a 500."""
    async with running(database.app_url) as server, http_client(server.url) as client:
        got = await client.post("/v1/conversations", json={}, headers={"Origin": origin})
        assert got.status_code == 403
        assert got.json()["code"] == "origin_not_allowed"
        assert "Traceback" not in server.logged()


async def test_too_large_websocket_message_closes_with_1009(database: TestDatabase) -> None:
    """100 MB in one message: none of it is kept, and the socket is closed soon."""
    async with running(database.app_url) as server:
        async with _websocket(server, await _conversation(server)) as stream:
            assert server.process is not None
            process = psutil.Process(server.process.pid)
            before = process.memory_info().rss
            with trio.move_on_after(20):
                try:
                    for n in range(100):
                        await stream.send_all(_frame(b"\xc3\xa9" * 500_000, first=n == 0, last=False))
                except trio.BrokenResourceError:
                    pass
            assert process.memory_info().rss - before < 40_000_000
            assert b"\x88\x02" + struct.pack("!H", 1009) in await _read_to_end(stream)
            await _check_server_works(server)


async def test_binary_message_after_a_too_large_one(database: TestDatabase) -> None:
    """The second message must not raise in the server."""
    async with running(database.app_url) as server:
        async with _websocket(server, await _conversation(server)) as stream:
            await stream.send_all(_frame(b"x" * 1_100_000, first=True, last=True))
            await stream.send_all(_frame(b"y" * 10, first=True, last=True, binary=True))
            await _read_to_end(stream)
            await _check_server_works(server)


async def test_binary_message_closes_with_1003(database: TestDatabase) -> None:
    async with running(database.app_url) as server:
        async with _websocket(server, await _conversation(server)) as stream:
            await stream.send_all(_frame(b"\x00\x01", first=True, last=True, binary=True))
            assert struct.pack("!H", 1003) in await _read_to_end(stream)
            await _check_server_works(server)


async def test_websocket_with_commands_in_flight_leaves_no_socket(database: TestDatabase) -> None:
    """The stream reaches its maximum duration while eighty commands are in progress."""
    async with running(database.app_url, {"TOKENTAPE_STREAM_MAX_SECONDS": "1"}) as server:
        conversation = await _conversation(server)
        async with _websocket(server, conversation) as stream:
            for n in range(80):
                body = {"id": n, "key": f"key-{n:020}", "do": "post", "role": "user", "content": "x"}
                await stream.send_all(_frame(json.dumps(body).encode(), first=True, last=True))
            assert struct.pack("!H", 1012) in await _read_to_end(stream)
        assert server.process is not None
        process = psutil.Process(server.process.pid)
        with trio.fail_after(30):
            while any(link.status in ("CLOSE_WAIT", "ESTABLISHED") for link in _client_sockets(process, server)):
                await trio.sleep(0.1)
        await _check_server_works(server)


def _client_sockets(process: psutil.Process, server: Server) -> list[Any]:
    links = process.net_connections("tcp")
    return [link for link in links if link.laddr and link.laddr.port == server.port and link.raddr]


async def _check_server_works(server: Server) -> None:
    async with http_client(server.url) as client:
        assert (await client.get("/readyz")).status_code == 200
    assert server.process is not None
    assert server.process.poll() is None
    assert "Traceback" not in server.logged()


async def _conversation(server: Server) -> str:
    async with http_client(server.url) as client:
        name: str = (await client.post("/v1/conversations", json={})).json()["id"]
        return name


def _upgrade(server: Server, path: str, extra: str = "") -> bytes:
    return UPGRADE.format(path=path, port=server.port, extra=extra).encode("latin-1")


async def _open(server: Server) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", server.port)


async def _send_and_read_to_end(server: Server, raw: bytes) -> bytes:
    async with await _open(server) as stream:
        with suppress(trio.BrokenResourceError):  # an answer in the middle of a request
            await stream.send_all(raw)
        return await _read_to_end(stream, 3)


async def _read_to_end(stream: trio.SocketStream, seconds: float = 10) -> bytes:
    got = bytearray()
    with trio.move_on_after(seconds):
        try:
            while part := await stream.receive_some(65_536):
                got += part
        except trio.BrokenResourceError:
            pass
    return bytes(got)


@asynccontextmanager
async def _websocket(server: Server, conversation: str) -> AsyncIterator[trio.SocketStream]:
    async with await _open(server) as stream:
        await stream.send_all(_upgrade(server, f"/v1/conversations/{conversation}/ws"))
        head = bytearray()
        with trio.fail_after(10):
            while b"hello" not in head:
                head += await stream.receive_some(4096)
        yield stream


def _frame(data: bytes, *, first: bool, last: bool, binary: bool = False) -> bytes:
    # RFC 6455 section 5.2, masked as a client's must be.
    opcode = (2 if binary else 1) if first else 0
    size = len(data)
    head = bytes([(0x80 if last else 0) | opcode])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65_536:
        head += bytes([0x80 | 126]) + struct.pack("!H", size)
    else:
        head += bytes([0x80 | 127]) + struct.pack("!Q", size)
    return head + bytes(4) + data


async def _speak_h2(
    server: Server, headers: Sequence[tuple[str, str | bytes]], body: bytes = b"", *, end_headers: bool = True
) -> None:
    connection = H2Connection()
    connection.config.validate_outbound_headers = False
    connection.config.normalize_outbound_headers = False
    connection.initiate_connection()
    async with await _open(server) as stream:
        connection.send_headers(1, headers, end_stream=end_headers and not body)
        await stream.send_all(connection.data_to_send())
        with trio.move_on_after(2):
            try:
                while data := await stream.receive_some(65_536):
                    events = connection.receive_data(data)
                    if any(isinstance(event, StreamEnded) for event in events):
                        break
            except (trio.BrokenResourceError, OSError):
                return
        if body:
            raw = len(body).to_bytes(3, "big") + b"\x00\x01" + (1).to_bytes(4, "big") + body
            try:
                await stream.send_all(raw)
            except trio.BrokenResourceError:
                return
            await _read_to_end(stream, 2)
