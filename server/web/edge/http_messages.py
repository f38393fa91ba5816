"""An HTTP request and its response as plain values, for endpoints that no web framework calls; and a request's id.

Owns which headers an endpoint may see and how a query string is read. The dispatcher makes a request from an ASGI
scope, and so do Quart's routes: an endpoint cannot tell which of the two called it, and answers the same bytes.
Names of headers are in lower case on both sides.

The id of each request is `X-Request-ID`, the client's own or a new one, on every response and in every log line. A
WebSocket is one request; the log lines of a run carry the id of the request that started it. The id is a label
that any client may choose, and choose again: nothing may look anything up by it. Two requests with one id only
share it in the log.

A response is whole (`PlainResponse`) or streamed (`StreamResponse`). A log's body counts among the open streams of
this process: its place is taken when the body begins, given back when it ends, over when the drain says so.
Between the check before the response's head and the begin of the body others may have taken the last places. Then
the body is one refusal, written in the stream's own format. Must not know routes, Quart, what is streamed, nor who
sends it.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGISendCallable

from server import ids
from server.auth.credentials import redact
from server.auth.principal import Principal
from server.observability import logs
from server.problem import Problem
from server.runtime.stream_drain import StreamDrain, StreamLease

if TYPE_CHECKING:
    from server.web.edge.authorization import Grant

Headers = Sequence[tuple[bytes, bytes]]
"""Headers as ASGI has them: names in lower case."""
JSON = "application/json"
MAX_PARAMETERS = 100
"""Parameters of a query string that are read; a client that sends more has the rest ignored."""

_LISTS: Mapping[bytes, str] = {b"accept": ", ", b"prefer": ", ", b"if-none-match": ", ", b"cookie": "; "}
"""Headers whose lines are joined if there are several, and what stands between (RFC 9110 section 5.3, RFC 9113
section 8.2.3). Of any other the first counts."""
_PICKED = {
    *_LISTS,
    *(b"host", b"origin", b"last-event-id", b"authorization", b"sec-fetch-site"),
    *(b"idempotency-key", b"content-type", b"content-encoding"),
}


@dataclass(slots=True)
class PlainRequest:
    """One request: the headers that an endpoint may depend on, the query's parameters, and the body of a POST.

    `grant`: who makes it, and for how long they may; set before an endpoint is called, on every route that is not
    open to everybody. `scope`: of ASGI, for what few requests are asked. `receive`: of ASGI, where the endpoint
    reads the body by itself; then `body` is empty.
    """

    method: str
    headers: Mapping[str, str]
    args: Mapping[str, str]
    body: bytes = b""
    grant: "Grant | None" = None
    scope: Mapping[str, Any] = field(default_factory=dict, repr=False)
    receive: ASGIReceiveCallable | None = field(default=None, repr=False)

    @property
    def granted(self) -> "Grant":
        """The grant. Raises `RuntimeError` where nobody has asked for one: a route without its check."""
        if self.grant is None:
            raise RuntimeError("an endpoint was called before anybody asked who calls it")
        return self.grant

    @property
    def principal(self) -> Principal:
        """Who makes the request. Raises as `granted`."""
        return self.granted.principal

    def log_keys(self) -> Mapping[str, str]:
        """Who makes the request, for log lines; nothing while that is not known, or where nobody has to sign
        in."""
        return {} if self.grant is None else self.grant.log_keys()

    def limit_headers(self) -> Headers:
        """The headers that tell who makes the request of their limits; none where there are none."""
        return () if self.grant is None else self.grant.limit_headers()

    @classmethod
    def from_scope(cls, scope: Mapping[str, Any], body: bytes = b"") -> "PlainRequest":
        """From an ASGI scope, of HTTP or of a WebSocket."""
        return cls(
            scope.get("method", "GET"),
            pick_headers(scope["headers"]),
            query_args(scope["query_string"]),
            body,
            scope=scope,
        )


@dataclass(frozen=True, slots=True)
class PlainResponse:
    """A whole response. Whoever sends it adds `Content-Length`."""

    status: int
    headers: Headers = ()
    body: bytes = b""


def pick_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The headers that endpoints may see, as text, by name."""
    found: dict[str, str] = {}
    for name, value in headers:
        if name in _PICKED:
            text, key = value.decode("latin-1"), name.decode()
            if key not in found:
                found[key] = text
            elif name in _LISTS:
                found[key] += _LISTS[name] + text
    return found


def query_args(query: bytes) -> dict[str, str]:
    """The parameters of a query string. Of one that is given twice the first counts; bad UTF-8 becomes U+FFFD."""
    if not query:
        return {}
    found: dict[str, str] = {}
    pairs = query.decode("latin-1").split("&", MAX_PARAMETERS)[:MAX_PARAMETERS]
    for name, value in parse_qsl("&".join(pairs), keep_blank_values=True, errors="replace"):
        found.setdefault(name, value)
    return found


def end_line(body: bytes) -> bytes:
    """A JSON text with a newline at its end: without it a shell prints its prompt right after curl's output."""
    return body + b"\n"


log = logs.get("web")

REQUEST_ID = b"x-request-id"
NOSNIFF = (b"x-content-type-options", b"nosniff")
_ACCEPTED = re.compile(rb"[\x21-\x7e]{1,128}")
_RESPONSE_STARTS = ("http.response.start", "websocket.accept", "websocket.http.response.start")


class RequestIds:
    """An ASGI app around the framework's: the dispatcher does the same for what it answers itself."""

    def __init__(self, app: ASGIFramework) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Binds the request's id to its log lines, and adds it to the headers of the response."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        request = request_id(scope["headers"])
        added = common_headers(request)

        async def send_with_headers(message: Any) -> None:
            if message["type"] in _RESPONSE_STARTS:
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        with logs.scope(request=request):
            try:
                await self._app(scope, receive, send_with_headers)
            except* ResponseCut as group:  # in a group where the request has a body
                why = "; ".join(map(str, group.exceptions))
                log.info("response cut", path=scope["path"], why=why)


def common_headers(request: str) -> Headers:
    """The headers of every response: the request's id, and `X-Content-Type-Options: nosniff`.

    Without the second (https://fetch.spec.whatwg.org/#x-content-type-options-header) a browser might render JSON
    with markup in it as a page.
    """
    return ((REQUEST_ID, request.encode("ascii")), NOSNIFF)


def bind_route_ids(route_values: Mapping[str, Any] | None) -> None:
    """Binds the conversation or generation in the request's address to its log lines."""
    name = str((route_values or {}).get("name", ""))
    for kind, prefix in (("conversation", "conv"), ("generation", "gen")):
        if ids.is_valid_id(name, prefix):
            logs.bind(**{kind: name})


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The client's id if it sent one of 1 to 128 visible ASCII characters, once; else a new one.

    Any other bytes could forge log lines or response headers; and a key in it would stand in every line.
    """
    sent = [value for name, value in headers if name.lower() == REQUEST_ID]
    if len(sent) == 1 and _ACCEPTED.fullmatch(sent[0]):
        name = sent[0].decode("ascii")
        if redact(name) == name:
            return name
    return ids.new_id("req")


class ClientGone(Exception):
    """The client went away before its request was whole: there is nobody to answer."""


class ResponseCut(Exception):
    """The rest of a response is not there: the database is away, or the file was removed. No fault of the server.

    Once the head is sent there is no other way to say so than to end the connection, or the stream of it, before
    the length that was announced.
    """


FormatRefusal = Callable[[Problem], bytes]
"""Writes a refusal in the stream's own format."""
SendChunk = Callable[[bytes], Awaitable[None]]


class ResponseChunks(ABC):
    """The body of a streamed response.

    The sender calls `begin`, then `next` until it returns no bytes, then `end` in any case. It may set `send`
    after `begin`: then `next` may send chunks by itself but the one that it returns, and is called less often.
    """

    send: SendChunk | None = None

    def begin(self) -> None:
        """The response is about to be sent."""
        return

    @abstractmethod
    async def next(self) -> bytes:
        """The next bytes; none at the end. Raises `ResponseCut`."""

    def end(self) -> None:
        """Gives back what the body holds."""
        return


class StreamBody(ResponseChunks):
    """A body that counts among the open streams.

    A subclass implements `chunk`, and `close` if it holds anything.
    """

    def __init__(
        self, drain: StreamDrain, grant: "Grant", format_refusal: FormatRefusal, transport: str = "other"
    ) -> None:
        self._drain = drain
        self._grant = grant
        self._transport = transport
        self._format_refusal = format_refusal
        self._refusal = b""
        self._stay: StreamLease | None = None

    def begin(self) -> None:
        """Takes a place among the streams of this process."""
        try:
            # Check again, and take the place without an await between: otherwise a hundred streams that come at
            # once are all let in before the first of them is counted.
            self._grant.check_stream(self._drain)
            self._stay = self._grant.enter(self._drain, self._transport)
        except Problem as problem:
            self._refusal = self._format_refusal(problem)

    def end(self) -> None:
        """Gives the place back, and what the body holds."""
        if self._stay is not None:
            self._drain.leave(self._stay)
        self.close()

    async def next(self) -> bytes:
        """The next bytes; none at the end, and when the time of this stream is over."""
        if self._stay is not None:
            return b"" if self._stay.revoked else await self.chunk(self._stay)
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
    """A response whose body is streamed. What is refused is refused by a `PlainResponse`."""

    body: ResponseChunks
    headers: Headers
    status: int = 200


Response = PlainResponse | StreamResponse
Endpoint = Callable[..., Awaitable[Response]]
"""Called with a `PlainRequest` and the ids in its address, in order. Raises `Problem` and the store's errors."""
