"""A WebSocket (RFC 6455) as ASGI messages, on HTTP/1.1 and on an HTTP/2 stream (RFC 8441).

Owns the handshake, the queue of messages to the app, and how either side closes. wsproto parses the frames. It
must not know sockets or HTTP/2 frames: a `WebSocketTransport` sends its bytes, and the connection's reader feeds
it.

The queue never makes the reader wait, so that the reader always sees a close frame or the client's disconnect,
even behind messages that the app does not take. The reader itself stops reading while more than a mebibyte is
queued.

Compression (RFC 7692) is never negotiated. It costs hundreds of kilobytes for each connection and time for each
token, and a few compressed bytes could become a message of any size before the size limit sees it.
"""

import re
from collections.abc import Callable, Iterable
from enum import Enum, auto
from typing import Protocol

import trio
from wsproto.connection import Connection as WsprotoConnection
from wsproto.connection import ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, generate_accept_token, split_comma_header

from server.http.asgi import Headers, Message, UnexpectedMessage, problem_headers, websocket_scope
from server.http.connection import WakeSignal
from server.observability import logs
from server.problem import Problem

log = logs.get("http")

SEND_TEXTS = "tokentape.websocket.send_texts"
"""The extension of a WebSocket's scope: `scope["extensions"][SEND_TEXTS]["send"]` is an async function.

It takes an iterable of texts and sends each as a message, many in one write. ASGI's own way, one `send` for each
message, takes five times as long. The app may call it between its accept and its close. It waits like `send`.
"""
MAX_QUEUED_BYTES = 1_048_576
WRITE_BYTES = 65_536
MESSAGE_OVERHEAD = 256
"""What a queued message counts besides its bytes. Without it a client could queue empty messages without bound."""
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")


class WebSocketTransport(Protocol):
    """How a WebSocket sends: on a connection of HTTP/1.1, or on a stream of HTTP/2."""

    async def accept(self, headers: Headers) -> None:
        """Sends the response's head that completes the handshake."""
        ...

    async def refuse(self, status: int, headers: Headers, body: bytes) -> None:
        """Sends a whole response that refuses the handshake."""
        ...

    async def send(self, data: bytes) -> None:
        """Sends frames."""
        ...

    def taken(self) -> None:
        """The app has taken a message, so the queue has room for more."""
        ...


class WebSocketHandshake:
    """What the client's handshake asks for. `problem`: what is wrong with it (RFC 6455 section 4.2.1), or None.

    `needs_key`: true for HTTP/1.1; RFC 8441 has no Sec-WebSocket-Key.
    """

    __slots__ = ("key", "problem", "subprotocols")

    def __init__(self, headers: Headers, *, needs_key: bool) -> None:
        found: dict[bytes, bytes] = {}
        self.subprotocols: list[str] = []
        readable = True
        for name, value in headers:
            found[name] = value
            if name == b"sec-websocket-protocol":
                readable = readable and value.isascii()
                self.subprotocols += split_comma_header(value) if readable else []
        self.key = found.get(b"sec-websocket-key") if needs_key else None
        self.problem: Problem | None = None
        if not readable:
            # The decoder's error would hold the text, perhaps a ticket, which would stand in the log.
            self.problem = _bad("Sec-WebSocket-Protocol has to be a list of names in ASCII.")
        elif found.get(b"sec-websocket-version") != b"13":
            self.problem = _bad("Sec-WebSocket-Version has to be 13.")
        elif needs_key and (self.key is None or not _KEY.fullmatch(self.key)):
            self.problem = _bad("Sec-WebSocket-Key has to be the base64 of 16 bytes.")


def _bad(detail: str) -> Problem:
    return Problem(400, "bad_request", detail)


class WebSocketState(Enum):
    """The state of a WebSocket. It only moves on."""

    CONNECTING = auto()
    OPEN = auto()
    CLOSED = auto()


class WebSocket:
    """One WebSocket. The app calls `receive` and `send`, the HTTP connection the rest.

    `over` is set when the client has closed or left, or when the handshake was refused. `limit`: bytes of one
    message. `on_over` is called once, when it is set.
    """

    __slots__ = (
        "_changed",
        "_close_code",
        "_connect_told",
        "_frames",
        "_handshake",
        "_limit",
        "_lock",
        "_on_over",
        "_partial",
        "_queue",
        "_queued_bytes",
        "_refusal",
        "_refusal_body",
        "_transport",
        "over",
        "scope",
        "state",
    )

    def __init__(
        self,
        http: Message,
        handshake: WebSocketHandshake,
        transport: WebSocketTransport,
        limit: int,
        on_over: Callable[[], None],
    ) -> None:
        self.state = WebSocketState.CONNECTING
        self.over = trio.Event()
        extensions = {"websocket.http.response": {}, SEND_TEXTS: {"send": self.send_texts}}
        self.scope = websocket_scope(http, handshake.subprotocols, extensions)
        self._handshake = handshake
        self._transport = transport
        self._limit = limit
        self._on_over = on_over
        self._frames = WsprotoConnection(ConnectionType.SERVER, [])
        self._lock = trio.Lock()
        self._queue: list[str | bytes] = []  # mostly empty; an empty deque would take half a kilobyte
        self._queued_bytes = 0
        self._changed = WakeSignal()
        self._partial = bytearray()  # one piece: a list would grow with every empty fragment
        self._connect_told = False
        self._close_code = CloseReason.ABNORMAL_CLOSURE.value
        self._refusal: Message | None = None
        self._refusal_body: list[bytes] = []

    # -- the app's side

    async def receive(self) -> Message:
        """ASGI's `receive`."""
        if not self._connect_told:
            self._connect_told = True
            return {"type": "websocket.connect"}
        while not self._queue:
            if self.over.is_set():
                await trio.lowlevel.checkpoint()
                return {"type": "websocket.disconnect", "code": self._close_code}
            await self._changed.wait()
        message = self._queue.pop(0)
        self._queued_bytes -= len(message) + MESSAGE_OVERHEAD
        self._changed.wake()
        self._transport.taken()
        await trio.lowlevel.checkpoint()
        text = isinstance(message, str)
        return {
            "type": "websocket.receive",
            "text": message if text else None,
            "bytes": None if text else message,
        }

    async def send(self, message: Message) -> None:
        """ASGI's `send`. When the WebSocket is over it sends nothing."""
        kind = message["type"]
        if self.over.is_set():
            await trio.lowlevel.checkpoint()
        elif kind == "websocket.send" and self.state is WebSocketState.OPEN:
            data = message.get("bytes")
            event = TextMessage(data=message["text"]) if data is None else BytesMessage(data=bytes(data))
            await self._write(self._frames.send(event))
        elif kind == "websocket.accept" and self.state is WebSocketState.CONNECTING:
            await self._accept(message)
        elif kind == "websocket.close" and self.state is WebSocketState.OPEN:
            await self.close(message.get("code") or CloseReason.NORMAL_CLOSURE, message.get("reason"))
        elif kind == "websocket.close" and self.state is WebSocketState.CONNECTING:
            await self._refuse(403, [], b"")
        elif kind == "websocket.http.response.start" and self.state is WebSocketState.CONNECTING:
            self._refusal = message
        elif kind == "websocket.http.response.body" and self._refusal is not None:
            self._refusal_body.append(message.get("body", b""))
            if not message.get("more_body", False):
                start, self._refusal = self._refusal, None
                body = b"".join(self._refusal_body)
                await self._refuse(start["status"], list(start.get("headers", ())), body)
        else:
            raise UnexpectedMessage(message, self.state)

    async def send_texts(self, texts: Iterable[str]) -> None:
        """The extension `SEND_TEXTS`: sends many text messages in writes of about `WRITE_BYTES`."""
        frames: list[bytes] = []
        size = 0
        for text in texts:
            if self.state is not WebSocketState.OPEN or self.over.is_set():
                break
            frames.append(self._frames.send(TextMessage(data=text)))
            size += len(frames[-1])
            if size >= WRITE_BYTES:
                await self._write(b"".join(frames))
                frames, size = [], 0
        if frames:
            await self._write(b"".join(frames))
        else:
            await trio.lowlevel.checkpoint()

    async def finish(self) -> None:
        """The app has returned: closes or refuses the WebSocket if the app has not."""
        if self.over.is_set():
            return
        if self.state is WebSocketState.CONNECTING:
            await self._refuse(500, [], b"")
        elif self.state is WebSocketState.OPEN:
            await self.close(CloseReason.INTERNAL_ERROR)

    # -- the client's side

    def feed(self, data: bytes) -> bytes:
        """Takes bytes from the client. Returns the bytes that answer them: pongs, a close frame."""
        if self.over.is_set() or self.state is WebSocketState.CONNECTING:
            return b""
        try:
            self._frames.receive_data(data)
        except LocalProtocolError:  # bytes after both close frames
            return b""
        replies = b""
        for event in self._frames.events():
            if isinstance(event, (TextMessage, BytesMessage)):
                if not self._take(event):
                    self.end(CloseReason.MESSAGE_TOO_BIG)
                    return replies + self._close_frame(CloseReason.MESSAGE_TOO_BIG)
            elif isinstance(event, Ping):
                if self._frames.state is ConnectionState.OPEN:
                    replies += self._frames.send(event.response())
            elif isinstance(event, CloseConnection):
                if self._frames.state is ConnectionState.REMOTE_CLOSING:
                    replies += self._frames.send(event.response())
                    self.state = WebSocketState.CLOSED
                else:  # invalid frames, and wsproto gives the code; or the client answers our close frame
                    replies += self._close_frame(event.code)
                self.end(event.code)
                break
        return replies

    def end(self, code: int = CloseReason.ABNORMAL_CLOSURE) -> None:
        """The client has closed or left. `code`: what the app is told."""
        if not self.over.is_set():
            self._close_code = int(code)
            self._partial = bytearray()
            self.over.set()
            self._changed.wake()
            self._on_over()

    async def accepted(self) -> None:
        """Waits until the app has accepted, or the WebSocket is over."""
        while self.state is WebSocketState.CONNECTING and not self.over.is_set():
            await self._changed.wait()

    @property
    def full(self) -> bool:
        """Whether so much is queued for the app that the reader should stop reading."""
        return self._queued_bytes > 0 and self._queued_bytes + len(self._partial) > MAX_QUEUED_BYTES

    async def wait_for_room(self) -> None:
        """Waits while the queue is full."""
        while self.full and not self.over.is_set():
            await self._changed.wait()

    async def reply(self, data: bytes) -> None:
        """Sends what `feed` returned, not in the middle of the app's message."""
        if data:
            await self._write(data)

    async def ping(self) -> None:
        """Sends a ping, unless a message is being sent: that shows as well whether the client is alive."""
        if self.state is WebSocketState.OPEN and not self.over.is_set() and not self._lock.locked():
            await self._write(self._frames.send(Ping()))

    async def close(self, code: int, reason: str | None = None) -> None:
        """Sends the close frame."""
        if self.state is WebSocketState.OPEN:
            self.state = WebSocketState.CLOSED
            await self._write(self._frames.send(CloseConnection(code=int(code), reason=reason or None)))

    async def refuse(self, problem: Problem, body: bytes) -> None:
        """Refuses the handshake without asking the app. `body`: the encoded problem."""
        extra = [(b"sec-websocket-version", b"13")] if problem.status == 400 else []
        await self._refuse(problem.status, [*problem_headers(problem, body), *extra], body)

    # -- inside

    def _close_frame(self, code: int) -> bytes:
        if self.state is not WebSocketState.OPEN:
            return b""
        self.state = WebSocketState.CLOSED
        return self._frames.send(CloseConnection(code=int(code)))

    def _take(self, event: "TextMessage | BytesMessage") -> bool:
        """Adds a fragment, and queues the message if it is whole. False, and keeps nothing, if it is too large."""
        data = event.data
        self._partial += data.encode() if isinstance(data, str) else data
        if len(self._partial) > self._limit:
            self._partial = bytearray()
            return False
        if event.message_finished:
            whole = self._partial.decode() if isinstance(data, str) else bytes(self._partial)
            self._partial = bytearray()
            self._queue.append(whole)
            self._queued_bytes += len(whole) + MESSAGE_OVERHEAD
            self._changed.wake()
        return True

    async def _accept(self, message: Message) -> None:
        headers: Headers = []
        subprotocol = message.get("subprotocol")
        if subprotocol is not None:
            if subprotocol not in self._handshake.subprotocols:
                raise ValueError(f"the client did not offer the subprotocol {subprotocol!r}")
            headers.append((b"sec-websocket-protocol", subprotocol.encode()))
        if self._handshake.key is not None:
            headers.append((b"sec-websocket-accept", generate_accept_token(self._handshake.key)))
        self.state = WebSocketState.OPEN
        await self._transport.accept([*headers, *message.get("headers", ())])
        self._changed.wake()

    async def _refuse(self, status: int, headers: Headers, body: bytes) -> None:
        self.state = WebSocketState.CLOSED
        await self._transport.refuse(status, headers, body)
        self.end()

    async def _write(self, data: bytes) -> None:
        # Mostly the lock is free. `acquire` would still cost a turn of the scheduler for each token.
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()
        try:
            await self._transport.send(data)
        finally:
            self._lock.release()
