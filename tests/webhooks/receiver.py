"""A webhook receiver whose answers a test chooses, over real sockets or in memory.

It reads requests by hand and keeps the head and body of each, so that a test can verify what was really sent.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import trio
from standardwebhooks import Webhook
from trio.testing import memory_stream_pair

from .webhook_process import SECRET

Answer = Callable[[trio.abc.Stream], Awaitable[None]]


@dataclass(frozen=True)
class Post:
    """One request as received. `at` is trio's time."""

    line: str
    headers: dict[str, str]
    body: bytes
    at: float

    def verified(self) -> Any:
        """The body's JSON, if the library says that it is signed with the secret."""
        return Webhook(SECRET).verify(self.body, self.headers)


class Receiver:
    """Gives `answers` in order and repeats the last: a status, raw bytes, or a function on the stream."""

    def __init__(self, *answers: int | bytes | Answer) -> None:
        self._answers = list(answers) or [200]
        self.posts: list[Post] = []
        self.connected: list[tuple[str, int]] = []
        self.under_way = self.most_under_way = 0
        self.port = 0
        self._nursery: trio.Nursery | None = None

    async def handle(self, stream: trio.abc.Stream) -> None:
        """One connection: one request, one answer."""
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            self.posts.append(await _read(stream))
            answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
            if isinstance(answer, int):
                await stream.send_all(b"HTTP/1.1 %d Whatever\r\nContent-Length: 2\r\n\r\nok" % answer)
            elif isinstance(answer, bytes):
                await stream.send_all(answer)
            else:
                await answer(stream)
        except (trio.BrokenResourceError, EOFError):
            pass
        finally:
            self.under_way -= 1
            await trio.aclose_forcefully(stream)

    async def connect(self, host: str, port: int) -> trio.abc.Stream:
        """For a sender: a connection in memory, wherever it wants to go."""
        assert self._nursery is not None
        self.connected.append((host, port))
        mine, theirs = memory_stream_pair()
        self._nursery.start_soon(self.handle, mine)
        await trio.lowlevel.checkpoint()
        return theirs

    async def got(self, number: int) -> None:
        """Returns when so many requests have come."""
        pause = 0.01
        with trio.fail_after(200_000):
            while len(self.posts) < number:
                await trio.sleep(pause)
                pause = min(1.2 * pause, 60)

    async def quiet(self) -> None:
        """Returns when every connection is closed."""
        with trio.fail_after(30):
            while self.under_way:
                await trio.sleep(0.01)

    @asynccontextmanager
    async def in_memory(self) -> AsyncIterator["Receiver"]:
        """At work for as long as the context."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            yield self
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["Receiver"]:
        """On a port of 127.0.0.1."""
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            self.port = listeners[0].socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, self.handle, listeners)
            yield self
            nursery.cancel_scope.cancel()


async def _read(stream: trio.abc.Stream) -> Post:
    data = b""
    while b"\r\n\r\n" not in data:
        data += await _some(stream)
    head, body = data.split(b"\r\n\r\n", 1)
    line, *rest = head.decode("ascii").split("\r\n")
    headers = {name.lower(): value for name, value in (one.split(": ", 1) for one in rest)}
    while len(body) < int(headers["content-length"]):
        body += await _some(stream)
    msgspec.json.decode(body)
    return Post(line, headers, body, trio.current_time())


async def _some(stream: trio.abc.Stream) -> bytes:
    data = bytes(await stream.receive_some(65_536))
    if not data:
        raise EOFError
    return data


async def silence(stream: trio.abc.Stream) -> None:
    """Never answers; returns when the client disconnects."""
    while await stream.receive_some(65_536):
        continue
