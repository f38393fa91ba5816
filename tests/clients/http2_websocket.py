"""A WebSocket client on a stream of an HTTP/2 connection (RFC 8441). wsproto encodes and decodes the frames."""

from __future__ import annotations

from typing import Any

from wsproto import ConnectionType
from wsproto.connection import Connection as Protocol
from wsproto.events import Ping

from .http2 import Connection, Stream


class Socket:
    """A WebSocket on an HTTP/2 stream."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.protocol = Protocol(ConnectionType.CLIENT)

    async def say(self, event: Any, *, end: bool = False) -> None:
        await self.stream.send(self.protocol.send(event), end=end)

    async def hear(self) -> Any:
        while True:
            for event in self.protocol.events():
                if not isinstance(event, Ping):  # the server's own
                    return event
            data = await self.stream.receive()
            assert data, "the stream ended"
            self.protocol.receive_data(data)


async def open_socket(
    connection: Connection, path: str = "/", protocol: str = "websocket", **headers: str
) -> Stream:
    """Sends an extended CONNECT. Returns its stream."""
    stream = Stream(connection, connection.h2.get_next_available_stream_id())
    connection._streams[stream.stream_id] = stream
    pseudo = {":method": "CONNECT", ":protocol": protocol, ":scheme": "https" if connection.secure else "http"}
    pseudo |= {":path": path, ":authority": f"127.0.0.1:{connection.port}"}
    headers = {"sec-websocket-version": "13", **headers}
    connection.h2.send_headers(stream.stream_id, [*pseudo.items(), *headers.items()])
    await connection.flush()
    return stream


async def opened(connection: Connection, path: str = "/") -> Socket:
    """Opens a WebSocket that the server must accept."""
    stream = await open_socket(connection, path)
    assert (await stream.head()).status == 200
    return Socket(stream)
