"""A WebSocket connection that leaves no socket behind.

trio-websocket (0.12) does not close its socket when the server ends the connection first; a client that comes
back again and again would hold one more each time.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from trio_websocket import WebSocketConnection, open_websocket_url

CLOSE_SECONDS = 2.0


@asynccontextmanager
async def open_websocket(
    url: str, subprotocol: str | None = None, trust: ssl.SSLContext | None = None
) -> AsyncIterator[WebSocketConnection]:
    """A connection to a `ws://` or `wss://` address; raises what `trio_websocket.open_websocket_url` does."""
    offered = [subprotocol] if subprotocol else None
    async with open_websocket_url(url, ssl_context=trust, subprotocols=offered) as socket:
        try:
            yield socket
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_SECONDS):
                await socket.aclose()
            await trio.aclose_forcefully(socket._stream)
