"""The accept loop: each connection is spoken by hypercorn, or by `http2.py`, and none can hurt another.

hypercorn's own loop lets whatever a connection's task raises (bytes in a header that are no text, say) end
the whole server. Here it ends that connection and leaves one log line. And because the streams are known here,
one that takes no byte can be cut when the server stops: hypercorn's sending is shielded and has no deadline.
"""

import logging
import socket

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed
from hypercorn.events import Event as HypercornEvent
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework

from server import logs
from server.http.direct_write import with_straight
from server.http.http1 import install
from server.http.http2 import Http2
from server.http.listener import Listener
from server.http.tls import shake_hands

log = logs.get("host")

IDLE_SECONDS = 20
"""Also the time a client has for its request's head: who sends it byte by byte is cut off."""
WEBSOCKET_PING_SECONDS = 20.0
HTTP2_STREAMS = 256
"""At once on one connection: a hundred event streams, as many commands, and some. A browser has one connection."""


class _Connection(TCPServer):
    """hypercorn's connection, with its end mended.

    It would keep its socket for the idle time though the client has gone, and raise when an answer meets the
    close.
    """

    async def protocol_send(self, event: HypercornEvent) -> None:
        try:
            await super().protocol_send(event)
        except trio.BusyResourceError:
            # It is being closed at this moment, by the task that met the client's end.
            await self.protocol.handle(Closed())

    async def _read_data(self) -> None:
        await super()._read_data()
        await self.idle_task.stop()

    async def say_goodbye(self) -> None:
        """Tells an HTTP/2 client that no more requests are taken. HTTP/1.1 has no word for it."""
        protocol = getattr(getattr(self, "protocol", None), "protocol", None)
        if isinstance(protocol, Http2):
            await protocol.say_goodbye()

    async def _initiate_server_close(self) -> None:
        await self.say_goodbye()  # else a request that crosses the close is one that may have been served
        await super()._initiate_server_close()


class Host:
    """Serves one app on one listening socket, until `close`."""

    def __init__(self, app: ASGIFramework, listener: Listener, websocket_bytes: int) -> None:
        install()
        self._app = ASGIWrapper(app)
        self._listener = listener
        self._config = _config(websocket_bytes)
        self._context = WorkerContext(None)
        self._streams: dict[trio.SocketStream, _Connection | None] = {}
        self._accepting = trio.CancelScope()
        self._over = trio.Event()

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accepts and serves. Returns when `close` was called and the last connection has ended."""
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._listener.sock))
        async with trio.open_nursery() as connections:
            task_status.started()
            with self._accepting:
                await trio.serve_listeners(self._connection, [listener], handler_nursery=connections)
        self._over.set()

    async def close(self, seconds: float) -> None:
        """Accepts no more, lets idle connections end, and after half of `seconds` cuts what is left."""
        self._accepting.cancel()
        await self._context.terminated.set()
        with trio.move_on_after(seconds / 2):
            async with trio.open_nursery() as nursery:
                for connection in self._streams.values():
                    if connection is not None:
                        nursery.start_soon(connection.say_goodbye)
            await self._over.wait()
        for stream in list(self._streams):
            try:
                stream.socket.shutdown(socket.SHUT_RDWR)
            except OSError as error:
                log.debug("connection was gone already", why=str(error))
        with trio.move_on_after(seconds / 2):
            await self._over.wait()

    async def _connection(self, stream: trio.SocketStream) -> None:
        self._streams[stream] = None
        try:
            await self._speak(stream)
        except Exception as error:
            log.warning("connection ended", why=_innermost(error))
        finally:
            del self._streams[stream]
            await trio.aclose_forcefully(stream)

    async def _speak(self, plain: trio.SocketStream) -> None:
        tls = self._listener.tls
        stream = plain if tls is None else await shake_hands(plain, tls.context)
        if stream is not None:
            state, straight = with_straight()
            connection = _Connection(self._app, self._config, self._context, state, stream)  # type: ignore[arg-type]  # plain TCP
            straight.attach(connection, stream)
            self._streams[plain] = connection
            await connection


def _innermost(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return repr(error)[:200]


def _config(websocket_bytes: int) -> Config:
    config = Config()
    config.accesslog = None  # a query may hold a key
    config.errorlog = logging.getLogger("hypercorn")
    config.include_server_header = False
    config.keep_alive_timeout = IDLE_SECONDS
    config.keep_alive_max_requests = 100_000
    config.h2_max_concurrent_streams = HTTP2_STREAMS
    config.websocket_max_message_size = websocket_bytes
    config.websocket_ping_interval = WEBSOCKET_PING_SECONDS
    return config
