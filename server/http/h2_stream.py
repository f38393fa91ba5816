"""One request and its answer on an HTTP/2 connection: hypercorn's stream, its app, and both directions' bytes.

Owns the queue to the app and when the client is given window again. It knows no frames: the connection
(`http2.py`) tells it what came and asks it what may go out.
"""

import math
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.protocol.events import Body, EndBody, Request, StreamClosed
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.trio.task_group import _handle
from hypercorn.typing import AppWrapper, TaskGroup

from server import logs
from server.http.h2_send_buffer import Outgoing, Side
from server.http.websocket import MendedWSStream

log = logs.get("host")

QUEUE = 10
"""Messages that wait for the app while its client still gets window: hypercorn's own number."""


class Exchange:
    """One stream of the connection.

    hypercorn's reading task waits when an app's queue is full. On HTTP/2 that stops every other stream, and for
    ever if the app itself waits for window that only this reading could bring. So the queue here never makes
    anybody wait: what bounds it is that no window is given back while it is long.
    """

    def __init__(
        self, stream_id: int, tasks: TaskGroup, acknowledge: Callable[[int, int], None], over: "Over"
    ) -> None:
        self.stream_id = stream_id
        self.outgoing = Outgoing()
        self.running = False
        self.speaker: HTTPStream | MendedWSStream
        self._tasks = tasks
        self._acknowledge = acknowledge
        self._over = over
        self._to_app, self._from_client = trio.open_memory_channel[Any](math.inf)
        self._unacknowledged = 0
        self._begun = False

    async def begin(self, request: Request) -> None:
        """The request's head. Raises what hypercorn makes of bytes that it cannot read."""
        if self.outgoing.side is not Side.OVER:  # else the connection ended a moment ago
            self._begun = True
            await self.speaker.handle(request)

    async def received(self, data: bytes, size: int) -> None:
        """A piece of the request's body, and what it cost of the window."""
        self._unacknowledged += size
        if data:  # frames without any cost no window: they would fill the queue for nothing
            await self.speaker.handle(Body(stream_id=self.stream_id, data=data))
        self._give_window()

    async def request_ended(self) -> None:
        """The client has said all. To a WebSocket that is its end (RFC 8441 section 5), said or unsaid."""
        if isinstance(self.speaker, MendedWSStream):
            await self.speaker.handle(StreamClosed(stream_id=self.stream_id))
        else:
            await self.speaker.handle(EndBody(stream_id=self.stream_id))

    async def cut(self) -> None:
        """The client wants no answer, or is gone."""
        self.outgoing.close()
        self.settle()
        await self.closed()

    async def closed(self) -> None:
        """Tells the app that this is over."""
        if self._begun:  # hypercorn's stream has nobody to tell before, and would look for it
            await self.speaker.handle(StreamClosed(stream_id=self.stream_id))

    def settle(self) -> None:
        """Gives back the window of all that came, read or not: it is every stream's."""
        if self._unacknowledged:
            self._acknowledge(self.stream_id, self._unacknowledged)
            self._unacknowledged = 0

    def spawn(self, func: Callable[..., Any], *args: Any) -> None:
        """A task of the connection's; hypercorn's streams ask for it."""
        self._tasks.spawn(func, *args)

    async def spawn_app(
        self, app: AppWrapper, config: Config, scope: Any, send: Callable[[Any], Awaitable[None]]
    ) -> Callable[[Any], Awaitable[None]]:
        """Runs the app; gives what puts messages in its queue. hypercorn's streams ask for it."""
        self.running = True
        self._tasks.spawn(self._run, app, config, scope, send)
        return self._to_app.send

    async def _run(
        self, app: AppWrapper, config: Config, scope: Any, send: Callable[[Any], Awaitable[None]]
    ) -> None:
        try:
            await _handle(app, config, scope, self._receive, send, trio.to_thread.run_sync, trio.from_thread.run)
        except Exception as error:
            log.warning("stream ended", why=repr(error)[:200])
        finally:
            self.running = False
        if self.outgoing.side is Side.OPEN and isinstance(self.speaker, MendedWSStream):
            self.outgoing.end()  # its close frame is in there
        await self._over(self)

    async def _receive(self) -> Any:
        message = await self._from_client.receive()
        self._give_window()
        return message

    def _give_window(self) -> None:
        if self._to_app.statistics().current_buffer_used < QUEUE:
            self.settle()


Over = Callable[[Exchange], Awaitable[None]]
