"""One request and its answer on an HTTP/2 connection, speaking ASGI to the app, with both directions' bytes.

Owns the request's body until the app takes it, and when the client is given window again. It knows no frames: the
connection (`http2.py`) tells it what came and asks it what may go out. The app runs in a task with a scope of its
own; when the client takes the stream back, the scope is cancelled.
"""

from typing import Protocol

import trio

from server import logs
from server.errors import Problem
from server.http.asgi import (
    BODILESS,
    Headers,
    Message,
    UnexpectedMessage,
    date,
    in_own_context,
    problem_messages,
)
from server.http.connection import GRACE_SECONDS, Serving
from server.http.h2_send_buffer import SendBuffer, Side
from server.http.transport import SLICE_BYTES
from server.http.websocket import Handshake, WebSocket

log = logs.get("host")

WAITING_BYTES = 32_768
"""So much of a request's body may wait for the app while its client still gets window."""
SMALL_BYTES = 1_024
"""An answer of so few bytes is never refused for what others hold: the refusal would be as long."""
_CONNECTION_HEADERS = frozenset((b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"date"))

_REQUEST, _STARTED, _BODY, _DONE = range(4)


class Owner(Protocol):
    """What a stream asks of its connection. None of it waits."""

    serving: Serving

    def send_head(self, stream: "Http2Stream", status: int, headers: Headers, *, ended: bool) -> None:
        """Sends an answer's head."""
        ...

    def queue(self, stream: "Http2Stream") -> None:
        """The stream has something that may go out, or has ended."""
        ...

    def acknowledge(self, stream_id: int, size: int) -> None:
        """Gives the client window again for so many bytes."""
        ...

    def forget(self, stream: "Http2Stream") -> None:
        """The app has ended."""
        ...


class Http2Stream:
    """One stream. `receive` and `send` are the app's.

    The queue to the app makes nobody wait, for the connection's reader is every stream's: what bounds it is that
    no window is given back while it is long.

    `length` is what the request says of its body; `malformed` is true when the body is another (RFC 9113 section
    8.1.1). `expects`: its client waits to be asked for it. With a `problem` the app is not run: it is the answer.
    """

    __slots__ = (
        "_body",
        "_body_ended",
        "_body_left",
        "_body_told",
        "_changed",
        "_expects",
        "_left",
        "_owner",
        "_problem",
        "_scope",
        "_silent",
        "_start",
        "_state",
        "_unacknowledged",
        "_unwanted",
        "_waiting",
        "endless",
        "malformed",
        "outgoing",
        "running",
        "socket",
        "stream_id",
        "task_scope",
    )

    def __init__(
        self,
        owner: Owner,
        stream_id: int,
        scope: Message,
        *,
        upgrades: bool,
        length: int | None = None,
        expects: bool = False,
        problem: Problem | None = None,
    ) -> None:
        self.stream_id = stream_id
        self.outgoing = SendBuffer(owner.serving.budget)
        self.running = True
        self.endless = self.malformed = False
        self.task_scope = trio.CancelScope()
        self.socket: WebSocket | None = None
        self._owner = owner
        self._scope = scope
        self._body_left = length
        self._expects = expects
        self._problem = problem
        self._body: list[bytes] = []  # of few parts: an empty deque has half a kilobyte
        self._waiting = 0
        self._unacknowledged = 0
        self._body_ended = self._body_told = False
        self._changed: trio.Event | None = None
        self._state = _REQUEST
        self._start: Message = {}
        self._left: int | None = None
        self._silent = self._unwanted = False
        if upgrades:
            handshake = Handshake(scope["headers"], needs_key=False)
            limit = owner.serving.options.websocket_bytes
            self.socket = WebSocket(scope, handshake, _Carrier(self), limit, self._expire)
            self._problem = handshake.problem

    # -- from the client

    async def received(self, data: bytes, size: int) -> None:
        """A piece of the request's body, and what it cost of the window. Does not wait."""
        self._unacknowledged += size
        if self._body_left is not None:
            self._body_left -= len(data)
            self.malformed = self._body_left < 0
        if data and self.socket is not None:
            if self.socket.state.name == "CONNECTING":
                problem = Problem(400, "bad_request", "The WebSocket is not open yet.")
                await self.socket.refuse(problem, self._owner.serving.options.encode_problem(problem))
            else:
                self._reply(self.socket.feed(data))
        elif data and not self._body_ended:
            self._body.append(data)
            self._waiting += len(data)
            self._wake()
        self.give_window()

    def request_ended(self) -> None:
        """The client has said all. To a WebSocket that is its end (RFC 8441 section 5), said or unsaid."""
        self.malformed = bool(self._body_left)
        if self.malformed:
            return  # the app must not take what has come for the whole
        if self.socket is not None:
            self.socket.end()
        else:
            self._body_ended = True
            self._wake()

    def cut(self) -> None:
        """The client wants no answer, or is gone."""
        self.outgoing.close()
        self.settle_window()
        if self.socket is not None:
            self.socket.end()
        else:
            self.task_scope.cancel()

    def stalled(self, now: float, longest: float) -> bool:
        """Whether an answer that has an end has been held for so long (seconds), and no byte of it was taken."""
        ends = self.outgoing.side is Side.ENDING or (self.socket is None and not self.endless)
        return ends and len(self.outgoing) > 0 and now - self.outgoing.moved_at >= longest

    def give_window(self) -> None:
        """Lets the client send more, if the app is not behind."""
        behind = self.socket.full if self.socket is not None else self._waiting >= WAITING_BYTES
        if not behind:
            self.settle_window()

    def settle_window(self) -> None:
        """Gives back the window of all that came, read or not: it is every stream's."""
        if self._unacknowledged:
            self._owner.acknowledge(self.stream_id, self._unacknowledged)
            self._unacknowledged = 0

    def _reply(self, data: bytes) -> None:
        # The connection's reader must not wait for window that only it can bring; and of pings that nobody takes
        # the answers of, some may stay without (RFC 6455 section 5.5.3).
        if data and not self.outgoing.full:
            self.outgoing.add(data)
            self._owner.queue(self)

    # -- the app

    async def run(self) -> None:
        """The task of the stream."""
        try:
            with self.task_scope:
                if self.socket is not None:
                    await self._run_socket(self.socket)
                else:
                    await self._run_request()
        finally:
            self.running = False
            self._body.clear()
        self._owner.forget(self)

    async def _run_request(self) -> None:
        if self._problem is not None:
            await self._answer(self._problem)
            return
        try:
            await in_own_context(self._owner.serving.app(self._scope, self.receive, self.send))
        except Exception as error:
            log.error("request failed", exc_info=error)
        if self._state in (_REQUEST, _STARTED):
            await self._answer(Problem(500, "internal_error", "The server failed; its log says why."))

    async def _run_socket(self, socket: WebSocket) -> None:
        if self._problem is not None:
            await socket.refuse(self._problem, self._owner.serving.options.encode_problem(self._problem))
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ping, socket)
            try:
                await in_own_context(self._owner.serving.app(socket.scope, socket.receive, socket.send))
            except Exception as error:
                log.error("WebSocket failed", exc_info=error)
            await socket.finish()
            nursery.cancel_scope.cancel()
        self.outgoing.end()  # its close frame is in there

    async def _ping(self, socket: WebSocket) -> None:
        await socket.accepted()
        while not socket.over.is_set():
            await socket.ping()
            with trio.move_on_after(self._owner.serving.options.ping_seconds):
                await socket.over.wait()

    def _expire(self) -> None:
        now = trio.current_time()
        self.task_scope.deadline = min(self.task_scope.deadline, now + GRACE_SECONDS)

    async def receive(self) -> Message:
        """ASGI's `receive`: the body as it comes; behind it, when all is over, `http.disconnect`."""
        await trio.lowlevel.checkpoint()
        while self._state is not _DONE and not self._body_told:
            if self._body or self._body_ended:
                part = self._body.pop(0) if self._body else b""
                self._waiting -= len(part)
                self.give_window()
                self._body_told = self._body_ended and not self._body
                return {"type": "http.request", "body": part, "more_body": not self._body_told}
            if self._expects and self._state is _REQUEST:  # RFC 9110 section 10.1.1
                self._owner.send_head(self, 100, [], ended=False)
            self._expects = False
            await self._wait()
        while self._state is not _DONE:
            await self._wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """ASGI's `send`."""
        kind = message["type"]
        if self._unwanted or self._state is _DONE or self.outgoing.side is Side.OVER:
            await trio.lowlevel.checkpoint()
        elif kind == "http.response.start" and self._state is _REQUEST:
            self._start = message
            self._state = _STARTED
        elif kind == "http.response.body" and self._state is not _REQUEST:
            await self._send_body(message.get("body", b""), message.get("more_body", False))
        else:
            raise UnexpectedMessage(message, self._state)

    async def _answer(self, problem: Problem) -> None:
        """The whole answer, in place of the app's."""
        self._state = _REQUEST
        for message in problem_messages(problem, self._owner.serving.options.encode_problem(problem)):
            await self.send(message)

    async def _send_body(self, body: bytes, more: bool) -> None:
        budget = self._owner.serving.budget
        size = len(body)
        if self._state is _BODY or size <= SMALL_BYTES:
            budget.add(size)
        elif not budget.take(size):
            await self._answer(
                Problem(503, "overloaded", "Too many answers wait for their readers. Come back.", retry_after=2.0)
            )
            self._unwanted = True
            return
        try:
            if self._state is _STARTED:
                self._begin(body, more)
            self._count(size, more)
            if not self._silent:
                view = memoryview(body)
                for start in range(0, len(body), SLICE_BYTES):
                    part = view[start : start + SLICE_BYTES]
                    size -= len(part)
                    budget.give(len(part))  # it is counted in the buffer from here on
                    self.outgoing.add(part)
                    if not more and not size:
                        self.outgoing.end()
                    self._owner.queue(self)
                    await self.outgoing.room()
        finally:
            budget.give(size)
        if not more:
            self.outgoing.end()
            self._owner.queue(self)
            self._state = _DONE
            self.endless = False
            self._wake()

    def _begin(self, body: bytes, more: bool) -> None:
        status = self._start["status"]
        headers = [header for header in self._start.get("headers", ()) if header[0] not in _CONNECTION_HEADERS]
        head_only = self._scope["method"] == "HEAD"
        length: int | None = None
        announced = next((int(value) for name, value in headers if name == b"content-length"), None)
        if status in BODILESS or (head_only and not announced):  # nothing is known of what GET would give
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
        self._state = _BODY
        self._owner.send_head(self, status, headers, ended=False)

    def _count(self, size: int, more: bool) -> None:
        if self._left is not None:
            self._left -= size
            if self._left < 0 or (self._left and not more):
                raise ValueError("the answer's body has another length than its Content-Length")

    async def _wait(self) -> None:
        if self._changed is None:
            self._changed = trio.Event()
        await self._changed.wait()

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    # -- as a WebSocket's carrier

    async def say(self, data: bytes) -> None:
        """Frames of a WebSocket, whole: a pong must not come between their halves."""
        self.outgoing.add(data)
        self._owner.queue(self)
        await self.outgoing.room()

    def say_head(self, status: int, headers: Headers) -> None:
        """The head of a WebSocket's answer."""
        kept = [header for header in headers if header[0] not in _CONNECTION_HEADERS]
        self._owner.send_head(self, status, [*kept, (b"date", date())], ended=False)

    def say_last(self, body: bytes) -> None:
        """The whole body of a refused WebSocket's answer."""
        self.outgoing.add(body)
        self.outgoing.end()
        self._owner.queue(self)


class _Carrier:
    """A WebSocket's way on HTTP/2."""

    __slots__ = ("_stream",)

    def __init__(self, stream: Http2Stream) -> None:
        self._stream = stream

    async def accept(self, headers: Headers) -> None:
        """200 (RFC 8441 section 5)."""
        self._stream.say_head(200, headers)

    async def refuse(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer. Does not wait: the connection's reader gives it, too."""
        self._stream.say_head(status, headers)
        self._stream.say_last(body)

    async def send(self, data: bytes) -> None:
        """Frames."""
        await self._stream.say(data)

    def taken(self) -> None:
        """The app has taken a message."""
        self._stream.give_window()
