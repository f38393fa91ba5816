"""A WebSocket client on trio-websocket: messages are JSON, and each command waits for its reply."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Any

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream
from wsproto.utilities import LocalProtocolError

from .api import Event, new_key

Message = dict[str, Any]
PATIENCE = 20.0


class Talk:
    """A connection. `seen` holds every message received, in order."""

    def __init__(self, connection: WebSocketConnection, stream: trio.SocketStream) -> None:
        self.connection = connection
        self._stream = stream
        self.seen: list[Message] = []
        self._ids = count(1)

    @property
    def events(self) -> list[Event]:
        """The events among the messages received."""
        return [message["event"] for message in self.seen if message["kind"] == "event"]

    async def receive(self) -> Message:
        """Receives the next message."""
        message: Message = json.loads(await self.connection.get_message())
        self.seen.append(message)
        return message

    async def until(self, kind: str, **fields: Any) -> Message:
        """Reads until a message of this kind, with these fields, comes."""
        while True:
            message = await self.receive()
            if message["kind"] == kind and all(message.get(name) == value for name, value in fields.items()):
                return message

    async def until_event(self, *types: str) -> Event:
        """Reads until an event of one of these types comes."""
        while True:
            message = await self.receive()
            if message["kind"] == "event" and message["event"]["type"] in types:
                event: Event = message["event"]
                return event

    async def send(self, message: object) -> None:
        """Sends a text frame: a string unchanged, anything else as JSON."""
        await self.connection.send_message(message if isinstance(message, str) else json.dumps(message))

    async def command(self, do: str, *, key: str | None = None, **fields: Any) -> Message:
        """Sends a command and reads until its reply, or an error with its id or (wrongly) without one."""
        name = f"c{next(self._ids)}"
        await self.send({"id": name, "key": key or new_key(), "do": do, **fields})
        while True:
            message = await self.receive()
            if message["kind"] in ("reply", "error") and message.get("id", name) == name:
                return message

    async def cut(self) -> None:
        """Closes the socket without a close frame."""
        await trio.aclose_forcefully(self._stream)

    async def end(self) -> tuple[int, str | None]:
        """Reads until the server closes. Returns its close code and reason."""
        with suppress(ConnectionClosed):
            while True:
                await self.receive()
        closed = self.connection.closed
        assert closed is not None
        return closed.code, closed.reason


@asynccontextmanager
async def talk(
    port: int,
    conversation: str,
    after: object = None,
    *,
    subprotocols: Sequence[str] | None = None,
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> AsyncIterator[Talk]:
    """Connects to a conversation, given by its path. The whole connection has a time limit."""
    query = "" if after is None else f"?after={after}"
    # Our own stream: trio-websocket leaves its own one open when the server closes first.
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    closing = False
    try:
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                connection = await wrap_client_stream(
                    nursery,
                    stream,
                    f"127.0.0.1:{port}",
                    f"{conversation}/ws{query}",
                    subprotocols=list(subprotocols) if subprotocols else None,
                    extra_headers=list(headers),
                )
                yield Talk(connection, stream)
                closing = True
                await connection.aclose()
                nursery.cancel_scope.cancel()
    except* LocalProtocolError:
        if not closing:  # otherwise it answered a ping in the middle of its goodbye, which wsproto forbids
            raise
    finally:
        await trio.aclose_forcefully(stream)
