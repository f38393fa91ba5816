"""One request of HTTP/1.1 and its answer (RFC 9112), as ASGI's `receive` and `send`.

Owns the request's body until the app takes it, how the answer's body ends, and whether another request may follow
on the connection. It reads through the connection's protocol (`http1.py`), which knows what else has come, and
knows nothing of the requests before and behind it.
"""

from typing import Protocol

import trio

from server.errors import Problem
from server.http.asgi import (
    BODILESS,
    Headers,
    Message,
    UnexpectedMessage,
    date,
    problem_messages,
    status_line,
)
from server.http.connection import Connection
from server.http.http1_parser import ChunkedBody, LengthBody, RequestHead
from server.http.transport import SLICE_BYTES

LARGE_BYTES = 2 * SLICE_BYTES
"""From here on a body is sent by itself, and counted until its client has taken it."""
_FRAMING = frozenset((b"content-length", b"transfer-encoding", b"connection", b"date", b"keep-alive"))

_REQUEST, _STARTED, _BODY, _DONE = range(4)


class BodySource(Protocol):
    """Where the bytes of a request's body come from."""

    async def read(self) -> bytes:
        """Bytes of the body: what is here, or what comes; none at the client's end."""
        ...

    def take_rest(self) -> bytes:
        """What has been read of it already."""
        ...

    @property
    def rest_size(self) -> int:
        """How many bytes have been read of it, and not been taken."""
        ...

    def put_back(self, data: bytes) -> None:
        """What was read behind the body: the next request."""
        ...


def finish_head(lines: list[bytes], headers: Headers) -> bytes:
    """A head from its first lines and headers. Raises `ValueError` where a header would be more than one line."""
    count = len(lines) + len(headers) + 1
    lines += [b"%b: %b\r\n" % header for header in headers]
    lines.append(b"\r\n")
    head = b"".join(lines)
    # An app that puts a client's words in a header must not let it write headers of its own.
    if head.count(b"\n") != count or head.count(b"\r") != count:
        raise ValueError("a header of the answer holds the end of a line")
    return head


class Exchange:
    """One request and its answer. `receive` and `send` are the app's.

    `keeps` says, when the answer is complete, whether another request may follow it.
    """

    __slots__ = (
        "_body",
        "_body_told",
        "_chunked",
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
        "_waiting",
        "bad_body",
        "endless",
        "keeps",
    )

    def __init__(self, source: BodySource, connection: Connection, head: RequestHead | None) -> None:
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
        self._state = _REQUEST
        self._start: Message = {}
        self._left: int | None = None  # of the announced length
        self._chunked = False
        self._silent = False  # the answer has no body, whatever the app sends
        self._cut = False
        self._unwanted = False  # the app's answer has been replaced
        self._waiting: trio.Event | None = None

    @property
    def sending(self) -> bool:
        """Whether an answer that has an end is on its way."""
        return self._state is _BODY and not self.endless

    # -- the request

    async def receive(self) -> Message:
        """ASGI's `receive`: the body as it comes; behind it, when all is over, `http.disconnect`.

        A client that leaves is not told of this way: the task that would hear of it is cancelled.
        """
        if self._state is not _DONE and not self._body_told:
            if self._body is None:
                self._body_told = True
                return {"type": "http.request", "body": b"", "more_body": False}
            return await self._receive_body(self._body)
        if self._state is not _DONE:
            if self._waiting is None:
                self._waiting = trio.Event()
            await self._waiting.wait()
        await trio.lowlevel.checkpoint()
        return {"type": "http.disconnect"}

    async def _receive_body(self, body: LengthBody | ChunkedBody) -> Message:
        if self._expects:
            self._expects = False
            if self._state is _REQUEST:
                await self._connection.transport.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        part = b""
        while not part and not body.complete:
            data = await self._source.read()
            if not data:  # it ends in the middle
                self._connection.client_gone()
                await trio.lowlevel.checkpoint()
                return {"type": "http.disconnect"}
            try:
                part, rest = body.feed(data)
            except Problem as problem:
                self.bad_body = problem
                raise
            self._source.put_back(rest)
            if self._state is _DONE:
                break
        self._body_told = body.complete
        return {"type": "http.request", "body": part, "more_body": not body.complete}

    # -- the answer

    async def send(self, message: Message) -> None:
        """ASGI's `send`. Not always a checkpoint."""
        kind = message["type"]
        if self._unwanted or self._state is _DONE:
            await trio.lowlevel.checkpoint()
        elif kind == "http.response.start" and self._state is _REQUEST:
            self._start = message
            self._state = _STARTED
        elif kind == "http.response.body" and self._state is not _REQUEST:
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
        """The whole answer, in place of the app's."""
        self._state = _REQUEST
        for message in problem_messages(problem, self._connection.serving.options.encode_problem(problem)):
            await self.send(message)

    async def settle(self) -> None:
        """The app has ended: what it left undone is done, or the connection is to be closed."""
        if self._state is _DONE:
            if self._body is not None and not self._body.complete and self.keeps:
                self._source.put_back(self._body.feed(self._source.take_rest())[1])
            return
        self.keeps = False
        if self._state is _BODY:
            self._connection.transport.broken = True  # what is not all there must not look as if it were
        elif self.bad_body is not None:
            await self.answer(self.bad_body)
        else:
            await self.answer(Problem(500, "internal_error", "The server failed; its log says why."))

    async def _send(self, *parts: bytes) -> None:
        """Sends parts that are one: cut off between them, the connection can carry nothing more."""
        transport = self._connection.transport
        if self._cut:
            transport.broken = True
        self._cut = True
        for part in parts:
            if part:
                await transport.send(part)
        self._cut = False

    async def _send_large(self, body: bytes, more: bool) -> None:
        budget = self._connection.serving.budget
        if self._state is _BODY:
            budget.add(len(body))  # one part of many: it can be neither refused nor put off
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
        """The bytes that go on the wire for a message, with the head in front of the first."""
        head = self._begin(body, more) if self._state is _STARTED else b""
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
        self._state = _BODY
        return parts

    def _begin(self, body: bytes, more: bool) -> bytes:
        """The head of the answer, and how its body ends (RFC 9112 section 6.3)."""
        status = self._start["status"]
        method, version = ("GET", "1.1") if self._head is None else (self._head.method, self._head.version)
        length: int | None = None
        options: list[bytes] = []
        headers: Headers = []
        for header in self._start.get("headers", ()):
            name, value = header
            if name not in _FRAMING:
                headers.append(header)
            elif name == b"content-length":
                length = int(value)
            elif name == b"connection":
                options += [option.strip() for option in value.split(b",")]
        bodiless = status in BODILESS
        self._silent = bodiless or method == "HEAD"
        if bodiless or (method == "HEAD" and not length):  # nothing is known of what GET would give
            length = None
        elif length is None and not more and not self._silent:
            length = len(body)
        self._left = length
        self._chunked = length is None and not self._silent and version == "1.1"
        until_close = length is None and not self._silent and version == "1.0"
        closes = b"close" in options or self._connection.serving.closing or until_close
        self.keeps = self.keeps and not closes and self._body_is_in()
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
                self._connection.scope.deadline = float("inf")  # it comes about
        return finish_head(lines, headers)

    def _body_is_in(self) -> bool:
        """Whether the client has nothing more to send of its request's body."""
        body = self._body
        if body is None or body.complete:
            return True
        return isinstance(body, LengthBody) and body.left <= self._source.rest_size

    def _end(self) -> None:
        self._state = _DONE
        self.endless = False
        if self._connection.finished:
            self._connection.expire()
        if self._waiting is not None:
            self._waiting.set()
