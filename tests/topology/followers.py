"""Readers of a conversation that keep all they are given and come back after every end, as careful clients do.

`SseReader` of the fault tests is the first of them; these follow a conversation by the other two ways.
"""

import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx2
import trio
from trio_websocket import ConnectionClosed, HandshakeError

from tests.clients.websocket import talk
from tests.harness.http import http_client

Event = dict[str, Any]


class Follower(Protocol):
    """Anything that gathers events."""

    events: list[Event]

    async def follow(self) -> None:
        """Until cancelled."""


@dataclass(eq=False)
class LineFollower:
    """NDJSON at an address (`…/events`)."""

    url: str
    events: list[Event] = field(default_factory=list)

    async def follow(self) -> None:
        """Until cancelled."""
        while True:
            query = {"format": "ndjson", "after": str(_last_position(self.events))}
            with suppress(httpx2.TransportError, httpx2.StreamError):
                async with http_client() as client, client.stream("GET", self.url, params=query) as got:
                    assert got.status_code in (200, 503), got.status_code
                    async for line in got.aiter_lines():
                        if line and got.status_code == 200:
                            self.events.append(json.loads(line))
            await trio.sleep(0.02)


@dataclass(eq=False)
class SocketFollower:
    """A WebSocket on a conversation, given by its path."""

    port: int
    conversation: str
    events: list[Event] = field(default_factory=list)

    async def follow(self) -> None:
        """Until cancelled."""
        while True:
            try:
                async with talk(self.port, self.conversation, _last_position(self.events)) as socket:
                    while True:
                        message = await socket.receive()
                        if message["kind"] == "event":
                            self.events.append(message["event"])
            except* (ConnectionClosed, HandshakeError):
                pass
            await trio.sleep(0.02)


def _last_position(events: list[Event]) -> int:
    return int(events[-1]["position"]) if events else 0
