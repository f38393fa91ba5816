"""hypercorn's WebSocket stream (0.18), with its ends mended.

Three things a client could do to it: send a message that is too large, and have every further byte kept; send
bytes after text in one, and raise; keep more commands in flight than the app's queue holds while the app
ends, and never be closed. And its pings kept every ended connection open until the next one was due. Each is
a few lines here, in the one place that knows hypercorn's insides.

Compression (RFC 7692) is not agreed to, for it costs each connection hundreds of kilobytes and each token its
time, and what a client sends in a few bytes would be unpacked to any size before a limit is looked at.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO, StringIO
from typing import Any

import trio
from hypercorn.protocol.events import Body, Data, Event, Request, StreamClosed
from hypercorn.protocol.ws_stream import FrameTooLargeError, WebsocketBuffer, WSStream
from hypercorn.typing import ConnectionState as AppState
from wsproto.connection import ConnectionState
from wsproto.events import CloseConnection, Message, Ping, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError

from server.http.direct_write import TEXTS

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
            await super().handle(replace(event, state=AppState({**event.state, TEXTS: self})))
            if self.app_put is not None:
                self._put_raw, self.app_put = self.app_put, self._put
        elif isinstance(event, StreamClosed):
            self._gone.set()
            await super().handle(event)
        elif not self._refusing:
            early = isinstance(event, (Body, Data)) and not self.handshake.accepted
            await super().handle(event)
            if early and self.app_put is not None:
                # It was refused with 400, and nobody would ever tell the app: it kept the connection for ever.
                await self._put({"type": "websocket.disconnect", "code": CloseReason.ABNORMAL_CLOSURE.value})

    async def send_texts(self, texts: Sequence[str]) -> None:
        """Sends many text messages in one write; a message of ASGI for each takes five times as long.

        For the app, between its accept and its close. Nothing is sent when the client has closed.
        """
        try:
            data = b"".join([self.connection.send(TextMessage(data=text)) for text in texts])
        except LocalProtocolError:
            await trio.lowlevel.checkpoint()
        else:
            await self.send(Data(stream_id=self.stream_id, data=data))

    async def app_send(self, message: Any) -> None:
        """What comes from the app; None is its end."""
        if message is None:
            # Nobody takes from the queue any more: who waits to put something there would wait for ever.
            self._app_over = True
            self._putting.cancel()
        if self.closed:
            await trio.lowlevel.checkpoint()  # an app that still sends would let nobody else have a turn
        await super().app_send(message)

    async def _accept(self, message: Any) -> None:
        self.handshake.extensions = None
        await super()._accept(message)

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
