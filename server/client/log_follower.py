"""Reads a log: follows it over SSE through any cut, or reads a span of it as pages, one page ahead.

The follower's whole state is the position of the last event that it has handed over; after a cut it asks for the
events after that one, so each event is handed over once and in order. It must not know what becomes of the events.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import trio

from server.client.api import Api, Body
from server.client.errors import ClientError, Unreachable
from server.http_client.sse_parser import SseMessage, SseMessageTooLong, SseParser

DONE = b"[DONE]"
"""The data of the message that follows a generation's last event."""
MAX_EVENT_BYTES = 1 << 28
"""More than a server sends for one event. The parser refuses a longer one, which else would fill the memory."""
PAGE_SIZE = 500

Event = dict[str, Any]
Page = list[Body]


def parse_sse(parser: SseParser, received: bytes) -> list[SseMessage]:
    """Returns the messages that the bytes complete. Raises `ClientError` for one that no server of ours sends."""
    try:
        return parser.feed(received)
    except SseMessageTooLong as error:
        raise ClientError("not_tokentape", f"what answers is not a Tokentape server ({error})") from None


class LogFollower:
    """Follows one log. `position`: that of the last event that `handle_events` was given and returned from."""

    def __init__(
        self, api: Api, path: str, handle_events: Callable[[Sequence[Event]], None], after: int = 0
    ) -> None:
        self._api = api
        self._path = path
        self._handle_events = handle_events
        self._retry_after: float | None = None
        self.position = after
        self.connections = 0

    async def follow(self) -> None:
        """Follows until the log is closed.

        Raises `ClientError` when the request is refused, or the server is away for too long.
        """
        while True:
            try:
                if await self._read_once():
                    return
                # The stream ended before the log did: the server is stopping, or limits how long a stream lasts.
                cut = Unreachable(self._api.address.base, "the stream was cut")
                cut.retry_after = self._retry_after
                raise cut
            except ClientError as error:
                await self._api.reconnect_policy.wait(error)

    async def _read_once(self) -> bool:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(self.position)}
        async with self._api.stream(self._path, headers) as stream:
            if stream.status == 204:
                self._api.reconnect_policy.succeeded()
                return True
            parser = SseParser(MAX_EVENT_BYTES)
            self._retry_after = None
            while received := await stream.receive():
                events: list[Event] = []
                done = False
                for message in parse_sse(parser, received):
                    if message.retry_ms is not None and message.id is not None:
                        # A temporary refusal has an id (the cursor) and says when to reconnect; the stream ends
                        # after it.
                        self._retry_after = message.retry_ms / 1000
                    elif message.retry_ms is not None:  # the first message of a stream has no id
                        self.connections += 1
                        self._api.reconnect_policy.succeeded()
                    if message.data == DONE:
                        done = True
                    elif message.data:
                        events.append(msgspec.json.decode(message.data))
                self._hand_over(events)
                if done:
                    return True
        return False

    def _hand_over(self, events: Sequence[Event]) -> None:
        new = [event for event in events if event["position"] > self.position]
        if new:
            self._handle_events(new)
            self.position = new[-1]["position"]


@dataclass(frozen=True, slots=True)
class Span:
    """Positions `first` to `last`, both included, of the log at `path`."""

    path: str
    first: int
    last: int


async def find_log(api: Api, name: str) -> tuple[str, int]:
    """Returns the path of a conversation's or a generation's log, and its last position now."""
    kind = "generations" if name.startswith("gen_") else "conversations"
    found = await api.get(f"/v1/{kind}/{name}")
    return f"/v1/{kind}/{name}/events", found["position"]


async def read_pages(api: Api, span: Span, send: trio.MemorySendChannel[Page]) -> None:
    """Sends the events of a span, page by page, and closes. Raises `ClientError`."""
    async with send:
        after = span.first - 1
        while after < span.last:
            page = await api.get(span.path, after=after, limit=min(PAGE_SIZE, span.last - after), format="json")
            events = [event for event in page["events"] if event["position"] <= span.last]
            if events:
                await send.send(events)
            if page["closed"] or page["next"] <= after:
                return
            after = page["next"]


async def read_time(api: Api, span: Span) -> str | None:
    """When the last event of a span happened; None if the log has no event at that position."""
    page = await api.get(span.path, after=span.last - 1, limit=1, format="json")
    found = page["events"]
    return str(found[0]["at"]) if found and found[0]["position"] == span.last else None
