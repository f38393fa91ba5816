"""The two endless responses, SSE and NDJSON: one body class, two sets of bytes.

All frames that wait go out in one chunk (a chunk costs more than a frame). The heartbeat bounds only the wait
for events, never their sending: a slow reader would lose what was being sent.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

from quart import Response
from quart.wrappers.response import ResponseBody

from eventstore import Event, StoreUnavailable, Trimmed
from server import logs
from server.errors import Problem
from server.runtime.drain import Stay
from server.runtime.runtime import Runtime
from server.web.bare import bare
from server.web.cursor import PLAIN, Form, StreamOptions
from server.web.reading import Reading, Source
from server.wire import ndjson, sse

log = logs.get("streams")

RETRY_MS = 1_000
NO_BUFFERING = {**sse.NO_BUFFERING, "Vary": "Accept"}
MEDIA_TYPES = {Form.SSE: sse.MEDIA_TYPE, Form.NDJSON: ndjson.MEDIA_TYPE}


@dataclass(frozen=True, slots=True)
class Bytes:
    """What a form puts on the wire besides its events, and how it frames one."""

    frame: Callable[[Event], bytes]
    opening: bytes
    heartbeat: bytes
    done: bytes


def stream(
    runtime: Runtime, source: Source, form: Form, *, heartbeat: float, options: StreamOptions = PLAIN
) -> Response:
    """The log as an endless response; 204 where nothing can follow. Raises `Problem` (draining, full)."""
    if source.over:
        return bare(204, {"Vary": "Accept", "Cache-Control": "no-store"})
    runtime.drain.refuse_stream()
    body = _Body(runtime, source, _bytes(form, source, options), heartbeat)
    response = Response(b"", 200, headers=NO_BUFFERING, content_type=MEDIA_TYPES[form])
    response.response = body
    response.headers.pop("Content-Length", None)
    response.timeout = None  # Quart cuts a response at 60 s otherwise
    return response


def refuse(problem: Problem) -> Response:
    """A refusal that passes, for a native EventSource: 200, when to come back, and the end."""
    retry = round((problem.retry_after or 1.0) * 1000 * random.uniform(1.0, 2.0))
    body = sse.refusal(retry, f"{problem.code}: {problem.detail}".replace("\n", " "))
    return Response(body, 200, headers=NO_BUFFERING, content_type=sse.MEDIA_TYPE)


def _bytes(form: Form, source: Source, options: StreamOptions) -> Bytes:
    if form is Form.NDJSON:
        return Bytes(ndjson.line, ndjson.HEARTBEAT, ndjson.HEARTBEAT, b"")
    frame = sse.named_frame if options.named else sse.frame
    return Bytes(frame, sse.opening(source.cursor, RETRY_MS, options.pad), sse.HEARTBEAT, sse.DONE)


class _Body(ResponseBody):
    def __init__(self, runtime: Runtime, source: Source, wire: Bytes, heartbeat: float) -> None:
        self._runtime = runtime
        self._source = source
        self._wire = wire
        self._heartbeat = heartbeat
        self._begun = False
        self._ended = False
        self._reading: Reading
        self._stay: Stay

    async def __aenter__(self) -> "_Body":
        self._stay = self._runtime.drain.enter()
        self._reading = Reading(self._runtime, self._source)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reading.__exit__(kind, error, trace)
        self._runtime.drain.leave(self._stay)

    def __aiter__(self) -> "_Body":
        return self

    async def __anext__(self) -> bytes:
        if not self._begun:
            self._begun = True
            return self._wire.opening
        if self._ended or self._stay.over:
            raise StopAsyncIteration
        events: Sequence[Event] = ()
        try:
            with self._stay.scope(self._heartbeat):
                events = await self._reading.next()
        except (StoreUnavailable, Trimmed) as error:
            # The client comes back with its cursor, and is then told properly what is the matter.
            log.warning("stream ended", stream=self._source.stream, why=str(error))
            raise StopAsyncIteration from None
        if not events:
            if self._stay.over:
                raise StopAsyncIteration
            return self._wire.heartbeat
        chunk = b"".join(map(self._wire.frame, events))
        if self._reading.closed:
            self._ended = True
            chunk += self._wire.done
        return chunk

    async def convert_to_sequence(self) -> bytes:
        raise TypeError("an endless body has no whole")
