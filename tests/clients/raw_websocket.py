"""A WebSocket client over a raw socket that can be cut after any byte. wsproto decodes the frames."""

from __future__ import annotations

import base64
import json
import secrets
from types import TracebackType
from typing import Any, Self

from wsproto import ConnectionType
from wsproto.connection import Connection as Protocol
from wsproto.events import Event, TextMessage

from .http1 import Connection


class RawWebSocket:
    """`receive` returns raw bytes after the upgrade; `feed` decodes as many of them as a test gives it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._protocol = Protocol(ConnectionType.CLIENT)
        self._text = ""

    @classmethod
    async def open(cls, port: int, target: str) -> Self:
        """Connects and upgrades (RFC 6455 section 4.1)."""
        connection = await Connection.open(port)
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": key}
        head = await connection.ask("GET", target, {**upgrade, "Sec-WebSocket-Version": "13"})
        assert head.status == 101, head
        return cls(connection)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connection.close()

    async def receive(self) -> bytes:
        """Receives raw bytes of frames; b"" at the end of the connection."""
        return await self._connection.raw()

    async def send_text(self, message: object) -> None:
        """Sends a JSON message."""
        await self.send(TextMessage(json.dumps(message)))

    def frame(self, message: object) -> bytes:
        """The bytes of a JSON message, so that a test can send a part of them by `send_bytes`."""
        return self._protocol.send(TextMessage(json.dumps(message)))

    async def send(self, event: Event) -> None:
        """Sends any frame."""
        await self._connection.send(self._protocol.send(event))

    async def send_bytes(self, data: bytes) -> None:
        """Sends any bytes, whether a frame or not."""
        await self._connection.send(data)

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Returns the messages that these bytes complete."""
        messages = []
        self._protocol.receive_data(data)
        for event in self._protocol.events():
            if isinstance(event, TextMessage):
                self._text += event.data
                if event.message_finished:
                    messages.append(json.loads(self._text))
                    self._text = ""
        return messages


def frame_ends(data: bytes) -> list[int]:
    """Offsets at which the frames in a server's bytes end (RFC 6455 section 5.2; a server does not mask)."""
    ends, at = [], 0
    while len(data) >= at + 2:
        length, start = data[at + 1] & 0x7F, at + 2
        if length > 125:
            size = 2 if length == 126 else 8
            if len(data) < start + size:
                break
            length, start = int.from_bytes(data[start : start + size]), start + size
        at = start + length
        if at <= len(data):
            ends.append(at)
    return ends
