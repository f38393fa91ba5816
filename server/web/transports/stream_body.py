"""A body that counts as a stream: it has its place among those of this process, and ends when the drain says so.

There may be no place left when a response's head has been sent, for others were let in meanwhile. Then the body
is one refusal, in words of its form. It does not know what is streamed.
"""

from abc import abstractmethod
from collections.abc import Callable
from types import TracebackType

from quart import Response
from quart.wrappers.response import ResponseBody

from server.errors import Problem
from server.runtime.stream_drain import Drain, Stay

Refusal = Callable[[Problem], bytes]


class CountedBody(ResponseBody):
    """The body of a streamed response. Those who make one implement `chunk`, and `close` if they hold anything."""

    def __init__(self, drain: Drain, refusal: Refusal, transport: str = "other") -> None:
        self._drain = drain
        self._transport = transport
        self._refusal = refusal
        self._parting: bytes | None = None
        self._stay: Stay | None = None

    async def __aenter__(self) -> "CountedBody":
        try:
            # Asked again, and the place taken without an await between: a hundred streams that come at once were
            # all let in before the first of them counted.
            self._drain.refuse_stream()
        except Problem as problem:
            self._parting = self._refusal(problem)
        else:
            self._stay = self._drain.enter(self._transport)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stay is not None:
            self._drain.leave(self._stay)
        self.close()

    def __aiter__(self) -> "CountedBody":
        return self

    async def __anext__(self) -> bytes:
        if self._stay is not None:
            return await self.chunk(self._stay)
        if self._parting is None:
            raise StopAsyncIteration
        parting, self._parting = self._parting, None
        return parting

    @abstractmethod
    async def chunk(self, stay: Stay) -> bytes:
        """The next bytes; raises `StopAsyncIteration` at the end, and when the stay is over."""

    def close(self) -> None:
        """Gives back what the body holds. Also called when it never began."""

    async def convert_to_sequence(self) -> bytes:
        raise TypeError("an endless body has no whole")


def streamed(body: CountedBody, headers: dict[str, str], media_type: str) -> Response:
    """A response that streams the body, for as long as that takes."""
    response = Response(b"", 200, headers=headers, content_type=media_type)
    response.response = body
    response.headers.pop("Content-Length", None)
    response.timeout = None  # Quart cuts a response at 60 s otherwise
    return response
