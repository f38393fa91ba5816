"""`GET /v1/diagnostics/stream`: time-stamped chunks at a steady pace, to find a proxy that holds back streams.

Each chunk says when it was sent. A client that gets all of them at once, or late, has a proxy that buffers. The
stream reads no log, so that it measures the network path and not the store; but it counts as an open stream, and
ends when the server stops.
"""

from datetime import UTC, datetime
from typing import Annotated

import msgspec
import trio
from msgspec import Meta
from quart import Blueprint, Response, request

from server.problem import Problem
from server.runtime.stream_drain import StreamDrain, StreamLease
from server.web.edge.plain_http import PlainRequest, PlainResponse
from server.web.edge.quart_adapter import quart_response
from server.web.edge.stream_response import Response as AnyResponse
from server.web.edge.stream_response import StreamBody, StreamResponse
from server.web.transports.read_params import (
    NOW,
    Form,
    Params,
    cursor_text,
    read_count,
    read_cursor,
    read_seconds,
    read_stream_options,
)
from server.web.transports.sse_ndjson import HEADERS, RETRY_MS, end_of_log, sse_refusal, sse_refusal_response
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


def routes(drain: StreamDrain) -> Blueprint:
    """The one address."""
    blueprint = Blueprint("diagnostics", __name__)

    @blueprint.get("/v1/diagnostics/stream")
    async def diagnostics() -> Response:
        return quart_response(_respond(PlainRequest.from_scope(request.scope), drain))

    return blueprint


def _respond(request: PlainRequest, drain: StreamDrain) -> AnyResponse:
    chunks = read_count(request.args, "chunks", CHUNKS_DEFAULT, CHUNKS_MOST)
    interval = _read_interval(request.args)
    pad = read_stream_options(request.args).pad
    after = read_cursor(request.headers, request.args)
    if after == NOW or after >= chunks:
        return end_of_log()  # an EventSource that reconnects after the last chunk stops
    if request.method == "HEAD":
        return PlainResponse(200, HEADERS[Form.SSE])
    try:
        drain.refuse_stream()
    except Problem as problem:
        return sse_refusal_response(problem, cursor_text(request.headers, request.args))
    return StreamResponse(_DiagnosticBody(drain, after, chunks, interval, pad), HEADERS[Form.SSE])


def _read_interval(args: Params) -> float:
    bound = f"at most {INTERVAL_MOST:g}"
    interval = read_seconds(args, "interval", INTERVAL_DEFAULT, bound)
    if interval > INTERVAL_MOST:
        raise Problem(
            400,
            "invalid_interval",
            f"interval is a number of seconds, {bound}; this one is {interval:g}.",
            extra={"limit": INTERVAL_MOST},
        )
    return interval


class _DiagnosticBody(StreamBody):
    def __init__(self, drain: StreamDrain, sent: int, chunks: int, interval: float, pad: int) -> None:
        super().__init__(drain, sse_refusal)
        self._sent = sent
        self._chunks = chunks
        self._interval = interval
        self._pad = pad
        self._started: float | None = None
        self._due = 0.0

    async def chunk(self, stay: StreamLease) -> bytes:
        if self._started is None:
            self._started = self._due = trio.current_time()
            return sse.opening(RETRY_MS, pad=self._pad)
        if self._sent == self._chunks:
            return b""
        with stay.scope(float("inf")):
            await trio.sleep_until(self._due)
        if stay.over:
            return b""
        # The next chunk is due one interval after this one was due, not after it was sent: so a slow client shows
        # as late chunks, and not as a slower pace.
        self._due += self._interval
        self._sent += 1
        elapsed = round((trio.current_time() - self._started) * 1000, 3)
        chunk = DiagnosticChunk(self._sent, self._chunks, datetime.now(UTC), elapsed)
        frame = b"data: %b\nid: %d\n\n" % (msgspec.json.encode(chunk), self._sent)
        return frame + (sse.DONE if self._sent == self._chunks else b"")
