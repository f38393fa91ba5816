"""A WebSocket (RFC 6455) as ASGI messages, on HTTP/1.1 and on an HTTP/2 stream (RFC 8441). Frames are wsproto's.

Owns the handshake, the messages on their way to the app, and both ends. Messages wait in a queue that makes nobody
wait: who reads from the client looks at `room` and stops reading while more than a mebibyte waits. So the notice
that the client has gone never stands behind what the app does not take.

Compression (RFC 7692) is not agreed to, for it costs each connection hundreds of kilobytes and each token its
time, and what a client sends in a few bytes would be unpacked to any size before a limit is looked at.
"""

import re
from collections.abc import Callable, Iterable
from enum import Enum, auto
from typing import Protocol

import trio
from wsproto.connection import Connection as Frames
from wsproto.connection import ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, generate_accept_token, split_comma_header

from server import logs
from server.errors import Problem
from server.http.asgi import SEND_TEXTS, Headers, Message, UnexpectedMessage, problem_headers, websocket_scope

log = logs.get("host")

WAITING_BYTES = 1_048_576
WRITE_BYTES = 65_536
MESSAGE_COST = 256
"""What a message costs besides its bytes: a client could fill the queue with empty ones."""
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")


class Carrier(Protocol):
    """What carries a WebSocket: a connection of HTTP/1.1, or a stream of HTTP/2."""

    async def accept(self, headers: Headers) -> None:
        """Sends the head that makes it one."""
        ...

    async def refuse(self, status: int, headers: Headers, body: bytes) -> None:
        """Sends a whole answer instead."""
        ...

    async def send(self, data: bytes) -> None:
        """Sends frames."""
        ...

    def taken(self) -> None:
        """The app has taken a message: there is room for more."""
        ...


class Handshake:
    """What the client asked for. `problem` says what is wrong with it (RFC 6455 section 4.2.1)."""

    __slots__ = ("key", "problem", "subprotocols")

    def __init__(self, headers: Headers, *, needs_key: bool) -> None:
        found: dict[bytes, bytes] = {}
        self.subprotocols: list[str] = []
        for name, value in headers:
            found[name] = value
            if name == b"sec-websocket-protocol":
                self.subprotocols += split_comma_header(value)
        self.key = found.get(b"sec-websocket-key") if needs_key else None
        self.problem: Problem | None = None
        if found.get(b"sec-websocket-version") != b"13":
            self.problem = _bad("Sec-WebSocket-Version has to be 13.")
        elif needs_key and (self.key is None or not _KEY.fullmatch(self.key)):
            self.problem = _bad("Sec-WebSocket-Key has to be the base64 of 16 bytes.")


def _bad(detail: str) -> Problem:
    return Problem(400, "bad_request", detail)


class State(Enum):
    """How far a WebSocket is. It only moves on."""

    CONNECTING = auto()
    OPEN = auto()
    CLOSED = auto()


class WebSocket:
    """One WebSocket. `receive` and `send` are the app's; the rest is for who carries it.

    `over` is set when the client has closed, has gone, or has been told to go.
    """

    __slots__ = (
        "_answer",
        "_body",
        "_carrier",
        "_changed",
        "_code",
        "_connect_told",
        "_deaf",
        "_frames",
        "_handshake",
        "_limit",
        "_lock",
        "_messages",
        "_on_over",
        "_partial",
        "_waiting",
        "over",
        "scope",
        "state",
    )

    def __init__(
        self, http: Message, handshake: Handshake, carrier: Carrier, limit: int, on_over: Callable[[], None]
    ) -> None:
        self.state = State.CONNECTING
        self.over = trio.Event()
        extensions = {"websocket.http.response": {}, SEND_TEXTS: {"send": self.send_texts}}
        self.scope = websocket_scope(http, handshake.subprotocols, extensions)
        self._handshake = handshake
        self._carrier = carrier
        self._limit = limit
        self._on_over = on_over
        self._frames = Frames(ConnectionType.SERVER, [])
        self._lock = trio.Lock()
        self._messages: list[str | bytes] = []  # mostly empty, and an empty deque has half a kilobyte
        self._waiting = 0
        self._changed: trio.Event | None = None
        self._partial = (
            bytearray()
        )  # of any number of fragments, also empty ones, no more than their bytes is kept
        self._connect_told = False
        self._deaf = False
        self._code = CloseReason.ABNORMAL_CLOSURE.value
        self._answer: Message | None = None
        self._body: list[bytes] = []

    # -- the app's side

    async def receive(self) -> Message:
        """ASGI's `receive`."""
        if not self._connect_told:
            self._connect_told = True
            return {"type": "websocket.connect"}
        while not self._messages:
            if self.over.is_set():
                await trio.lowlevel.checkpoint()
                return {"type": "websocket.disconnect", "code": self._code}
            await self._wait()
        message = self._messages.pop(0)
        self._waiting -= len(message) + MESSAGE_COST
        self._wake()
        self._carrier.taken()
        await trio.lowlevel.checkpoint()
        text = isinstance(message, str)
        return {
            "type": "websocket.receive",
            "text": message if text else None,
            "bytes": None if text else message,
        }

    async def send(self, message: Message) -> None:
        """ASGI's `send`. Behind the end of it nothing is sent."""
        kind = message["type"]
        if self.over.is_set():
            await trio.lowlevel.checkpoint()
        elif kind == "websocket.send" and self.state is State.OPEN:
            data = message.get("bytes")
            event = TextMessage(data=message["text"]) if data is None else BytesMessage(data=bytes(data))
            await self._write(self._frames.send(event))
        elif kind == "websocket.accept" and self.state is State.CONNECTING:
            await self._accept(message)
        elif kind == "websocket.close" and self.state is State.OPEN:
            await self.close(message.get("code") or CloseReason.NORMAL_CLOSURE, message.get("reason"))
        elif kind == "websocket.close" and self.state is State.CONNECTING:
            await self._refuse(403, [], b"")
        elif kind == "websocket.http.response.start" and self.state is State.CONNECTING:
            self._answer = message
        elif kind == "websocket.http.response.body" and self._answer is not None:
            self._body.append(message.get("body", b""))
            if not message.get("more_body", False):
                answer, self._answer = self._answer, None
                await self._refuse(answer["status"], list(answer.get("headers", ())), b"".join(self._body))
        else:
            raise UnexpectedMessage(message, self.state)

    async def send_texts(self, texts: Iterable[str]) -> None:
        """Sends many text messages, like so many messages of `send`, in few writes: as large ones as are held."""
        frames: list[bytes] = []
        size = 0
        for text in texts:
            if self.state is not State.OPEN or self.over.is_set():
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
        """The app has ended: says what it left unsaid."""
        if self.over.is_set():
            return
        if self.state is State.CONNECTING:
            await self._refuse(500, [], b"")
        elif self.state is State.OPEN:
            await self.close(CloseReason.INTERNAL_ERROR)

    # -- the client's side

    def feed(self, data: bytes) -> bytes:
        """Takes bytes from the client; returns those that answer them (a pong, a close frame)."""
        if self._deaf or self.over.is_set() or self.state is State.CONNECTING:
            return b""
        try:
            self._frames.receive_data(data)
        except LocalProtocolError:  # behind the close frames
            return b""
        replies = b""
        for event in self._frames.events():
            if isinstance(event, (TextMessage, BytesMessage)):
                if not self._take(event):
                    self.end(CloseReason.MESSAGE_TOO_BIG)
                    return replies + self._last_words(CloseReason.MESSAGE_TOO_BIG)
            elif isinstance(event, Ping):
                if self._frames.state is ConnectionState.OPEN:
                    replies += self._frames.send(event.response())
            elif isinstance(event, CloseConnection):
                if self._frames.state is ConnectionState.REMOTE_CLOSING:
                    replies += self._frames.send(event.response())
                    self.state = State.CLOSED
                else:  # wsproto cannot read it, and says why; or it answers ours
                    replies += self._last_words(event.code)
                self.end(event.code)
                break
        return replies

    def end(self, code: int = CloseReason.ABNORMAL_CLOSURE) -> None:
        """The client has closed, or is gone."""
        if not self.over.is_set():
            self._code = int(code)
            self._deaf = True
            self._partial = bytearray()
            self.over.set()
            self._wake()
            self._on_over()

    @property
    def full(self) -> bool:
        """Whether so much waits for the app that nothing more should be read."""
        return self._waiting > 0 and self._waiting + len(self._partial) > WAITING_BYTES

    async def room(self) -> None:
        """Waits while it is full."""
        while self.full and not self.over.is_set():
            await self._wait()

    async def reply(self, data: bytes) -> None:
        """Sends what `feed` returned, in turn with the app's messages."""
        if data:
            await self._write(data)

    async def ping(self) -> None:
        """Asks for a sign of life; what is being sent is one already."""
        if self.state is State.OPEN and not self.over.is_set() and not self._lock.locked():
            await self._write(self._frames.send(Ping()))

    async def close(self, code: int, reason: str | None = None) -> None:
        """Sends the close frame."""
        if self.state is State.OPEN:
            self.state = State.CLOSED
            await self._write(self._frames.send(CloseConnection(code=int(code), reason=reason or None)))

    async def refuse(self, problem: Problem, body: bytes) -> None:
        """Answers the client without the app's having accepted."""
        extra = [(b"sec-websocket-version", b"13")] if problem.status == 400 else []
        await self._refuse(problem.status, [*problem_headers(problem, body), *extra], body)

    # -- inside

    def _last_words(self, code: int) -> bytes:
        if self.state is not State.OPEN:
            return b""
        self.state = State.CLOSED
        return self._frames.send(CloseConnection(code=int(code)))

    def _take(self, event: "TextMessage | BytesMessage") -> bool:
        """Adds a fragment. False if the message is too large; nothing is kept of it then."""
        data = event.data
        self._partial += data.encode() if isinstance(data, str) else data
        if len(self._partial) > self._limit:
            self._partial = bytearray()
            return False
        if event.message_finished:
            whole = self._partial.decode() if isinstance(data, str) else bytes(self._partial)
            self._partial = bytearray()
            self._messages.append(whole)
            self._waiting += len(whole) + MESSAGE_COST
            self._wake()
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
        self.state = State.OPEN
        await self._carrier.accept([*headers, *message.get("headers", ())])
        self._wake()

    async def _refuse(self, status: int, headers: Headers, body: bytes) -> None:
        self.state = State.CLOSED
        await self._carrier.refuse(status, headers, body)
        self.end()

    async def _write(self, data: bytes) -> None:
        # A lock that is free costs two turns of the scheduler when it is waited for, and nothing this way.
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()
        try:
            await self._carrier.send(data)
        finally:
            self._lock.release()

    async def _wait(self) -> None:
        if self._changed is None:
            self._changed = trio.Event()
        await self._changed.wait()

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def accepted(self) -> None:
        """Waits until the app has accepted, or it is over."""
        while self.state is State.CONNECTING and not self.over.is_set():
            await self._wait()
