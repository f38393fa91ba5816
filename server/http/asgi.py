"""What HTTP/1.1 and HTTP/2 share on the way to the app: ASGI's scopes and states, status lines, dates, problems.

ASGI 3: https://asgi.readthedocs.io/en/latest/specs/www.html. It must not know sockets or frames, and of the app
nothing but that it is an ASGI app.
"""

import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from contextvars import Context, copy_context
from email.utils import formatdate
from enum import Enum, auto
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import msgspec

from server.problem import Problem

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Any, Any], Coroutine[Any, Any, None]]
Headers = list[tuple[bytes, bytes]]
SocketAddress = tuple[str, int]

BODILESS = frozenset((204, 304))
"""Statuses whose responses have no body (RFC 9110 sections 15.3.5 and 15.4.5)."""


class ResponseState(Enum):
    """How far the app's response to one request is. It only moves on."""

    EXPECTED = auto()  # the app has sent nothing
    STARTED = auto()  # `http.response.start` has come; the head goes out with the first part of the body
    SENDING = auto()  # the head is out
    COMPLETE = auto()


class UnexpectedMessage(Exception):
    """The app sent a message that ASGI does not allow in this state. The app is to blame."""

    def __init__(self, message: Message, state: object) -> None:
        super().__init__(f"the app sent {message.get('type')!r} in the state {state}")


def http_scope(
    method: str,
    path: bytes,
    query: bytes,
    version: str,
    headers: Headers,
    *,
    secure: bool,
    client: SocketAddress | None,
    server: SocketAddress | None,
) -> Message:
    """The ASGI scope of a request. `path` and `query` are as the client sent them; header names are lower case."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": version,
        "method": method,
        "scheme": "https" if secure else "http",
        "path": decode_path(path),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": headers,
        "client": client,
        "server": server,
        "state": {},
        "extensions": {},
    }


def websocket_scope(http: Message, subprotocols: list[str], extensions: Message) -> Message:
    """The ASGI scope of a WebSocket, made from the scope of the request that opens it."""
    scope = dict(http)
    del scope["method"]
    scope["type"] = "websocket"
    scope["scheme"] = "wss" if http["scheme"] == "https" else "ws"
    scope["subprotocols"] = subprotocols
    scope["extensions"] = extensions
    return scope


def decode_path(path: bytes) -> str:
    """Decodes a path's percent-encoding. Bytes that are no UTF-8 become the replacement character."""
    return unquote(path.decode("ascii")) if b"%" in path else path.decode("ascii")


class in_own_context:  # noqa: N801  # it is used like a coroutine function
    """Awaits a coroutine in a copy of the current context.

    Requests that follow one another on a connection run in one task, and a task cannot change its context. Without
    a copy for each request, what one request binds (its id, for log lines) would still be bound in the next one.
    """

    __slots__ = ("_context", "_coroutine")

    def __init__(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._coroutine = coroutine
        self._context: Context = copy_context()

    def __await__(self) -> Generator[Any, Any, None]:
        run, coroutine = self._context.run, self._coroutine
        try:
            trap = run(coroutine.send, None)
            while True:
                try:
                    value = yield trap
                except BaseException as error:  # noqa: ASYNC103  # the coroutine raises it on
                    trap = run(coroutine.throw, error)
                else:
                    trap = run(coroutine.send, value)
        except StopIteration:
            return


_LINES = {status.value: b"HTTP/1.1 %d %s\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}


def status_line(status: int) -> bytes:
    """The first line of an HTTP/1.1 response, with the registered reason phrase if there is one."""
    return _LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


class _Clock:
    """The value of the `Date` header (RFC 9110 section 6.6.1), formatted once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = b""

    def __call__(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._text = formatdate(second, usegmt=True).encode()
        return self._text


date = _Clock()


def encode_problem(problem: Problem) -> bytes:
    """A problem as JSON (RFC 9457), for an app that gives no encoder of its own."""
    return msgspec.json.encode({"type": "about:blank", "status": problem.status, "detail": problem.detail})


def problem_headers(problem: Problem, body: bytes) -> Headers:
    """The headers of a problem that the server answers without asking the app. `body`: the encoded problem."""
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
    if problem.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, round(problem.retry_after))))
    return headers


def problem_messages(problem: Problem, body: bytes) -> Iterable[Message]:
    """The ASGI messages by which an app would send the problem."""
    yield {"type": "http.response.start", "status": problem.status, "headers": problem_headers(problem, body)}
    yield {"type": "http.response.body", "body": body, "more_body": False}
