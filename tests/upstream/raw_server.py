"""Servers that say exactly what a test wants, one POST read to its end, and a cancel at the n-th checkpoint."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable

import trio
import trustme

from server.upstream import Limits, UpstreamError
from server.upstream.address import Address
from server.upstream.exchange import encode_request
from server.upstream.http import Post
from server.upstream.pool import Pool

Handler = Callable[[trio.SocketStream], Awaitable[object]]
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


class Server:
    """A server that does with each connection what the handler says; `idle` while none is open."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.open = 0
        self.idle = trio.Event()
        self.idle.set()

    async def listen(self, nursery: trio.Nursery, host: str = "127.0.0.1") -> Address:
        listeners = await trio.open_tcp_listeners(0, host=host)
        nursery.start_soon(trio.serve_listeners, self._handle, listeners)
        return Address(False, host, listeners[0].socket.getsockname()[1], "/v1")

    async def _handle(self, stream: trio.SocketStream) -> None:
        self.open += 1
        self.idle = trio.Event()
        try:
            await self.handler(stream)
        except trio.BrokenResourceError:
            await trio.lowlevel.checkpoint()
        finally:
            self.open -= 1
            if not self.open:
                self.idle.set()
            await trio.aclose_forcefully(stream)


def saying(*packets: bytes, then: Handler | None = None) -> Server:
    """A server that reads the request, sends these packets, does `then` (default: close)."""

    async def handler(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        for packet in packets:
            await stream.send_all(packet)
        if then:
            await then(stream)

    return Server(handler)


async def silence(stream: trio.SocketStream) -> None:
    """Until the client closes."""
    while await stream.receive_some(65536):
        continue


async def deafness(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def exchanged(
    address: Address, *, body: bytes = b"{}", limits: Limits | None = None, context: ssl.SSLContext | None = None
) -> tuple[int, bytes, UpstreamError | None]:
    """Status, body and error of one POST, read to its end."""
    limits = limits or Limits()
    post, got, error = Post(Pool(address, context), limits), b"", None
    try:
        await post.start(encode_request(address, "/x", {}, body))
        while more := await post.receive_some(limits.idle):
            got += more
    except UpstreamError as caught:
        error = caught
    finally:
        await post.aclose()
    return post.status, got, error


def code(error: UpstreamError | None) -> str | None:
    return error.code if error else None


def tls(authority: trustme.CA) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's context and a client's that trusts it."""
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    return server, client


def over_tls(context: ssl.SSLContext, *packets: bytes, then: Handler | None = None) -> Server:
    async def handler(stream: trio.SocketStream) -> None:
        secure = trio.SSLStream(stream, context, server_side=True)
        await secure.receive_some(65536)
        for packet in packets:
            await secure.send_all(packet)  # and no close_notify, as many do
        if then:
            await then(stream)

    return Server(handler)


class CancelAt(trio.abc.Instrument):
    def __init__(self, task: trio.lowlevel.Task, stage: int, scope: trio.CancelScope) -> None:
        self.task, self.left, self.scope = task, stage, scope

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= task is self.task
        if self.left == 0:
            self.scope.cancel()
