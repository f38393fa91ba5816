"""`GET /v1/diagnostics/stream`: time-stamped chunks at a steady pace, so that a client can see what is between.

Each chunk says when it left; one that reads them all at once, or late, has a proxy that holds them back. It
touches no log, so that what is measured is the way and not the store; but it counts as a stream, and drains.
"""

from datetime import UTC, datetime
from typing import Annotated

import msgspec
import trio
from msgspec import Meta
from quart import Blueprint, Response, request

from server.errors import Problem
from server.runtime.stream_drain import Drain, Stay
from server.web.edge.http_messages import Reply
from server.web.transports.get_routes import respond
from server.web.transports.read_params import (
    NOW,
    Form,
    cursor_text,
    read_count,
    read_cursor,
    read_seconds,
    read_stream_options,
)
from server.web.transports.sse_ndjson import HEADERS, RETRY_MS, nothing_follows, refusal, refuse
from server.web.transports.stream_body import StreamBody, StreamReply
from server.wire import sse

CHUNKS_DEFAULT, CHUNKS_MOST = 20, 200
INTERVAL_DEFAULT, INTERVAL_MOST = 0.25, 5.0
"""Seconds between two chunks."""


class DiagnosticChunk(msgspec.Struct, frozen=True):
    """One chunk of the diagnostic stream."""

    chunk: Annotated[int, Meta(ge=1, description="1, 2, 3 …")]
    of: Annotated[int, Meta(ge=1, description="How many there will be.")]
    at: Annotated[datetime, Meta(description="When the server sent it, by its own clock.")]
    elapsed_ms: Annotated[float, Meta(ge=0, description="Since this response began; the clock never jumps.")]


def routes(drain: Drain) -> Blueprint:
    """The one address."""
    blue = Blueprint("diagnostics", __name__)

    @blue.get("/v1/diagnostics/stream")
    async def diagnostics() -> Response:
        chunks = read_count(request.args, "chunks", CHUNKS_DEFAULT, CHUNKS_MOST)
        interval = _interval()
        pad = read_stream_options(request.args).pad
        after = read_cursor(request.headers, request.args)
        if after == NOW or after >= chunks:
            return respond(nothing_follows())  # an EventSource that comes back after the last one stops
        if request.method == "HEAD":
            return respond(Reply(200, HEADERS[Form.SSE]))
        try:
            drain.refuse_stream()
        except Problem as problem:
            return respond(refuse(problem, cursor_text(request.headers, request.args)))
        return respond(StreamReply(_Body(drain, after, chunks, interval, pad), HEADERS[Form.SSE]))

    return blue


def _interval() -> float:
    bound = f"at most {INTERVAL_MOST:g}"
    interval = read_seconds(request.args, "interval", INTERVAL_DEFAULT, bound)
    if interval > INTERVAL_MOST:
        raise Problem(
            400,
            "invalid_interval",
            f"interval is a number of seconds, {bound}; this one is {interval:g}.",
            extra={"limit": INTERVAL_MOST},
        )
    return interval


class _Body(StreamBody):
    def __init__(self, drain: Drain, sent: int, chunks: int, interval: float, pad: int) -> None:
        super().__init__(drain, refusal)
        self._sent = sent
        self._chunks = chunks
        self._interval = interval
        self._pad = pad
        self._started: float | None = None
        self._due = 0.0

    async def chunk(self, stay: Stay) -> bytes:
        if self._started is None:
            self._started = self._due = trio.current_time()
            return sse.opening(RETRY_MS, pad=self._pad)
        if self._sent == self._chunks:
            return b""
        with stay.scope(float("inf")):
            await trio.sleep_until(self._due)
        if stay.over:
            return b""
        # Due from the last one's time, not its sending: a slow client shows as late chunks, not as a slow pace.
        self._due += self._interval
        self._sent += 1
        elapsed = round((trio.current_time() - self._started) * 1000, 3)
        told = DiagnosticChunk(self._sent, self._chunks, datetime.now(UTC), elapsed)
        frame = b"data: %b\nid: %d\n\n" % (msgspec.json.encode(told), self._sent)
        return frame + (sse.DONE if self._sent == self._chunks else b"")
