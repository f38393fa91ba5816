"""One HTTP/2 stream: a request and its response, or a WebSocket, as ASGI's `receive` and `send`.

Owns the request's body until the app takes it, and decides when the client's flow-control window is given back.
The app runs in a task with a cancel scope of its own, which is cancelled when the client resets the stream. It
must not know frames: the connection (`http2_connection.py`) tells it what has come, and its writer takes what may
be sent.
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
    in_own_context,
    problem_messages,
)
from server.http.connection import GRACE_SECONDS, ServerState, WakeSignal
from server.http.connection_limits import ByteShare
from server.http.http2.http2_writer import SendBuffer, SendState
from server.http.transport import SLICE_BYTES
from server.http.websocket import WebSocket, WebSocketHandshake
from server.observability import logs
from server.problem import Problem

log = logs.get("http")

MAX_QUEUED_BYTES = 32_768
"""When so much of a request's body waits for the app, the client gets no window for more."""
SMALL_BYTES = 1_024
"""A response of so few bytes is never refused for lack of budget: the refusal would be as long."""
_CONNECTION_HEADERS = frozenset((b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"date"))


class StreamConnection(Protocol):
    """What a stream needs of its connection. No method waits."""

    server: ServerState
    budget: ByteShare

    def send_head(self, stream: "Http2Stream", status: int, headers: Headers, *, ended: bool) -> None:
        """Sends a response's head. `ended`: no body follows."""
        ...

    def queue(self, stream: "Http2Stream") -> None:
        """The stream has bytes to send, or has ended."""
        ...

    def acknowledge(self, stream_id: int, size: int) -> None:
        """Gives back so many bytes of the stream's and the connection's window (RFC 9113 section 5.2)."""
        ...

    def forget(self, stream: "Http2Stream") -> None:
        """The app's task has ended."""
        ...


class Http2Stream:
    """One stream. The app calls `receive` and `send`, the connection the rest.

    One task reads for all streams of a connection, so the queue of the request's body must never make it wait.
    What bounds the queue is flow control: while it is long, the client's window is not given back, and the client
    may send no more.

    `length`: the request's Content-Length, or None. `malformed` becomes true when the body has another length (RFC
    9113 section 8.1.1). `expects`: the client waits for 100 Continue. `problem`: the response, without running the
    app; None to run it.
    """

    __slots__ = (
        "_body",
        "_body_ended",
        "_body_left",
        "_body_told",
        "_changed",
        "_connection",
        "_expects",
        "_left",
        "_problem",
        "_queued_bytes",
        "_scope",
        "_silent",
        "_start",
        "_state",
        "_unacknowledged",
        "_unwanted",
        "endless",
        "malformed",
        "running",
        "send_buffer",
        "socket",
        "stream_id",
        "task_scope",
    )

    def __init__(
        self,
        connection: StreamConnection,
        stream_id: int,
        scope: Message,
        *,
        upgrades: bool,
        length: int | None = None,
        expects: bool = False,
        problem: Problem | None = None,
    ) -> None:
        self.stream_id = stream_id
        self.send_buffer = SendBuffer(stream_id, connection.budget)
        self.running = True
        self.endless = self.malformed = False
        self.task_scope = trio.CancelScope()
        self.socket: WebSocket | None = None
        self._connection = connection
        self._scope = scope
        self._body_left = length
        self._expects = expects
        self._problem = problem
        self._body: list[bytes] = []  # it has few parts; an empty deque would take half a kilobyte
        self._queued_bytes = 0
        self._unacknowledged = 0
        self._body_ended = self._body_told = False
        self._changed = WakeSignal()
        self._state = ResponseState.EXPECTED
        self._start: Message = {}
        self._left: int | None = None
        self._silent = self._unwanted = False
        if upgrades:
            handshake = WebSocketHandshake(scope["headers"], needs_key=False)
            limit = connection.server.options.websocket_bytes
            self.socket = WebSocket(scope, handshake, _Http2WebSocketTransport(self), limit, self._expire)
            self._problem = handshake.problem

    # -- from the client

    async def received(self, data: bytes, size: int) -> None:
        """Takes a piece of the request's body. `size`: its cost in window, padding included. Never waits."""
        self._unacknowledged += size
        if self._body_left is not None:
            self._body_left -= len(data)
            self.malformed = self._body_left < 0
        if data and self.socket is not None:
            if self.socket.state.name == "CONNECTING":
                problem = Problem(400, "bad_request", "The WebSocket is not open yet.")
                await self.socket.refuse(problem, self._connection.server.options.encode_problem(problem))
            else:
                self._reply(self.socket.feed(data))
        elif data and not self._body_ended:
            self._body.append(data)
            self._queued_bytes += len(data)
            self._changed.wake()
        self.give_window()

    def request_ended(self) -> None:
        """The client has sent END_STREAM. It ends a WebSocket, even without a close frame (RFC 8441 section 5)."""
        self.malformed = bool(self._body_left)
        if self.malformed:
            return  # the app must not take a part of the body for the whole
        if self.socket is not None:
            self.socket.end()
        else:
            self._body_ended = True
            self._changed.wake()

    def cut(self) -> None:
        """The client has reset the stream, or the connection has ended it."""
        self.send_buffer.close()
        self.settle_window()
        if self.socket is not None:
            self.socket.end()
        else:
            self.task_scope.cancel()

    def stalled(self, now: float, longest: float) -> bool:
        """Whether the client has taken no byte of a response that has an end for `longest` seconds."""
        ends = self.send_buffer.state is SendState.ENDING or (self.socket is None and not self.endless)
        return ends and len(self.send_buffer) > 0 and now - self.send_buffer.moved_at >= longest

    def give_window(self) -> None:
        """Gives the window back, unless the queue to the app is long."""
        behind = self.socket.full if self.socket is not None else self._queued_bytes >= MAX_QUEUED_BYTES
        if not behind:
            self.settle_window()

    def settle_window(self) -> None:
        """Gives back the window of all that came, read or not: all streams share the connection's window."""
        if self._unacknowledged:
            self._connection.acknowledge(self.stream_id, self._unacknowledged)
            self._unacknowledged = 0

    def _reply(self, data: bytes) -> None:
        # The connection's reader runs this. It must not wait for room in the buffer: room comes with the client's
        # WINDOW_UPDATE, which only the reader can receive. So pongs that do not fit are dropped: not every ping
        # has to be answered (RFC 6455 section 5.5.3).
        if data and not self.send_buffer.full:
            self.send_buffer.add(data)
            self._connection.queue(self)

    # -- the app

    async def run(self) -> None:
        """Runs the app to its end. It is the stream's task."""
        try:
            with self.task_scope:
                if self.socket is not None:
                    await self._run_socket(self.socket)
                else:
                    await self._run_request()
        finally:
            self.running = False
            self._body.clear()
        self._connection.forget(self)

    async def _run_request(self) -> None:
        if self._problem is not None:
            await self._answer(self._problem)
            return
        try:
            await in_own_context(self._connection.server.app(self._scope, self.receive, self.send))
        except Exception as error:
            log.error("request failed", exc_info=error)
        if self._state in (ResponseState.EXPECTED, ResponseState.STARTED):
            await self._answer(Problem(500, "internal_error", "The server failed; its log says why."))

    async def _run_socket(self, socket: WebSocket) -> None:
        if self._problem is not None:
            await socket.refuse(self._problem, self._connection.server.options.encode_problem(self._problem))
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ping, socket)
            try:
                await in_own_context(self._connection.server.app(socket.scope, socket.receive, socket.send))
            except Exception as error:
                log.error("WebSocket failed", exc_info=error)
            await socket.finish()
            nursery.cancel_scope.cancel()
        self.send_buffer.end()  # which has the close frame in it

    async def _ping(self, socket: WebSocket) -> None:
        await socket.accepted()
        while not socket.over.is_set():
            await socket.ping()
            with trio.move_on_after(self._connection.server.options.ping_seconds):
                await socket.over.wait()

    def _expire(self) -> None:
        now = trio.current_time()
        self.task_scope.deadline = min(self.task_scope.deadline, now + GRACE_SECONDS)

    async def receive(self) -> Message:
        """ASGI's `receive`: the body as it comes; after it, once the response is complete, `http.disconnect`."""
        await trio.lowlevel.checkpoint()
        while self._state is not ResponseState.COMPLETE and not self._body_told:
            if self._body or self._body_ended:
                part = self._body.pop(0) if self._body else b""
                self._queued_bytes -= len(part)
                self.give_window()
                self._body_told = self._body_ended and not self._body
                return {"type": "http.request", "body": part, "more_body": not self._body_told}
            if self._expects and self._state is ResponseState.EXPECTED:  # RFC 9110 section 10.1.1
                self._connection.send_head(self, 100, [], ended=False)
            self._expects = False
            await self._changed.wait()
        while self._state is not ResponseState.COMPLETE:
            await self._changed.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """ASGI's `send`."""
        kind = message["type"]
        if self._unwanted or self._state is ResponseState.COMPLETE or self.send_buffer.state is SendState.CLOSED:
            await trio.lowlevel.checkpoint()
        elif kind == "http.response.start" and self._state is ResponseState.EXPECTED:
            self._start = message
            self._state = ResponseState.STARTED
        elif kind == "http.response.body" and self._state is not ResponseState.EXPECTED:
            await self._send_body(message.get("body", b""), message.get("more_body", False))
        else:
            raise UnexpectedMessage(message, self._state)

    async def _answer(self, problem: Problem) -> None:
        """Sends a whole response in place of the app's."""
        self._state = ResponseState.EXPECTED
        for message in problem_messages(problem, self._connection.server.options.encode_problem(problem)):
            await self.send(message)

    async def _send_body(self, body: bytes, more: bool) -> None:
        budget = self._connection.budget
        size = len(body)
        if self._state is ResponseState.SENDING or size <= SMALL_BYTES:
            budget.add(size)
        elif not budget.take(size):
            await self._answer(
                Problem(503, "overloaded", "Too many answers wait for their readers. Come back.", retry_after=2.0)
            )
            self._unwanted = True
            return
        try:
            if self._state is ResponseState.STARTED:
                self._begin(body, more)
            self._count(size, more)
            if not self._silent:
                view = memoryview(body)
                for start in range(0, len(body), SLICE_BYTES):
                    part = view[start : start + SLICE_BYTES]
                    size -= len(part)
                    budget.give(len(part))  # from here on the buffer counts it
                    self.send_buffer.add(part)
                    if not more and not size:
                        self.send_buffer.end()
                    self._connection.queue(self)
                    await self.send_buffer.wait_for_room()
        finally:
            budget.give(size)
        if not more:
            self.send_buffer.end()
            self._connection.queue(self)
            self._state = ResponseState.COMPLETE
            self.endless = False
            self._changed.wake()

    def _begin(self, body: bytes, more: bool) -> None:
        status = self._start["status"]
        headers = [header for header in self._start.get("headers", ()) if header[0] not in _CONNECTION_HEADERS]
        head_only = self._scope["method"] == "HEAD"
        length: int | None = None
        announced = next((int(value) for name, value in headers if name == b"content-length"), None)
        if status in BODILESS or (head_only and not announced):  # how long the body of a GET would be is not known
            headers = [header for header in headers if header[0] != b"content-length"]
        else:
            length = announced
            if length is None and not more and not head_only:
                length = len(body)
                headers.append((b"content-length", b"%d" % length))
        headers.append((b"date", date()))
        self._silent = head_only or status in BODILESS
        self._left = None if self._silent else length
        self.endless = more and length is None and not self._silent
        self._state = ResponseState.SENDING
        self._connection.send_head(self, status, headers, ended=False)

    def _count(self, size: int, more: bool) -> None:
        if self._left is not None:
            self._left -= size
            if self._left < 0 or (self._left and not more):
                raise ValueError("the answer's body has another length than its Content-Length")

    # -- how its WebSocket sends

    async def send_frames(self, data: bytes) -> None:
        """Sends a WebSocket's frames, added at once: a pong must not get between two halves of a frame."""
        self.send_buffer.add(data)
        self._connection.queue(self)
        await self.send_buffer.wait_for_room()

    def send_websocket_head(self, status: int, headers: Headers) -> None:
        """Sends the head of the response to a WebSocket's handshake."""
        kept = [header for header in headers if header[0] not in _CONNECTION_HEADERS]
        self._connection.send_head(self, status, [*kept, (b"date", date())], ended=False)

    def send_refusal_body(self, body: bytes) -> None:
        """Sends the whole body of the response that refuses a WebSocket."""
        self.send_buffer.add(body)
        self.send_buffer.end()
        self._connection.queue(self)


class _Http2WebSocketTransport:
    """How a WebSocket sends on HTTP/2."""

    __slots__ = ("_stream",)

    def __init__(self, stream: Http2Stream) -> None:
        self._stream = stream

    async def accept(self, headers: Headers) -> None:
        """Sends 200 (RFC 8441 section 5)."""
        self._stream.send_websocket_head(200, headers)

    async def refuse(self, status: int, headers: Headers, body: bytes) -> None:
        """Sends a whole response. Never waits: the connection's reader may call it, too."""
        self._stream.send_websocket_head(status, headers)
        self._stream.send_refusal_body(body)

    async def send(self, data: bytes) -> None:
        """Sends frames."""
        await self._stream.send_frames(data)

    def taken(self) -> None:
        """Gives the window back, if the queue has become short enough."""
        self._stream.give_window()
