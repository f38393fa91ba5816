"""The log as JSON pages, held or not: polling and long polling."""

from collections.abc import Mapping

from quart import Response

from eventstore import Event
from server.events import TERMINAL
from server.runtime.runtime import Runtime
from server.web.transports.log_reader import Reading, Source
from server.wire.json_page import page

SCAN = 500
PAGE_BYTES = 4 * 1024 * 1024
"""A page ends early behind this many characters of events: `next` says where to go on."""
HEADERS = {"Cache-Control": "private, no-cache", "Vary": "Accept"}


async def read_page(
    runtime: Runtime, source: Source, limit: int, wait: float, applied: Mapping[str, str]
) -> Response:
    """At most `limit` events after the cursor; with none there, held up to `wait` seconds until one comes.

    `applied` are the headers that tell what was made of the client's wish to wait.
    """
    if wait > 0 and source.behind is not None:
        runtime.metrics.resumed("long_poll", source.behind)
    events, following, up_to_date = await _scan(runtime, source, limit)
    closed = source.over or _ends(source, events)
    if not events and not closed and wait > 0 and runtime.drain.may_hold:
        stay = runtime.drain.enter("long_poll")
        try:
            with Reading(runtime, source) as reading, stay.scope(wait):
                await reading.next()
        finally:
            runtime.drain.leave(stay)
        # What rang is read again as a page, so that "up to date" is said of one read of the primary.
        events, following, up_to_date = await _scan(runtime, source, limit)
        closed = _ends(source, events)
    body = page(events, following, up_to_date=up_to_date or closed, closed=closed)
    return Response(body, 200, headers={**HEADERS, **applied}, content_type="application/json")


async def _scan(runtime: Runtime, source: Source, limit: int) -> tuple[list[Event], int, bool]:
    """Events, how far the log was scanned for them, and whether that is the primary's head."""
    events: list[Event] = []
    size = 0
    position = max(source.start, source.cursor)
    if source.over:
        return events, position, True
    while True:
        found = await runtime.store.read(source.stream, position, limit if source.generation is None else SCAN)
        for event in found.events:
            position = event.position
            if source.generation is None or event.tag == source.generation:
                events.append(event)
                size += len(event.data)
                if len(events) == limit or size > PAGE_BYTES or _ends(source, events):
                    return events, position, position >= found.head
        if position >= found.head:
            return events, position, True


def _ends(source: Source, events: list[Event]) -> bool:
    return source.generation is not None and bool(events) and events[-1].type in TERMINAL
