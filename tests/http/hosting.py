"""The host in this process with a small ASGI app: for what a real server's app would never do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

from server.http import Host, HttpOptions, Tls, listen
from server.http.connection import Connection
from server.http.http2 import Http2

App = Callable[[Any, Any, Any], Coroutine[Any, Any, None]]


@dataclass
class Hosted:
    """A host that serves. `port` is where."""

    host: Host
    port: int

    @property
    def connections(self) -> list[Connection]:
        """Those that have come past their handshake."""
        return [connection for connection in self.host._connections if connection.speaker is not None]

    @property
    def sockets(self) -> int:
        """All of them."""
        return len(self.host._connections)

    @property
    def http2(self) -> Http2:
        """The one connection's protocol."""
        [connection] = self.connections
        protocol = connection.speaker
        assert isinstance(protocol, Http2)
        return protocol


@asynccontextmanager
async def hosting(
    app: App, tls: Tls | None = None, *, options: HttpOptions | None = None, stop_seconds: float = 0.2
) -> AsyncIterator[Hosted]:
    """Serves on a port of its own, and stops."""
    listener = listen("127.0.0.1:0", 60, tls)
    host = Host(app, listener, options)
    async with trio.open_nursery() as nursery:
        await nursery.start(host.serve)
        try:
            yield Hosted(host, listener.port)
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(5):
                await host.close(stop_seconds)
            nursery.cancel_scope.cancel()


async def answer(send: Callable[[Any], Awaitable[None]], body: bytes = b"ok", *, status: int = 200) -> None:
    """A whole answer."""
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def until(true: Callable[[], bool], seconds: float = 10) -> None:
    """Waits for a state."""
    with trio.fail_after(seconds):
        while not true():
            await trio.sleep(0.005)
