"""The two endless responses, SSE and NDJSON: one body class, two sets of bytes.

All frames that wait go out in one chunk (a chunk costs more than a frame). The heartbeat bounds only the wait
for events, never their sending: a slow reader would lose what was being sent.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import trio
from quart import Response, request

from eventstore import Erased, Event, StoreUnavailable, Trimmed
from server import logs
from server.errors import Problem
from server.http.direct_write import Straight, straight_of
from server.runtime.runtime import Runtime
from server.runtime.stream_drain import Stay
from server.web.edge.empty_response import bare
from server.web.transports.log_reader import Reading, Source
from server.web.transports.read_params import PLAIN, Form, StreamOptions
from server.web.transports.stream_body import CountedBody, Refusal, streamed
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
    refusal: Refusal
    transport: str


def stream(
    runtime: Runtime, source: Source, form: Form, *, heartbeat: float, options: StreamOptions = PLAIN
) -> Response:
    """The log as an endless response; 204 where nothing can follow. Raises `Problem` (draining, full)."""
    if source.over:
        return nothing_follows()
    runtime.drain.refuse_stream()
    if source.behind is not None:
        runtime.metrics.resumed(form.value, source.behind)
    body = _Body(runtime, source, _bytes(form, source, options), heartbeat)
    return streamed(body, NO_BUFFERING, MEDIA_TYPES[form])


def nothing_follows() -> Response:
    """204: at the end of a generation an EventSource stops."""
    return bare(204, {"Vary": "Accept", "Cache-Control": "no-store"})


def refuse(problem: Problem) -> Response:
    """A refusal that passes, for a native EventSource: 200, when to come back, and the end."""
    return Response(refusal(problem), 200, headers=NO_BUFFERING, content_type=sse.MEDIA_TYPE)


def refusal(problem: Problem) -> bytes:
    """The same as bytes."""
    retry = round((problem.retry_after or 1.0) * 1000 * random.uniform(1.0, 2.0))
    return sse.refusal(retry, f"{problem.code}: {problem.detail}".replace("\n", " "))


def _bytes(form: Form, source: Source, options: StreamOptions) -> Bytes:
    if form is Form.NDJSON:
        return Bytes(ndjson.line, ndjson.HEARTBEAT, ndjson.HEARTBEAT, b"", _no_line, form.value)
    frame = sse.named_frame if options.named else sse.frame
    return Bytes(
        frame, sse.opening(source.cursor, RETRY_MS, options.pad), sse.HEARTBEAT, sse.DONE, refusal, form.value
    )


def _no_line(problem: Problem) -> bytes:
    return ndjson.HEARTBEAT  # who reads lines comes back after a clean end, and is then refused by status


class _Body(CountedBody):
    def __init__(self, runtime: Runtime, source: Source, wire: Bytes, heartbeat: float) -> None:
        super().__init__(runtime.drain, wire.refusal, wire.transport)
        self._runtime = runtime
        self._source = source
        self._wire = wire
        self._heartbeat = heartbeat
        self._reading: Reading | None = None
        self._straight = straight_of(request.scope)
        self._sent_at = 0.0
        self._ended = False

    def close(self) -> None:
        if self._reading is not None:
            self._reading.__exit__(None, None, None)

    async def chunk(self, stay: Stay) -> bytes:
        if self._reading is None:
            self._reading = Reading(self._runtime, self._source)
            self._sent_at = trio.current_time()
            return self._wire.opening
        try:
            while not self._ended and not stay.over:
                # One scope for as many chunks as come: it bounds the quiet, and cuts nothing but a wait.
                with stay.scope(self._sent_at + self._heartbeat - trio.current_time()):
                    return await self._until_last(self._reading, self._straight)
                now = trio.current_time()
                if now >= self._sent_at + self._heartbeat:
                    self._sent_at = now
                    return self._wire.heartbeat
        # The client comes back with its cursor, and is then told properly what is the matter.
        except StoreUnavailable:
            self._runtime.metrics.streams_cut.add("store_away", self._wire.transport)
        except Erased:
            pass  # it was ephemeral: no fault
        except Trimmed as error:
            log.warning("stream ended", stream=self._source.stream, why=str(error))
        raise StopAsyncIteration

    async def _until_last(self, reading: Reading, straight: Straight | None) -> bytes:
        """The next chunk; with a short way to the client the last one, all others having gone that way."""
        while True:
            events = await reading.next()
            self._sent_at = trio.current_time()
            chunk = b"".join(map(self._wire.frame, events))
            if reading.closed:
                self._ended = True
                return chunk + self._wire.done
            if straight is None:
                return chunk
            await straight.send(chunk)
