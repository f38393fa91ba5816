"""One HTTP/1.1 request and its response (RFC 9112), as ASGI's `receive` and `send`.

Owns the request's body until the app takes it, the framing of the response's body, and whether another request may
follow on the connection. It reads the body from a `BodySource`, which keeps the bytes after it. It must not know
the requests before and after its own.
"""

from typing import Protocol

import trio

from server.http.asgi import (
    BODILESS,
    Headers,
    Message,
    ResponseState,
    UnexpectedMessage,
    date,
    problem_messages,
    status_line,
)
from server.http.connection import AcceptedConnection, WakeSignal
from server.http.http1.http1_parser import ChunkedBody, LengthBody, RequestHead
from server.http.transport import SLICE_BYTES
from server.problem import Problem

LARGE_BYTES = 2 * SLICE_BYTES
"""A body of this size or more is not copied into one write with its head, and counts in the byte budget until the
client has taken it."""
_FRAMING_HEADERS = frozenset((b"content-length", b"transfer-encoding", b"connection", b"date", b"keep-alive"))


class BodySource(Protocol):
    """Where the bytes of a request's body come from."""

    async def read(self) -> bytes:
        """Returns bytes of the body, received already or awaited; empty when the client has closed."""
        ...

    def take_unread(self) -> bytes:
        """Takes the bytes that were received already."""
        ...

    @property
    def unread_size(self) -> int:
        """How many bytes were received already and not taken."""
        ...

    def put_back(self, data: bytes) -> None:
        """Gives back bytes that follow the body: the next request."""
        ...


def finish_head(lines: list[bytes], headers: Headers) -> bytes:
    """Encodes a head from its first lines and headers. Raises `ValueError` if a header contains a line end."""
    count = len(lines) + len(headers) + 1
    lines += [b"%b: %b\r\n" % header for header in headers]
    lines.append(b"\r\n")
    head = b"".join(lines)
    # If the app copies a client's text into a header, the client must not be able to add headers of its own.
    if head.count(b"\n") != count or head.count(b"\r") != count:
        raise ValueError("a header of the answer holds the end of a line")
    return head


class Http1Exchange:
    """One request and its response. The app calls `receive` and `send`.

    `keeps`: whether another request may follow; it holds once the response is complete. `endless`: the response is
    a stream of unknown length, not ended yet. `bad_body`: what is wrong with the request's body, or None.
    """

    __slots__ = (
        "_body",
        "_body_told",
        "_chunked",
        "_completed",
        "_connection",
        "_cut",
        "_expects",
        "_head",
        "_left",
        "_silent",
        "_source",
        "_start",
        "_state",
        "_unwanted",
        "bad_body",
        "endless",
        "keeps",
    )

    def __init__(self, source: BodySource, connection: AcceptedConnection, head: RequestHead | None) -> None:
        self.keeps = head is not None and head.keep_alive and not head.upgrades
        self.endless = False
        self.bad_body: Problem | None = None
        self._source = source
        self._connection = connection
        self._head = head
        self._body: LengthBody | ChunkedBody | None = None
        if head is not None and head.length != 0:
            self._body = ChunkedBody() if head.length is None else LengthBody(head.length)
        self._body_told = False
        self._expects = head is not None and head.expects_continue
        self._state = ResponseState.EXPECTED
        self._start: Message = {}
        self._left: int | None = None  # bytes of the announced length that are not sent yet
        self._chunked = False
        self._silent = False  # the response has no body, whatever the app sends
        self._cut = False
        self._unwanted = False  # another response has replaced the app's, whose messages are dropped
        self._completed = WakeSignal()

    @property
    def sending(self) -> bool:
        """Whether a response that has an end is being sent."""
        return self._state is ResponseState.SENDING and not self.endless

    # -- the request

    async def receive(self) -> Message:
        """ASGI's `receive`: the body as it comes; after it, once the response is complete, `http.disconnect`.

        The app does not learn from it that the client has left: then its task is cancelled.
        """
        if self._state is not ResponseState.COMPLETE and not self._body_told:
            if self._body is None:
                self._body_told = True
                return {"type": "http.request", "body": b"", "more_body": False}
            return await self._receive_body(self._body)
        if self._state is not ResponseState.COMPLETE:
            await self._completed.wait()
        await trio.lowlevel.checkpoint()
        return {"type": "http.disconnect"}

    async def _receive_body(self, body: LengthBody | ChunkedBody) -> Message:
        if self._expects:
            self._expects = False
            if self._state is ResponseState.EXPECTED:
                await self._connection.transport.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        part = b""
        while not part and not body.complete:
            data = await self._source.read()
            if not data:  # the client has closed in the middle of the body
                self._connection.client_gone()
                await trio.lowlevel.checkpoint()
                return {"type": "http.disconnect"}
            try:
                part, rest = body.feed(data)
            except Problem as problem:
                self.bad_body = problem
                raise
            self._source.put_back(rest)
            if self._state is ResponseState.COMPLETE:
                break
        self._body_told = body.complete
        return {"type": "http.request", "body": part, "more_body": not body.complete}

    # -- the response

    async def send(self, message: Message) -> None:
        """ASGI's `send`. Not always a checkpoint."""
        kind = message["type"]
        if self._unwanted or self._state is ResponseState.COMPLETE:
            await trio.lowlevel.checkpoint()
        elif kind == "http.response.start" and self._state is ResponseState.EXPECTED:
            self._start = message
            self._state = ResponseState.STARTED
        elif kind == "http.response.body" and self._state is not ResponseState.EXPECTED:
            body, more = message.get("body", b""), message.get("more_body", False)
            if len(body) >= LARGE_BYTES:
                await self._send_large(body, more)
            else:
                await self._send(self._frame(body, more))
            if not more:
                self._end()
        else:
            raise UnexpectedMessage(message, self._state)

    async def answer(self, problem: Problem) -> None:
        """Sends a whole response in place of the app's."""
        self._state = ResponseState.EXPECTED
        for message in problem_messages(problem, self._connection.server.options.encode_problem(problem)):
            await self.send(message)

    async def settle(self) -> None:
        """Finishes what the app has left open: it drops the request's body, or ends the connection."""
        if self._state is ResponseState.COMPLETE:
            if self._body is not None and not self._body.complete and self.keeps:
                self._source.put_back(self._body.feed(self._source.take_unread())[1])
            return
        self.keeps = False
        if self._state is ResponseState.SENDING:
            self._connection.transport.broken = True  # a truncated response must not look complete
        elif self.bad_body is not None:
            await self.answer(self.bad_body)
        else:
            await self.answer(Problem(500, "internal_error", "The server failed; its log says why."))

    async def _send(self, *parts: bytes) -> None:
        """Sends the parts of one message. If it is cancelled between them, nothing more can be sent."""
        transport = self._connection.transport
        if self._cut:  # the last call was
            transport.broken = True
        self._cut = True
        for part in parts:
            if part:
                await transport.send(part)
        self._cut = False

    async def _send_large(self, body: bytes, more: bool) -> None:
        budget = self._connection.budget
        if self._state is ResponseState.SENDING:
            budget.add(len(body))  # the response has begun and can no longer be refused
        elif not budget.take(len(body)):
            await self.answer(
                Problem(503, "overloaded", "Too many answers wait for their readers. Come back.", retry_after=2.0)
            )
            self._unwanted = True
            return
        try:
            await self._send(*self._parts(body, more))
        finally:
            budget.give(len(body))

    def _frame(self, body: bytes, more: bool) -> bytes:
        return b"".join(self._parts(body, more))

    def _parts(self, body: bytes, more: bool) -> list[bytes]:
        """What goes on the wire for a part of the body; the first part has the head in front of it."""
        head = self._begin(body, more) if self._state is ResponseState.STARTED else b""
        if self._silent:
            parts = [head]
        elif self._chunked:  # RFC 9112 section 7.1
            parts = [head, b"%x\r\n" % len(body), body, b"\r\n"] if body else [head]
            if not more:
                parts.append(b"0\r\n\r\n")
        else:
            if self._left is not None:
                self._left -= len(body)
                if self._left < 0 or (self._left and not more):
                    raise ValueError("the answer's body has another length than its Content-Length")
            parts = [head, body]
        self._state = ResponseState.SENDING
        return parts

    def _begin(self, body: bytes, more: bool) -> bytes:
        """Encodes the head, and decides how the body ends (RFC 9112 section 6.3)."""
        status = self._start["status"]
        method, version = ("GET", "1.1") if self._head is None else (self._head.method, self._head.version)
        length: int | None = None
        options: list[bytes] = []
        headers: Headers = []
        for header in self._start.get("headers", ()):
            name, value = header
            if name not in _FRAMING_HEADERS:
                headers.append(header)
            elif name == b"content-length":
                length = int(value)
            elif name == b"connection":
                options += [option.strip() for option in value.split(b",")]
        bodiless = status in BODILESS
        self._silent = bodiless or method == "HEAD"
        if bodiless or (method == "HEAD" and not length):  # how long the body of a GET would be is not known
            length = None
        elif length is None and not more and not self._silent:
            length = len(body)
        self._left = length
        self._chunked = length is None and not self._silent and version == "1.1"
        until_close = length is None and not self._silent and version == "1.0"
        closes = b"close" in options or self._connection.server.closing or until_close
        self.keeps = self.keeps and not closes and self._body_received()
        if not self.keeps and b"close" not in options:
            options.append(b"close")
        elif self.keeps and version == "1.0":
            options.append(b"keep-alive")
        lines = [status_line(status)]
        headers.append((b"date", date()))
        if length is not None:
            headers.append((b"content-length", b"%d" % length))
        elif self._chunked:
            headers.append((b"transfer-encoding", b"chunked"))
        if options:
            headers.append((b"connection", b", ".join(options)))
        self.endless = more and length is None and not self._silent
        if self._connection.finished:
            if self.endless:
                self._connection.client_gone()
            else:
                # The response has begun in time, and is sent to its end.
                self._connection.scope.deadline = float("inf")
        return finish_head(lines, headers)

    def _body_received(self) -> bool:
        """Whether the client has sent the whole body of its request."""
        body = self._body
        if body is None or body.complete:
            return True
        return isinstance(body, LengthBody) and body.left <= self._source.unread_size

    def _end(self) -> None:
        self._state = ResponseState.COMPLETE
        self.endless = False
        if self._connection.finished:
            self._connection.expire()
        self._completed.wake()
