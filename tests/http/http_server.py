"""The HTTP server in this process with a small ASGI app, for what the product's app would never do."""

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
    """A running HTTP server with an app. `port`: where it listens."""

    server: HttpServer
    port: int

    @property
    def connections(self) -> list[AcceptedConnection]:
        """The connections whose TLS handshake is over."""
        return [connection for connection in self.server._connections if connection.http is not None]

    @property
    def sockets(self) -> int:
        """How many connections there are, those in their TLS handshake included."""
        return len(self.server._connections)

    @property
    def http2(self) -> Http2Connection:
        """The only connection, which speaks HTTP/2."""
        [connection] = self.connections
        protocol = connection.http
        assert isinstance(protocol, Http2Connection)
        return protocol


@asynccontextmanager
async def serving(
    app: App, tls: Tls | None = None, *, options: HttpOptions | None = None, stop_seconds: float = 0.2
) -> AsyncIterator[ServedApp]:
    """Serves the app on a free port, and stops in the end."""
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


async def answer(send: Callable[[Any], Awaitable[None]], body: bytes = b"ok", *, status: int = 200) -> None:
    """Sends a whole response."""
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def until(true: Callable[[], bool], seconds: float = 10) -> None:
    """Waits for a state."""
    with trio.fail_after(seconds):
        while not true():
            await trio.sleep(0.005)
