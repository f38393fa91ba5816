"""Idle connections that end, or receive unexpected bytes, are replaced and never used for the next request."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress

import pytest
import trio
import trustme
from trio.testing import MockClock, wait_all_tasks_blocked

from server.http_client.base_url import BaseUrl
from server.http_client.connection_pool import Connection, ConnectionPool
from server.http_client.errors import ConnectionCut, MalformedResponse
from server.http_client.http1_codec import encode_request
from server.http_client.streaming_request import StreamingRequest, Timeouts

from .raw_server import OK, Server, tls, until_closed

AUTHORITY = trustme.CA()
ABC = OK + b"Content-Length: 3\r\n\r\nabc"


def one_request_server(*then: bytes) -> tuple[Server, list[int]]:
    """A server that answers the first request of each connection with abc, sends `then`, and closes at the
    second.
    """
    count: list[int] = []

    async def handler(stream: trio.SocketStream) -> None:
        count.append(0)
        await stream.receive_some(65536)
        await stream.send_all(ABC)
        for packet in then:
            await stream.send_all(packet)
        await stream.receive_some(65536)

    return Server(handler), count


async def post_abc(pool: ConnectionPool) -> None:
    post = StreamingRequest(pool, Timeouts())
    try:
        await post.start(encode_request(pool.url, "/x", {}, b"{}", keep_alive=True))
        got = b""
        while more := await post.receive_some(5):
            got += more
        assert (post.status, got) == (200, b"abc")
        await post.read_to_end()
    finally:
        await post.aclose()


async def test_connection_closed_at_reuse_is_replaced(nursery: trio.Nursery) -> None:
    server, count = one_request_server()
    pool = ConnectionPool(await server.listen(nursery))
    await nursery.start(pool.run)
    for _ in range(3):
        await post_abc(pool)
        assert len(pool) == 1
    assert len(count) == 3


@pytest.mark.parametrize("stray", [b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nxyz", b"x"])
async def test_unexpected_bytes_are_no_answer(nursery: trio.Nursery, stray: bytes) -> None:
    server, count = one_request_server(stray)
    pool = ConnectionPool(await server.listen(nursery))
    await nursery.start(pool.run)
    for _ in range(3):
        await post_abc(pool)
        await wait_all_tasks_blocked()
    assert len(count) == 3


STRAY = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nxyz"


@pytest.mark.parametrize(
    ("first", "later", "quiet"),
    [
        ([ABC], b"", True),
        ([ABC, STRAY], b"", False),  # two records at once: TLS holds the second back
        ([ABC], STRAY, False),  # still in the socket
        ([ABC], b"not TLS", False),
    ],
)
async def test_unexpected_bytes_over_tls(
    nursery: trio.Nursery, first: list[bytes], later: bytes, quiet: bool
) -> None:
    context, client = tls(AUTHORITY)
    ready = trio.Event()

    async def handler(stream: trio.SocketStream) -> None:
        # Made of two halves, so that several records can go in one packet.
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        secure = context.wrap_bio(incoming, outgoing, server_side=True)
        asked = b""
        while not asked:
            with suppress(ssl.SSLWantReadError):
                asked = secure.read(65536)
            await stream.send_all(outgoing.read())
            if not asked:
                incoming.write(await stream.receive_some(65536))
        for packet in first:
            secure.write(packet)
        await stream.send_all(outgoing.read())
        await ready.wait()
        if later == STRAY:
            secure.write(later)
        await stream.send_all(outgoing.read() or later)
        await until_closed(stream)

    plain = await Server(handler).listen(nursery)
    pool = ConnectionPool(BaseUrl(True, plain.host, plain.port, ""), client)
    await nursery.start(pool.run)
    await post_abc(pool)
    ready.set()
    await wait_all_tasks_blocked()
    idle = pool.acquire()
    assert idle is not None
    assert await idle.is_quiet() is quiet
    idle.close()


async def test_other_failures_of_a_reused_connection_are_raised(nursery: trio.Nursery) -> None:
    async def handler(stream: trio.SocketStream) -> None:
        for packet in (ABC, b"SSH-2.0\r\n"):
            await stream.receive_some(65536)
            await stream.send_all(packet)

    pool = ConnectionPool(await Server(handler).listen(nursery))
    await nursery.start(pool.run)
    await post_abc(pool)
    with pytest.raises(MalformedResponse):
        await post_abc(pool)


async def test_connection_reset_while_idle_is_replaced(nursery: trio.Nursery) -> None:
    async def handler(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        await stream.send_all(ABC)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    server = Server(handler)
    pool = ConnectionPool(await server.listen(nursery))
    await nursery.start(pool.run)
    for _ in range(2):
        await post_abc(pool)
        await server.idle.wait()


async def test_closed_connection_cannot_be_used() -> None:
    connection = Connection(BaseUrl(False, "127.0.0.1", 1, ""), None)
    connection.close()
    with pytest.raises(trio.ClosedResourceError):
        await connection.send_all(b"x")


async def test_connection_that_ends_late_is_not_retried(nursery: trio.Nursery, clock: MockClock) -> None:
    """A proxy in between may have its own limit, and the provider may have done the work."""
    count: list[int] = []

    async def handler(stream: trio.SocketStream) -> None:
        count.append(0)
        await stream.receive_some(65536)
        await stream.send_all(ABC)
        if await stream.receive_some(65536):
            count.append(0)
            await trio.sleep(60)

    pool = ConnectionPool(await Server(handler).listen(nursery))
    await nursery.start(pool.run)
    await post_abc(pool)
    with pytest.raises(ConnectionCut):
        await post_abc(pool)
    assert len(count) == 2
