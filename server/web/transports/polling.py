"""Polling and long polling: a log as JSON pages, at once or held until there is something new.

Owns how a page is filled and bounded, and how a request is held as one of the open streams of this process. Must
not know addresses or parameters: those are in `read_endpoints` and `read_params`.
"""

import math

import trio

from eventstore import Event
from server.runtime.conversation_service import ConversationService
from server.web.edge.authorization import Grant
from server.web.edge.http_messages import JSON, Headers, PlainResponse
from server.web.transports.log_reader import LogReader, LogSelection, read_slice
from server.web.transports.read_params import Wait
from server.wire_formats import json_page

PAGE_BYTES = 4 * 1024 * 1024
"""A page ends early after so many bytes of events; its `next` says where to continue."""
LARGE_BYTES = 256 * 1024
"""A page that reaches so many bytes is one of the few that are made at the same time."""
MAX_SCANNED = 20_000
"""A page ends early after so many events that were read, whether the client wants them or not."""
HEADERS: Headers = [
    (b"content-type", JSON.encode()),
    (b"cache-control", b"private, no-cache"),
    (b"vary", b"Accept"),
]


class _Page:
    """The events after the cursor, collected by one read after the other until the page is `full`.

    `next` is the position up to which the log was scanned, `up_to_date` whether that is the primary's head.
    `closed`: nothing can follow, because the generation's terminal event was passed.
    """

    __slots__ = (
        "_limit",
        "_runtime",
        "_scanned",
        "_selection",
        "closed",
        "events",
        "full",
        "next",
        "size",
        "up_to_date",
    )

    def __init__(self, runtime: ConversationService, selection: LogSelection, limit: int) -> None:
        self.events: list[Event] = []
        self.next = max(selection.start, selection.cursor)
        self.closed = self.up_to_date = self.full = selection.nothing_follows
        self.size = 0
        self._runtime = runtime
        self._selection = selection
        self._limit = limit
        self._scanned = 0

    async def read(self) -> None:
        """Reads the store once, and adds what the client wants of it."""
        selection = self._selection
        found = await read_slice(self._runtime, selection, self.next, self._limit - len(self.events))
        for event in found.events:
            self.next = event.position
            if selection.includes(event):
                self.events.append(event)
                self.size += len(event.data) if event.data.isascii() else len(event.data.encode())
            self.closed = selection.ends(event)
            if self.closed or len(self.events) == self._limit or self.size > PAGE_BYTES:
                self.full = True
                break
        self._scanned += len(found.events)
        self.up_to_date = self.next >= found.head
        self.full = self.full or self.up_to_date or self._scanned >= MAX_SCANNED

    def encode(self) -> bytes:
        """The page's JSON."""
        return json_page(self.events, self.next, up_to_date=self.up_to_date or self.closed, closed=self.closed)


async def read_page(
    runtime: ConversationService, grant: Grant, selection: LogSelection, limit: int, wait: Wait
) -> PlainResponse:
    """At most `limit` events after the cursor; where there are none, holds the request for up to `wait`.

    Raises `Problem` 503 where the request should be held and cannot be, because the server stops or is full. An
    empty page at once would be worse: a client that polls in a loop would ask again at once, just when the server
    has too much to do.
    """
    if wait.seconds > 0 and selection.behind is not None:
        runtime.metrics.resumed("long_poll", selection.behind)
    found = _Page(runtime, selection, limit)
    body = await _fill(runtime, found)
    if not found.events and found.up_to_date and not found.closed and wait.seconds > 0:
        del found, body  # thousands of requests may be held at once: keep no page for them
        wait = await hold(runtime, grant, selection, wait)
        # Read again, as a page: `up_to_date` has to be true of one single read of the primary.
        body = await _fill(runtime, _Page(runtime, selection, limit))
    return PlainResponse(200, [*HEADERS, *preference_applied(wait)], body)


async def _fill(runtime: ConversationService, found: _Page) -> bytes:
    """Fills a page and encodes it; only a few large pages at the same time.

    Otherwise hundreds of requests could hold megabytes each before the first of them is sent, and so before those
    bytes count against the limit of bytes that wait for clients.
    """
    while not found.full and found.size < LARGE_BYTES:
        await found.read()
    if found.size < LARGE_BYTES:
        return found.encode()
    async with runtime.large_pages:
        while not found.full:
            await found.read()
        return found.encode()


async def hold(runtime: ConversationService, grant: Grant, selection: LogSelection, wait: Wait) -> Wait:
    """Returns when the log has something new, or the time is over. Returns the longest time it could have taken.

    That is less than the client asked for where `TOKENTAPE_STREAM_MAX_SECONDS` is set. Raises `Problem` 503 where
    no request may be held, and when the server stops meanwhile: after a response without news a client that polls
    in a loop would come back at once. Raises `Problem` 401 when the credential ends meanwhile.
    """
    grant.check_stream(runtime.drain)
    stay = grant.enter(runtime.drain, "long_poll")
    try:
        now = trio.current_time()
        seconds = min(wait.seconds, max(0.0, stay.end_at - now))
        with LogReader(runtime, selection) as reader:
            if not await reader.next(stay, now + seconds):
                runtime.drain.refuse_if_begun()
            grant.check()
    finally:
        runtime.drain.leave(stay)
    return Wait(seconds, wait.preferred)


def preference_applied(wait: Wait, *others: str) -> Headers:
    """`Preference-Applied` (RFC 7240 section 3): the preferences that were applied, and the longest wait."""
    names = [*others, *([f"wait={math.floor(wait.seconds)}"] if wait.preferred else [])]
    return [(b"preference-applied", ", ".join(names).encode())] if names else []
