"""Servers that send exactly the bytes of a test, a POST read to its end, and a cancellation at the n-th
checkpoint.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable

import trio
import trustme

from server.http_client.base_url import BaseUrl
from server.http_client.connection_pool import ConnectionPool
from server.http_client.errors import HttpClientError
from server.http_client.http1_codec import encode_request
from server.http_client.streaming_request import StreamingRequest, Timeouts

Handler = Callable[[trio.SocketStream], Awaitable[object]]
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


class Server:
    """Serves each connection with the handler; `idle` while none is open."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.open = 0
        self.idle = trio.Event()
        self.idle.set()

    async def listen(self, nursery: trio.Nursery, host: str = "127.0.0.1") -> BaseUrl:
        listeners = await trio.open_tcp_listeners(0, host=host)
        nursery.start_soon(trio.serve_listeners, self._handle, listeners)
        return BaseUrl(False, host, listeners[0].socket.getsockname()[1], "/v1")

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


def sending(*packets: bytes, then: Handler | None = None) -> Server:
    """A server that reads the request, sends these packets, then does `then` (by default it closes)."""

    async def handler(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        for packet in packets:
            await stream.send_all(packet)
        if then:
            await then(stream)

    return Server(handler)


async def until_closed(stream: trio.SocketStream) -> None:
    """Reads until the client closes."""
    while await stream.receive_some(65536):
        continue


async def never_reading(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def post_and_read(
    url: BaseUrl,
    *,
    body: bytes = b"{}",
    timeouts: Timeouts | None = None,
    context: ssl.SSLContext | None = None,
) -> tuple[int, bytes, HttpClientError | None]:
    """Status, body and error of one POST, read to its end."""
    timeouts = timeouts or Timeouts()
    request, got, error = StreamingRequest(ConnectionPool(url, context), timeouts), b"", None
    try:
        await request.start(encode_request(url, "/x", {}, body))
        while more := await request.receive_some(timeouts.idle):
            got += more
    except HttpClientError as caught:
        error = caught
    finally:
        await request.aclose()
    return request.status, got, error


def kind(error: HttpClientError | None) -> type[HttpClientError] | None:
    return type(error) if error else None


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
