"""The short ways out, for what is sent for every token.

Of a streamed HTTP/1.1 answer: a chunk's frame around the bytes, and one write to the socket.

Through the app's framework, the ASGI messages, h11 and the scheduler a chunk takes twenty times as long, and a
token is a chunk. Only the middle of an answer goes this way: its head, its end and all trouble are hypercorn's.
It knows nothing of what is sent.
"""

import os
from collections.abc import Sequence
from typing import Any, Protocol, cast

import trio
from hypercorn.events import RawData
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.typing import ConnectionState

STATE, TEXTS = "straight", "texts"
"""Under these names the app finds the ways in its scope's `state`: of an answer, and of a WebSocket."""


class Texts(Protocol):
    """The way of a WebSocket; `websockets.py` has it."""

    async def send_texts(self, texts: Sequence[str]) -> None:
        """Sends many text messages in one write."""


class Straight:
    """One connection's way, for the answer that is under way on it."""

    __slots__ = ("_connection", "_socket")

    def __init__(self) -> None:
        self._connection: TCPServer
        self._socket: Any = None

    def attach(self, connection: TCPServer, stream: Any) -> None:
        """Once the connection is there. Bytes that must be encrypted first cannot go to the socket themselves."""
        self._connection = connection
        if isinstance(stream, trio.SocketStream):
            self._socket = stream.socket

    async def send(self, data: bytes) -> None:
        """Sends some bytes of the body, at least one, after its first ones were sent the usual way.

        Not always a checkpoint. Cancelling it cuts no chunk: who sends slowly is bounded by the socket's own
        timeout. A connection that is gone is noticed by hypercorn, which then cancels the app.
        """
        chunk = b"%x\r\n%b\r\n" % (len(data), data)  # RFC 9112 section 7.1
        sent = 0
        if self._socket is not None and not self._connection.send_lock.locked():
            try:
                # Its number is asked for each time: a closed socket has none, and may have left its to another's.
                sent = os.write(self._socket.fileno(), chunk)
            except OSError:
                sent = 0  # full, or gone: the usual way waits, or finds out
        if sent < len(chunk):
            with trio.CancelScope(shield=True):
                await self._connection.protocol_send(RawData(chunk[sent:]))


def with_straight() -> tuple[ConnectionState, Straight]:
    """What hypercorn hands to the app with each request of a connection, and the way in it."""
    straight = Straight()
    return ConnectionState({STATE: straight}), straight


def straight_of(scope: Any) -> Straight | None:
    """The way for this request's answer, if it has one: HTTP/1.1, whose streamed bodies are chunked."""
    if scope["http_version"] != "1.1" or scope["method"] == "HEAD":
        return None
    found = scope.get("state", {}).get(STATE)
    return found if isinstance(found, Straight) else None


def texts_of(scope: Any) -> Texts:
    """The way for this WebSocket's messages."""
    return cast(Texts, scope["state"][TEXTS])
