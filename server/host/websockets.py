"""hypercorn's WebSocket stream (0.18), with its ends mended.

Three things a client could do to it: send a message that is too large, and have every further byte kept; send
bytes after text in one, and raise; keep more commands in flight than the app's queue holds while the app
ends, and never be closed. And its pings kept every ended connection open until the next one was due. Each is
a few lines here, in the one place that knows hypercorn's insides.
"""

import math
from io import BytesIO, StringIO
from typing import Any

import hypercorn.protocol.h2
import hypercorn.protocol.h11
import trio
from hypercorn.protocol.events import Event, Request, StreamClosed
from hypercorn.protocol.ws_stream import FrameTooLargeError, WebsocketBuffer, WSStream
from wsproto.connection import ConnectionState
from wsproto.events import CloseConnection, Message, Ping, TextMessage
from wsproto.frame_protocol import CloseReason

LINGER_SECONDS = 2.0
"""How long a client has to take the close frame; what it still sends meanwhile is thrown away."""


class ByteBuffer(WebsocketBuffer):
    """Counts bytes, not characters, and keeps nothing of a message that is too large."""

    def extend(self, event: Message[Any]) -> None:
        """Adds a fragment. Raises `FrameTooLargeError` before it is kept."""
        size = len(event.data.encode()) if isinstance(event, TextMessage) else len(event.data)
        if self.length + size > self.max_length:
            self.clear()
            raise FrameTooLargeError
        self.length += size
        if self.value is None:
            self.value = StringIO() if isinstance(event, TextMessage) else BytesIO()
        self.value.write(event.data)  # of the first fragment's kind, says RFC 6455


class MendedWSStream(WSStream):
    """One WebSocket."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.buffer = ByteBuffer(self.config.websocket_max_message_size)
        self._refusing = False
        self._app_over = False
        self._putting = trio.CancelScope()
        self._gone = trio.Event()
        self._put_raw: Any = None

    async def handle(self, event: Event) -> None:
        """What comes from the client."""
        if isinstance(event, Request):
            await super().handle(event)
            if self.app_put is not None:
                self._put_raw, self.app_put = self.app_put, self._put
        elif isinstance(event, StreamClosed):
            self._gone.set()
            await super().handle(event)
        elif not self._refusing:
            await super().handle(event)

    async def app_send(self, message: Any) -> None:
        """What comes from the app; None is its end."""
        if message is None:
            # Nobody takes from the queue any more: who waits to put something there would wait for ever.
            self._app_over = True
            self._putting.cancel()
        await super().app_send(message)

    async def _put(self, message: Any) -> None:
        if self._app_over:
            return
        with trio.CancelScope() as self._putting:
            await self._put_raw(message)

    async def _handle_events(self) -> None:
        for event in self.connection.events():
            if isinstance(event, Message):
                try:
                    self.buffer.extend(event)
                except FrameTooLargeError:
                    await self._refuse(CloseReason.MESSAGE_TOO_BIG)
                    return
                if event.message_finished:
                    await self._put(self.buffer.to_message())
                    self.buffer.clear()
            elif isinstance(event, Ping):
                await self._send_wsproto_event(event.response())
            elif isinstance(event, CloseConnection):
                if self.connection.state == ConnectionState.REMOTE_CLOSING:
                    await self._send_wsproto_event(event.response())
                await self.send(StreamClosed(stream_id=self.stream_id))

    async def _refuse(self, reason: CloseReason) -> None:
        self._refusing = True
        await self._send_wsproto_event(CloseConnection(code=reason))
        await self._put({"type": "websocket.disconnect", "code": reason.value})
        self.task_group.spawn(self._end_later)

    async def _send_pings(self) -> None:
        while not self.closed:
            await self._send_wsproto_event(Ping())
            with trio.move_on_after(self.config.websocket_ping_interval or math.inf):
                await self._gone.wait()

    async def _end_later(self) -> None:
        with trio.move_on_after(LINGER_SECONDS):
            await self._gone.wait()
        await self.send(StreamClosed(stream_id=self.stream_id))


def install() -> None:
    """Puts the mended stream where hypercorn takes its own from."""
    for protocol in (hypercorn.protocol.h11, hypercorn.protocol.h2):
        vars(protocol)["WSStream"] = MendedWSStream
