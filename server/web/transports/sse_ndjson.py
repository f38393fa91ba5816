"""The streamed logs, SSE and NDJSON: one body class, and the bytes of each format.

All events that are there go out in one chunk, because a chunk costs more than a frame. A heartbeat is due some
seconds after the last bytes. Its deadline ends only the wait for events, never a send: cutting a send would lose
what a slow reader was being sent. Must not know how a chunk reaches the socket.
"""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import trio

from eventstore import Erased, Event, StoreUnavailable, Trimmed
from server import wire_formats
from server.observability import logs
from server.problem import Problem
from server.runtime.conversation_service import ConversationService
from server.runtime.stream_drain import StreamLease
from server.web.edge.authorization import Grant
from server.web.edge.http_messages import (
    FormatRefusal,
    Headers,
    PlainResponse,
    Response,
    StreamBody,
    StreamResponse,
)
from server.web.transports.log_reader import LogReader, LogSelection
from server.web.transports.read_params import NOW, PLAIN, Form, StreamOptions

log = logs.get("streams")

RETRY_MS = 1_000
CHUNK_BYTES = 256 * 1024
"""Frames are joined to chunks of about so many bytes: the memory that a client holds which stops reading."""


def stream_headers(media_type: str) -> Headers:
    """The headers of a stream, and of a refusal in its place."""
    return [
        (b"content-type", media_type.encode()),
        (b"cache-control", b"private, no-cache, no-transform"),
        (b"x-accel-buffering", b"no"),  # without it nginx holds back 32 KB
        (b"incremental", b"?1"),  # RFC 10036: asks proxies to pass bytes on as they come
        (b"vary", b"Accept"),
    ]


HEADERS = {
    Form.SSE: stream_headers(wire_formats.SSE_MEDIA_TYPE),
    Form.NDJSON: stream_headers(wire_formats.NDJSON_MEDIA_TYPE),
}
_REFUSAL_HEADERS = [
    (name, b"no-store" if name == b"cache-control" else value) for name, value in HEADERS[Form.SSE]
]


@dataclass(frozen=True, slots=True)
class _Format:
    """The bytes of a format: of an event, and of what else a stream sends."""

    event: Callable[[Event], bytes]
    opening: bytes
    heartbeat: bytes
    done: bytes


def open_stream(
    runtime: ConversationService,
    grant: Grant,
    selection: LogSelection,
    form: Form,
    *,
    heartbeat: float,
    options: StreamOptions = PLAIN,
    requested_cursor: int = 0,
) -> Response:
    """A log as a streamed response; 204 where nothing can follow. Raises `Problem` 503 and 429 as
    `Grant.check_stream`.

    `heartbeat`: seconds between heartbeats, where the client names none. `requested_cursor` is the cursor before
    it was resolved: a client that began at `NOW` is sent the position that this was. So is one with a ticket,
    which lets it come back only with the position that it has.
    """
    if selection.nothing_follows:
        return end_of_log()
    grant.check_stream(runtime.drain)
    if selection.behind is not None:
        runtime.metrics.resumed(form.value, selection.behind)
    ticketed = grant.principal.stream is not None
    position = selection.cursor if requested_cursor == NOW or ticketed else None
    format_ = _NDJSON if form is Form.NDJSON else _sse_format(options, position)
    body = LogBody(runtime, grant, selection, form, format_, options.heartbeat or heartbeat)
    return StreamResponse(body, HEADERS[form])


def end_of_log() -> PlainResponse:
    """204, at or after the end of a generation's log: it stops an `EventSource`, which would reconnect."""
    return PlainResponse(204, [(b"vary", b"Accept"), (b"cache-control", b"no-store")])


def sse_refusal_response(problem: Problem, cursor: str | None = None) -> PlainResponse:
    """A temporary refusal for an `EventSource`: a 200 with its cursor, when to come back, and no event."""
    return PlainResponse(200, _REFUSAL_HEADERS, sse_refusal(problem, cursor))


def sse_refusal(problem: Problem, cursor: str | None = None) -> bytes:
    """The body of a temporary refusal. Its time to come back is random, so that clients spread out."""
    retry = round((problem.retry_after or 1.0) * 1000 * random.uniform(1.0, 2.0))
    return wire_formats.sse_refusal(retry, f"{problem.code}: {problem.detail}".replace("\n", " "), cursor)


def _sse_format(options: StreamOptions, position: int | None) -> _Format:
    return _Format(
        wire_formats.sse_named_frame if options.named else wire_formats.sse_frame,
        wire_formats.sse_opening(RETRY_MS, position, options.pad),
        wire_formats.SSE_HEARTBEAT_EVENT if options.heartbeat_event else wire_formats.SSE_HEARTBEAT,
        wire_formats.SSE_DONE,
    )


_NDJSON = _Format(wire_formats.ndjson_line, wire_formats.NDJSON_HEARTBEAT, wire_formats.NDJSON_HEARTBEAT, b"")


def _refusal_format(form: Form, cursor: int, *, always_tell: bool) -> FormatRefusal:
    if form is Form.NDJSON:
        # A client of NDJSON reconnects after a clean end, and is then refused with a status.
        return lambda problem: wire_formats.NDJSON_HEARTBEAT
    return lambda problem: sse_refusal(problem, str(cursor) if cursor > 0 or always_tell else None)


class LogBody(StreamBody):
    """One log, streamed in one format."""

    def __init__(
        self,
        runtime: ConversationService,
        grant: Grant,
        selection: LogSelection,
        form: Form,
        format_: _Format,
        heartbeat: float,
    ) -> None:
        refusal = _refusal_format(form, selection.cursor, always_tell=grant.principal.stream is not None)
        super().__init__(runtime.drain, grant, refusal, form.value)
        self._runtime = runtime
        self._selection = selection
        self._format = format_
        self._heartbeat = heartbeat
        self._reader: LogReader | None = None
        self._due = 0.0  # when the next heartbeat is due, by trio's clock
        self._unsent: deque[Event] = deque()
        self._ended = False

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()

    async def chunk(self, stay: StreamLease) -> bytes:
        if self._reader is None:
            self._reader = LogReader(self._runtime, self._selection)
            self._due = trio.current_time() + self._heartbeat
            return self._format.opening
        try:
            while not self._ended:
                data = await self._next(stay, self._reader)
                if self._ended or self.send is None:
                    return data
                await self.send(data)
        # End the stream without a word: the client reconnects with its cursor, and then gets a proper refusal.
        except StoreUnavailable:
            self._runtime.metrics.streams_cut.add("store_away", self._transport)
        except Erased:
            pass  # an ephemeral conversation came to its end: nothing to log
        except Trimmed as error:
            log.warning("stream ended", stream=self._selection.stream, why=str(error))
        return b""

    async def _next(self, stay: StreamLease, reader: LogReader) -> bytes:
        """The next events as bytes, or a heartbeat. Sets `_ended` when nothing more will follow."""
        data = self._take_chunk()
        if not data and not reader.closed:
            self._unsent.extend(await reader.next(stay, self._due))
            data = self._take_chunk()
        if stay.revoked:
            self._ended = True
            return b""
        now = trio.current_time()
        self._due = now + self._heartbeat
        if reader.closed and not self._unsent:
            self._ended = True
            return data + self._format.done
        if data:
            return data
        if now >= stay.end_at:
            self._ended = True
            return b""
        return self._format.heartbeat

    def _take_chunk(self) -> bytes:
        """As many unsent events as make a chunk, as bytes."""
        frames, size = [], 0
        while self._unsent and size < CHUNK_BYTES:
            frames.append(self._format.event(self._unsent.popleft()))
            size += len(frames[-1])
        return b"".join(frames)
