"""Clients of SSE, NDJSON and WebSocket streams that a test can cut after any byte.

After a cut a client knows its events and its cursor, and can resume as a real client of that transport does.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tests.clients import ndjson, sse
from tests.clients.api import TERMINAL, Event
from tests.clients.http1 import Connection
from tests.clients.raw_websocket import RawWebSocket, frame_ends

Place = Callable[[bytes], int | None]
"""Decides from the bytes received so far where to cut; None means not yet."""


class StreamClient(ABC):
    """One connection to a log.

    `cursor` is where the client would resume, `over` whether it has seen the end. `known`: the client saw the
    run's end on an earlier connection, and only checks whether there is more.
    """

    def __init__(self, cursor: str, known: bool = False) -> None:
        self.cursor = cursor
        self.known = known
        self.events: list[Event] = []
        self.over = False
        self.heard = b""

    @abstractmethod
    async def connect(self, port: int, log: str) -> None:
        """Requests the log after `cursor`."""

    @abstractmethod
    async def receive(self) -> bytes:
        """Receives more bytes; b"" at a clean end."""

    @abstractmethod
    def feed(self, data: bytes) -> None:
        """Gives these bytes to the client."""

    @staticmethod
    @abstractmethod
    def ends(data: bytes) -> list[int]:
        """Offsets at which frames end."""

    @abstractmethod
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def read(self, place: Place | None = None) -> bool:
        """Reads up to where `place` says, or to the end. Returns whether the connection was cut."""
        fed = 0
        while not self.over:
            data = await self.receive()
            if not data:
                self.feed(self.heard[fed:])
                self.over = True
                break
            self.heard += data
            at = place(self.heard) if place else None
            if at is not None:
                self.feed(self.heard[fed:at])
                return True
            if place is None:
                self.feed(self.heard[fed:])
                fed = len(self.heard)
        return False


class SseClient(StreamClient):
    """Behaves like an EventSource: its URL never changes, only its Last-Event-ID header."""

    connection: Connection

    async def connect(self, port: int, log: str) -> None:
        self._parser = sse.Parser(self.cursor)
        self.connection = await Connection.open(port)
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": self.cursor} if self.cursor else {})}
        head = await self.connection.ask("GET", f"{log}/events?after=0", headers)
        assert head.status in (200, 204), head
        self.over = head.status == 204

    async def receive(self) -> bytes:
        return await self.connection.receive()

    def feed(self, data: bytes) -> None:
        for frame in self._parser.feed(data):
            if frame.data == "[DONE]":
                self.over = True
            elif frame.data is not None:
                self.events.append(json.loads(frame.data))
        self.cursor = self._parser.last_event_id

    @staticmethod
    def ends(data: bytes) -> list[int]:
        return _after_each(b"\n\n", data)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.connection.close()


class NdjsonClient(SseClient):
    """Puts the position of its last complete line into the query."""

    async def connect(self, port: int, log: str) -> None:
        self._lines = ndjson.Parser()
        self.connection = await Connection.open(port)
        query = f"?after={self.cursor}" if self.cursor else ""
        head = await self.connection.ask("GET", f"{log}/events{query}", {"Accept": "application/x-ndjson"})
        assert head.status in (200, 204), head
        self.over = head.status == 204

    def feed(self, data: bytes) -> None:
        self.events += self._lines.feed(data)
        if self.events:
            self.cursor = str(self.events[-1]["position"])

    @staticmethod
    def ends(data: bytes) -> list[int]:
        return _after_each(b"\n", data)


class WebSocketClient(StreamClient):
    """A WebSocket of the conversation; the end of the run is its end."""

    async def connect(self, port: int, log: str) -> None:
        self.socket = await RawWebSocket.open(port, f"{log}/ws?after={self.cursor or 0}")

    async def receive(self) -> bytes:
        return await self.socket.receive()

    def feed(self, data: bytes) -> None:
        for message in self.socket.feed(data):
            assert message["kind"] in ("hello", "presence", "event", "caught_up"), message
            if message["kind"] == "caught_up":
                self.over = self.over or self.known
            if message["kind"] == "event":
                self.events.append(message["event"])
                self.cursor = str(message["event"]["position"])
                self.over = self.over or message["event"]["type"] in TERMINAL

    @staticmethod
    def ends(data: bytes) -> list[int]:
        return frame_ends(data)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.socket.__aexit__(kind, error, trace)


def _after_each(end: bytes, data: bytes) -> list[int]:
    ends, at = [], 0
    while (at := data.find(end, at)) >= 0:
        at += len(end)
        ends.append(at)
    return ends
