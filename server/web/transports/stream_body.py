"""A body that lasts: it has its place among the streams of this process, and ends when the drain says so.

There may be no place left when a response's head has been sent, for others were let in meanwhile. Then the body
is one refusal, in the words of its form. It does not know what is streamed, nor who carries it.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from types import TracebackType

from quart import Response
from quart.wrappers.response import ResponseBody

from server.errors import Problem
from server.runtime.stream_drain import Drain, Stay
from server.web.edge.http_messages import Headers

Refusal = Callable[[Problem], bytes]
Send = Callable[[bytes], Awaitable[None]]


class StreamBody(ABC):
    """The body of a streamed response. Those who make one implement `chunk`, and `close` if they hold anything.

    Whoever carries it calls `begin`, then `next` until it gives no bytes, then `end` in any case. `send` may be
    set after `begin`: then `next` itself sends all chunks but those it returns, and is called less often.
    """

    send: Send | None = None

    def __init__(self, drain: Drain, refusal: Refusal, transport: str = "other") -> None:
        self._drain = drain
        self._transport = transport
        self._refusal = refusal
        self._parting = b""
        self._stay: Stay | None = None

    def begin(self) -> None:
        """Takes a place among the streams of this process."""
        try:
            # Asked again, and the place taken without an await between: a hundred streams that come at once were
            # all let in before the first of them counted.
            self._drain.refuse_stream()
        except Problem as problem:
            self._parting = self._refusal(problem)
        else:
            self._stay = self._drain.enter(self._transport)

    def end(self) -> None:
        """Gives the place back, and what the body holds."""
        if self._stay is not None:
            self._drain.leave(self._stay)
        self.close()

    async def next(self) -> bytes:
        """The next bytes; none at the end, and when the stay is over."""
        if self._stay is not None:
            return await self.chunk(self._stay)
        parting, self._parting = self._parting, b""
        return parting

    @abstractmethod
    async def chunk(self, stay: Stay) -> bytes:
        """As `next`, once there is a place."""

    def close(self) -> None:
        """Gives back what the body holds. Also called when it never began."""
        return


class StreamReply:
    """An answer of status 200 whose body lasts."""

    __slots__ = ("body", "headers")
    status = 200

    def __init__(self, body: StreamBody, headers: Headers) -> None:
        self.body = body
        self.headers = headers


class _QuartBody(ResponseBody):
    def __init__(self, body: StreamBody) -> None:
        self._body = body

    async def __aenter__(self) -> "_QuartBody":
        self._body.begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._body.end()

    def __aiter__(self) -> "_QuartBody":
        return self

    async def __anext__(self) -> bytes:
        data = await self._body.next()
        if not data:
            raise StopAsyncIteration
        return data

    async def convert_to_sequence(self) -> bytes:
        raise TypeError("an endless body has no whole")


def quart_stream(reply: StreamReply) -> Response:
    """A response of Quart's that streams the body, for as long as that takes."""
    response = Response(b"", reply.status, content_type=None)
    response.headers.clear()
    response.headers.extend((name.decode("latin-1"), value.decode("latin-1")) for name, value in reply.headers)
    response.response = _QuartBody(reply.body)
    response.timeout = None  # Quart cuts a response at 60 s otherwise
    return response
