"""The log as JSON pages, held or not: polling and long polling."""

import math

import trio

from eventstore import Event
from server.runtime.runtime import Runtime
from server.web.edge.http_messages import Headers, Reply
from server.web.transports.log_reader import SCAN, LogReader, Source
from server.web.transports.read_params import Wait
from server.wire.json_page import page

PAGE_BYTES = 4 * 1024 * 1024
"""A page ends early behind so many bytes of events: `next` says where to go on."""
LARGE_BYTES = 256 * 1024
"""From so many bytes on a page is made beside few others."""
MOST_SCANNED = 20_000
"""A page ends early behind so many events that were looked at, wanted or not."""
HEADERS: Headers = [
    (b"content-type", b"application/json"),
    (b"cache-control", b"private, no-cache"),
    (b"vary", b"Accept"),
]


class _Page:
    """Events behind the source's cursor, gathered by one read after the other until the page is `full`.

    `following` is how far the log was scanned, `up_to_date` whether that is the primary's head. `closed`: nothing
    can follow, for the generation's terminal event has been passed.
    """

    __slots__ = (
        "_limit",
        "_scanned",
        "_source",
        "_store",
        "closed",
        "events",
        "following",
        "full",
        "size",
        "up_to_date",
    )

    def __init__(self, runtime: Runtime, source: Source, limit: int) -> None:
        self.events: list[Event] = []
        self.following = max(source.start, source.cursor)
        self.closed = self.up_to_date = self.full = source.over
        self.size = 0
        self._store = runtime.store
        self._source = source
        self._limit = limit
        self._scanned = 0

    async def read(self) -> None:
        """One read more."""
        source, left = self._source, self._limit - len(self.events)
        whole = source.generation is None and source.types is None
        seen = max(source.head, self.following)
        found = await self._store.read(source.stream, self.following, left if whole else SCAN, seen=seen)
        for event in found.events:
            self.following = event.position
            if source.wants(event):
                self.events.append(event)
                self.size += len(event.data) if event.data.isascii() else len(event.data.encode())
            self.closed = source.ends(event)
            if self.closed or len(self.events) == self._limit or self.size > PAGE_BYTES:
                self.full = True
                break
        self._scanned += len(found.events)
        self.up_to_date = self.following >= found.head
        self.full = self.full or self.up_to_date or self._scanned >= MOST_SCANNED

    def encode(self) -> bytes:
        """The page's JSON."""
        return page(self.events, self.following, up_to_date=self.up_to_date or self.closed, closed=self.closed)


async def read_page(runtime: Runtime, source: Source, limit: int, wait: Wait) -> Reply:
    """At most `limit` events after the cursor; with none there, held for up to `wait` until one comes.

    Raises `Problem` 503 where it would have to be held and may not (draining, full): an empty page at once would
    make a client that loops ask again at once, just when the server has too much to do.
    """
    if wait.seconds > 0 and source.behind is not None:
        runtime.metrics.resumed("long_poll", source.behind)
    found = _Page(runtime, source, limit)
    body = await _gather(runtime, found)
    if not found.events and found.up_to_date and not found.closed and wait.seconds > 0:
        del found, body  # thousands may be held at once
        wait = await hold(runtime, source, wait)
        # What rang is read again as a page, so that "up to date" is said of one read of the primary.
        body = await _gather(runtime, _Page(runtime, source, limit))
    return Reply(200, [*HEADERS, *applied(wait)], body)


async def _gather(runtime: Runtime, found: _Page) -> bytes:
    """A page's JSON. Of large ones only a few are made at once.

    Else hundreds of requests would each hold megabytes before the first of them is sent, and counted among the
    bytes that wait for clients.
    """
    while not found.full and found.size < LARGE_BYTES:
        await found.read()
    if found.size < LARGE_BYTES:
        return found.encode()
    async with runtime.large_pages:
        while not found.full:
            await found.read()
        return found.encode()


async def hold(runtime: Runtime, source: Source, wait: Wait) -> Wait:
    """Returns when the source has something newer or the time is over; how long it could have been at most.

    That is less than was wished for where streams are capped. Raises `Problem` 503 where no request may be held,
    or no longer: an answer without news, at once, would make a client that loops come back at once.
    """
    runtime.drain.refuse_stream()
    stay = runtime.drain.enter("long_poll")
    try:
        now = trio.current_time()
        seconds = min(wait.seconds, max(0.0, stay.end_at - now))
        with LogReader(runtime, source) as reader:
            if not await reader.next(stay, now + seconds):
                runtime.drain.refuse_if_begun()
    finally:
        runtime.drain.leave(stay)
    return Wait(seconds, wait.preferred)


def applied(wait: Wait, *others: str) -> Headers:
    """The header that tells which wishes were heeded (RFC 7240 section 3), and how far the one to wait."""
    told = [*others, *([f"wait={math.floor(wait.seconds)}"] if wait.preferred else [])]
    return [(b"preference-applied", ", ".join(told).encode())] if told else []
