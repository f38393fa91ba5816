"""Runs the HTTP server inside the test's process with a small ASGI app.

Tests use it for apps that misbehave in ways the product's own app does not: apps that crash, never read
their request, or write without end.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

from server.http import HttpOptions, HttpServer, Tls, listen
from server.http.connection import AcceptedConnection
from server.http.http2.http2_connection import Http2Connection

App = Callable[[Any, Any, Any], Coroutine[Any, Any, None]]


@dataclass
class ServedApp:
    """A running HTTP server with its app. `port` is the TCP port it listens on."""

    server: HttpServer
    port: int

    @property
    def connections(self) -> list[AcceptedConnection]:
        """Connections whose TLS handshake has finished."""
        return [connection for connection in self.server._connections if connection.http is not None]

    @property
    def sockets(self) -> int:
        """Number of open connections, including those still in their TLS handshake."""
        return len(self.server._connections)

    @property
    def http2(self) -> Http2Connection:
        """The server's only connection, which must speak HTTP/2."""
        [connection] = self.connections
        protocol = connection.http
        assert isinstance(protocol, Http2Connection)
        return protocol


@asynccontextmanager
async def serving(
    app: App, tls: Tls | None = None, *, options: HttpOptions | None = None, stop_seconds: float = 0.2
) -> AsyncIterator[ServedApp]:
    """Serves the app on a free port and stops the server when the context ends."""
    listener = listen("127.0.0.1:0", 60, tls)
    server = HttpServer(app, listener, options)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        try:
            yield ServedApp(server, listener.port)
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(5):
                await server.close(stop_seconds)
            nursery.cancel_scope.cancel()


async def send_response(send: Callable[[Any], Awaitable[None]], body: bytes = b"ok", *, status: int = 200) -> None:
    """Sends a complete response."""
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def wait_until(true: Callable[[], bool], seconds: float = 10) -> None:
    """Waits until the condition holds. Raises `trio.TooSlowError` after `seconds`."""
    with trio.fail_after(seconds):
        while not true():
            await trio.sleep(0.005)
