"""The two endless responses, SSE and NDJSON: one body class, two sets of bytes.

All frames that wait go out in one chunk (a chunk costs more than a frame). A sign of life is due some seconds
after the last bytes; its time bounds only the wait for events, never their sending: a slow reader would lose what
was being sent.
"""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import trio

from eventstore import Erased, Event, StoreUnavailable, Trimmed
from server import logs
from server.errors import Problem
from server.runtime.runtime import Runtime
from server.runtime.stream_drain import Stay
from server.web.edge.http_messages import Headers, Reply
from server.web.transports.log_reader import LogReader, Source
from server.web.transports.read_params import NOW, PLAIN, Form, StreamOptions
from server.web.transports.stream_body import Refusal, StreamBody, StreamReply
from server.wire import ndjson, sse

log = logs.get("streams")

RETRY_MS = 1_000
CHUNK_BYTES = 256 * 1024
"""Frames are joined to chunks of about so many bytes: what a reader that takes nothing holds besides the log."""


def stream_headers(media_type: str) -> Headers:
    """The headers of a stream, and of a refusal in its place."""
    return [
        (b"content-type", media_type.encode()),
        (b"cache-control", b"private, no-cache, no-transform"),
        (b"x-accel-buffering", b"no"),  # nginx holds back 32 KB otherwise
        (b"incremental", b"?1"),  # RFC 10036: intermediaries are to pass bytes on as they come
        (b"vary", b"Accept"),
    ]


HEADERS = {
    Form.SSE: stream_headers(sse.MEDIA_TYPE),
    Form.NDJSON: stream_headers(ndjson.MEDIA_TYPE),
}
_REFUSED = [(name, b"no-store" if name == b"cache-control" else value) for name, value in HEADERS[Form.SSE]]


@dataclass(frozen=True, slots=True)
class _Frames:
    """What a form puts on the wire: how it frames an event, and what else there is."""

    frame: Callable[[Event], bytes]
    opening: bytes
    heartbeat: bytes
    done: bytes


def open_stream(
    runtime: Runtime,
    source: Source,
    form: Form,
    *,
    heartbeat: float,
    options: StreamOptions = PLAIN,
    asked: int = 0,
) -> Reply | StreamReply:
    """The log as an endless response; 204 where nothing can follow. Raises `Problem` (draining, full).

    `heartbeat` is the server's own pause in seconds. `asked` is the cursor as it was read: one that began at
    `NOW` is told where that is.
    """
    if source.over:
        return nothing_follows()
    runtime.drain.refuse_stream()
    if source.behind is not None:
        runtime.metrics.resumed(form.value, source.behind)
    told = source.cursor if asked == NOW else None
    frames = _NDJSON if form is Form.NDJSON else _sse_frames(options, told)
    body = LogBody(runtime, source, form, frames, options.heartbeat or heartbeat)
    return StreamReply(body, HEADERS[form])


def nothing_follows() -> Reply:
    """204: at the end of a generation an EventSource stops."""
    return Reply(204, [(b"vary", b"Accept"), (b"cache-control", b"no-store")])


def refuse(problem: Problem, cursor: str | None = None) -> Reply:
    """A refusal that passes, for a native EventSource: 200, its cursor again, when to come back, and the end."""
    return Reply(200, list(_REFUSED), refusal(problem, cursor))


def refusal(problem: Problem, cursor: str | None = None) -> bytes:
    """The same as bytes."""
    retry = round((problem.retry_after or 1.0) * 1000 * random.uniform(1.0, 2.0))
    return sse.refusal(retry, f"{problem.code}: {problem.detail}".replace("\n", " "), cursor)


def _sse_frames(options: StreamOptions, told: int | None) -> _Frames:
    return _Frames(
        sse.named_frame if options.named else sse.frame,
        sse.opening(RETRY_MS, told, options.pad),
        sse.HEARTBEAT_EVENT if options.heartbeat_event else sse.HEARTBEAT,
        sse.DONE,
    )


_NDJSON = _Frames(ndjson.line, ndjson.HEARTBEAT, ndjson.HEARTBEAT, b"")


def _refusal_of(form: Form, cursor: int) -> Refusal:
    if form is Form.NDJSON:
        # Who reads lines comes back after a clean end, and is then refused by status.
        return lambda problem: ndjson.HEARTBEAT
    return lambda problem: refusal(problem, str(cursor) if cursor > 0 else None)


class LogBody(StreamBody):
    """One log, streamed."""

    def __init__(self, runtime: Runtime, source: Source, form: Form, frames: _Frames, heartbeat: float) -> None:
        super().__init__(runtime.drain, _refusal_of(form, source.cursor), form.value)
        self._runtime = runtime
        self._source = source
        self._frames = frames
        self._heartbeat = heartbeat
        self._reader: LogReader | None = None
        self._due = 0.0  # when a sign of life is, by trio's clock
        self._events: deque[Event] = deque()  # that have been read, and not been sent
        self._ended = False

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()

    async def chunk(self, stay: Stay) -> bytes:
        if self._reader is None:
            self._reader = LogReader(self._runtime, self._source)
            self._due = trio.current_time() + self._heartbeat
            return self._frames.opening
        try:
            while not self._ended:
                data = await self._next(stay, self._reader)
                if self._ended or self.send is None:
                    return data
                await self.send(data)
        # The client comes back with its cursor, and is then told properly what is the matter.
        except StoreUnavailable:
            self._runtime.metrics.streams_cut.add("store_away", self._transport)
        except Erased:
            pass  # it was ephemeral: no fault
        except Trimmed as error:
            log.warning("stream ended", stream=self._source.stream, why=str(error))
        return b""

    async def _next(self, stay: Stay, reader: LogReader) -> bytes:
        """The frames of the next events, or a sign of life. Sets `_ended` when no more will follow."""
        data = self._joined()
        if not data and not reader.closed:
            self._events.extend(await reader.next(stay, self._due))
            data = self._joined()
        now = trio.current_time()
        self._due = now + self._heartbeat
        if reader.closed and not self._events:
            self._ended = True
            return data + self._frames.done
        if data:
            return data
        if now >= stay.end_at:
            self._ended = True
            return b""
        return self._frames.heartbeat

    def _joined(self) -> bytes:
        """The frames of as many events as make a chunk."""
        frames, size = [], 0
        while self._events and size < CHUNK_BYTES:
            frames.append(self._frames.frame(self._events.popleft()))
            size += len(frames[-1])
        return b"".join(frames)
