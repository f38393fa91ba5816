"""What operators ask: `/healthz`, `/readyz`, `/metrics`, the count of requests, and `/v1/diagnostics/stream`.

Liveness and readiness are two questions: is the process alive, and may work be sent to it. These three addresses
are open to any `Host`: a probe or scraper calls a server by whatever name it has for it, and the responses hold
nothing of any user. `/metrics` asks the database nothing. Requests are counted by their route's rule: counted by
their path, each id would make a time series of its own.

The diagnostic stream sends time-stamped chunks at a steady pace, to find a proxy that holds back streams. Each
chunk says when it was sent. A client that gets all of them at once, or late, has a proxy that buffers. The stream
reads no log, so that it measures the network path and not the store; but it counts as an open stream, and ends
when the server stops.
"""

import re
from datetime import UTC, datetime
from functools import cache
from typing import Annotated

import msgspec
import trio
from msgspec import Meta
from quart import Blueprint, Response, request
from quart_trio import QuartTrio

from eventstore import StoreUnavailable
from server import wire_formats
from server.observability import Gauges, Metrics, MetricsPage
from server.problem import Problem
from server.runtime.conversation_service import ConversationService
from server.runtime.stream_drain import StreamDrain, StreamLease
from server.web.edge.authorization import Grant
from server.web.edge.http_messages import JSON, PlainRequest, PlainResponse, StreamBody, StreamResponse
from server.web.edge.http_messages import Response as AnyResponse
from server.web.edge.quart_adapter import plain_request, quart_response
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

READY_SECONDS = 2.0
"""How long `/readyz` waits for the database."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""The methods that are counted by name: a client may invent others, and each would make a time series."""


def routes(runtime: ConversationService) -> Blueprint:
    """The four addresses."""
    blueprint = Blueprint("operators", __name__)

    @blueprint.get("/healthz")
    async def healthz() -> Response:
        return _uncached(b'{"status":"alive"}', JSON)

    @blueprint.get("/readyz")
    async def readyz() -> Response:
        if runtime.drain.begun:  # not `refuse_if_begun`: a probe does not count as refused work
            raise Problem(503, "draining", "The server is stopping.", retry_after=1.0)
        try:
            with trio.fail_after(READY_SECONDS):
                await runtime.store.alive()
        except (StoreUnavailable, trio.TooSlowError):
            raise Problem(503, "unavailable", "The database does not answer.", retry_after=1.0) from None
        return _uncached(b'{"status":"ready"}', JSON)

    def gauges() -> Gauges:
        return Gauges(
            store=runtime.store.stats(),
            runs=len(runtime.supervisor.runs),
            most_runs=runtime.max_runs,
            readers=runtime.drain.by_transport(),
            most_streams=runtime.drain.most,
            draining=runtime.drain.begun,
            refused=runtime.drain.refused,
            busy=runtime.batching.load,
            pause=runtime.batching.pause,
            unknown=runtime.providers.unknown(),
        )

    page = MetricsPage(runtime.metrics, gauges)

    @blueprint.get("/metrics")
    async def metrics() -> Response:
        return _uncached(*page.render(request.headers.get("Accept", "")))

    @blueprint.get("/v1/diagnostics/stream")
    async def diagnostics() -> Response:
        return quart_response(_diagnose(plain_request(), runtime.drain))

    return blueprint


def _uncached(body: bytes, media_type: str) -> Response:
    return Response(body, 200, headers={"Cache-Control": "no-store"}, content_type=media_type)


@cache
def route_label(rule: str) -> str:
    """A route's rule as a label of metrics: `<gen:name>` becomes `<name>`."""
    return re.sub("<[a-z]+:", "<", rule)


def count_requests(app: QuartTrio, metrics: Metrics) -> None:
    """Makes Quart count every response it gives. The dispatcher counts its own."""

    @app.after_request
    async def count(response: Response) -> Response:
        method = request.method if request.method in METHODS else "other"
        route = "none" if request.url_rule is None else route_label(request.url_rule.rule)
        metrics.requests.add(method, route, str(response.status_code))
        return response


DEFAULT_CHUNKS, MAX_CHUNKS = 20, 200
DEFAULT_INTERVAL, MAX_INTERVAL = 0.25, 5.0
"""Seconds between two chunks."""


class DiagnosticChunk(msgspec.Struct, frozen=True):
    """One chunk of the diagnostic stream."""

    chunk: Annotated[int, Meta(ge=1, description="1, 2, 3 …")]
    of: Annotated[int, Meta(ge=1, description="How many there will be.")]
    at: Annotated[datetime, Meta(description="When the server sent it, by its own clock.")]
    elapsed_ms: Annotated[float, Meta(ge=0, description="Since this response began; the clock never jumps.")]


def _diagnose(request: PlainRequest, drain: StreamDrain) -> AnyResponse:
    chunks = read_count(request.args, "chunks", DEFAULT_CHUNKS, MAX_CHUNKS)
    interval = _read_interval(request.args)
    pad = read_stream_options(request.args).pad
    after = read_cursor(request.headers, request.args)
    if after == NOW or after >= chunks:
        return end_of_log()  # an EventSource that reconnects after the last chunk stops
    if request.method == "HEAD":
        return PlainResponse(200, HEADERS[Form.SSE])
    try:
        request.granted.check_stream(drain)
    except Problem as problem:
        return sse_refusal_response(problem, cursor_text(request.headers, request.args))
    body = _DiagnosticBody(drain, request.granted, after, chunks, interval, pad)
    return StreamResponse(body, HEADERS[Form.SSE])


def _read_interval(args: Params) -> float:
    bound = f"at most {MAX_INTERVAL:g}"
    interval = read_seconds(args, "interval", DEFAULT_INTERVAL, bound)
    if interval > MAX_INTERVAL:
        raise Problem(
            400,
            "invalid_interval",
            f"interval is a number of seconds, {bound}; this one is {interval:g}.",
            extra={"limit": MAX_INTERVAL},
        )
    return interval


class _DiagnosticBody(StreamBody):
    def __init__(
        self, drain: StreamDrain, grant: Grant, sent: int, chunks: int, interval: float, pad: int
    ) -> None:
        super().__init__(drain, grant, sse_refusal)
        self._sent = sent
        self._chunks = chunks
        self._interval = interval
        self._pad = pad
        self._started: float | None = None
        self._due = 0.0

    async def chunk(self, stay: StreamLease) -> bytes:
        if self._started is None:
            self._started = self._due = trio.current_time()
            return wire_formats.sse_opening(RETRY_MS, pad=self._pad)
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
        return frame + (wire_formats.SSE_DONE if self._sent == self._chunks else b"")
