"""A response whose body is streamed, and counted among the open streams of this process.

Owns the body's place among those streams: taken when the body begins, given back when it ends, over when the drain
says so. Between the check before the response's head and the begin of the body others may have taken the last
places. Then the body is one refusal, written in the stream's own format. Must not know what is streamed, nor who
sends it.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from server.problem import Problem
from server.runtime.stream_drain import StreamDrain, StreamLease
from server.web.edge.plain_http import Headers, PlainResponse

FormatRefusal = Callable[[Problem], bytes]
"""Writes a refusal in the stream's own format."""
SendChunk = Callable[[bytes], Awaitable[None]]


class StreamBody(ABC):
    """The body of a streamed response. A subclass implements `chunk`, and `close` if it holds anything.

    The sender calls `begin`, then `next` until it returns no bytes, then `end` in any case. It may set `send`
    after `begin`: then `next` sends all chunks by itself but the one that it returns, and is called less often.
    """

    send: SendChunk | None = None

    def __init__(self, drain: StreamDrain, format_refusal: FormatRefusal, transport: str = "other") -> None:
        self._drain = drain
        self._transport = transport
        self._format_refusal = format_refusal
        self._refusal = b""
        self._stay: StreamLease | None = None

    def begin(self) -> None:
        """Takes a place among the streams of this process."""
        try:
            # Check again, and take the place without an await between: otherwise a hundred streams that come at
            # once are all let in before the first of them is counted.
            self._drain.refuse_stream()
        except Problem as problem:
            self._refusal = self._format_refusal(problem)
        else:
            self._stay = self._drain.enter(self._transport)

    def end(self) -> None:
        """Gives the place back, and what the body holds."""
        if self._stay is not None:
            self._drain.leave(self._stay)
        self.close()

    async def next(self) -> bytes:
        """The next bytes; none at the end, and when the time of this stream is over."""
        if self._stay is not None:
            return await self.chunk(self._stay)
        refusal, self._refusal = self._refusal, b""
        return refusal

    @abstractmethod
    async def chunk(self, stay: StreamLease) -> bytes:
        """As `next`, for a body that has its place."""

    def close(self) -> None:
        """Gives back what the body holds. Also called when the body never began."""
        return


@dataclass(frozen=True, slots=True)
class StreamResponse:
    """A response of status 200 whose body is streamed."""

    body: StreamBody
    headers: Headers

    @property
    def status(self) -> int:
        """Always 200: what is refused is refused by a `PlainResponse`."""
        return 200


Response = PlainResponse | StreamResponse
Endpoint = Callable[..., Awaitable[Response]]
"""Called with a `PlainRequest` and the ids in its address, in order. Raises `Problem` and the store's errors."""
