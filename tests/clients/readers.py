"""Five ways to read a log, behind one signature: SSE, NDJSON, WebSocket, long poll and polling.

Each returns the event objects in the order in which they came.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import trio
import trio.lowlevel

from . import ndjson, sse
from .api import Api, Event
from .http1 import Connection
from .websocket import talk

Enough = Callable[[Sequence[Event]], bool]


class Reader(Protocol):
    """Reads a log (a path without `/events`) after a cursor, until it has enough or the log ends.

    Sets `placed` as soon as the server has accepted the cursor: every event appended from then on must be
    delivered.
    """

    def __call__(
        self, port: int, log: str, after: object, enough: Enough, placed: trio.Event
    ) -> Awaitable[list[Event]]: ...


async def read_sse(port: int, log: str, after: object, enough: Enough, placed: trio.Event) -> list[Event]:
    """Reads server-sent events."""
    parser = sse.Parser()
    events: list[Event] = []
    async with await Connection.open(port) as connection:
        head = await connection.ask("GET", f"{log}/events?after={after}", {"Accept": "text/event-stream"})
        assert head.status == 200, head
        while not enough(events) and (data := await connection.receive()):
            placed.set()
            frames = [frame.data for frame in parser.feed(data)]
            events += [json.loads(said) for said in frames if said is not None and said != "[DONE]"]
    return events


async def read_ndjson(port: int, log: str, after: object, enough: Enough, placed: trio.Event) -> list[Event]:
    """Reads lines of JSON."""
    parser = ndjson.Parser()
    events: list[Event] = []
    async with await Connection.open(port) as connection:
        head = await connection.ask("GET", f"{log}/events?after={after}&format=ndjson")
        assert head.status == 200, head
        while not enough(events) and (data := await connection.receive()):
            events += parser.feed(data)
            placed.set()
    assert parser.rest == b"" or enough(events)
    return events


async def read_websocket(port: int, log: str, after: object, enough: Enough, placed: trio.Event) -> list[Event]:
    """Reads a conversation on a WebSocket."""
    async with talk(port, log, after) as connection:
        while not enough(connection.events):
            if (await connection.receive())["kind"] == "hello":
                placed.set()
        return connection.events


async def read_long_poll(port: int, log: str, after: object, enough: Enough, placed: trio.Event) -> list[Event]:
    """Reads pages, each held until an event comes."""
    return await _poll(port, log, after, enough, placed, {"wait": 20})


async def read_poll(port: int, log: str, after: object, enough: Enough, placed: trio.Event) -> list[Event]:
    """Reads small pages, repeatedly."""
    return await _poll(port, log, after, enough, placed, {"limit": 7})


async def _poll(
    port: int, log: str, after: object, enough: Enough, placed: trio.Event, query: Mapping[str, int]
) -> list[Event]:
    async with Api.open(port) as api:
        page = await api.get(f"{log}/events", after=after)
        placed.set()
        events: list[Event] = page["events"]
        while not (page["closed"] or enough(events)):
            page = await api.get(f"{log}/events", after=page["next"], **query)
            events += page["events"]
            await trio.lowlevel.checkpoint()
    return events


def by_framework(read: Reader) -> Reader:
    """The same reader with an escaped path, which the dispatcher leaves to the web framework."""

    def other_way(
        port: int, log: str, after: object, enough: Enough, placed: trio.Event
    ) -> Awaitable[list[Event]]:
        return read(port, escaped(log), after, enough, placed)

    return other_way


def escaped(path: str) -> str:
    """The same path with the first letter of its id percent-encoded (RFC 3986 section 2.1)."""
    return path.replace("/conv_", "/%63onv_").replace("/gen_", "/%67en_")


STREAMS: Mapping[str, Reader] = {"sse": read_sse, "ndjson": read_ndjson}
POLLS: Mapping[str, Reader] = {"long poll": read_long_poll, "poll": read_poll}
GETS: Mapping[str, Reader] = {
    **STREAMS,
    **POLLS,
    **{f"{name} by framework": by_framework(read) for name, read in {**STREAMS, **POLLS}.items()},
}
ALL: Mapping[str, Reader] = {**GETS, "websocket": read_websocket}
