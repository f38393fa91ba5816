"""The accept loop: every connection is hypercorn's to speak, and none of them can hurt another.

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
from hypercorn.typing import ASGIFramework, ConnectionState

from server import logs
from server.host.listening import Listener
from server.host.websockets import install

log = logs.get("host")

IDLE_SECONDS = 20
"""Also the time a client has for its request's head: who sends it byte by byte is cut off."""
WEBSOCKET_PING_SECONDS = 20.0


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


class Host:
    """Serves one app on one listening socket, until `close`."""

    def __init__(self, app: ASGIFramework, listener: Listener, websocket_bytes: int) -> None:
        install()
        self._app = ASGIWrapper(app)
        self._listener = listener
        self._config = _config(websocket_bytes)
        self._context = WorkerContext(None)
        self._streams: set[trio.SocketStream] = set()
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
            await self._over.wait()
        for stream in list(self._streams):
            try:
                stream.socket.shutdown(socket.SHUT_RDWR)
            except OSError as error:
                log.debug("connection was gone already", why=str(error))
        with trio.move_on_after(seconds / 2):
            await self._over.wait()

    async def _connection(self, stream: trio.SocketStream) -> None:
        self._streams.add(stream)
        try:
            await _Connection(self._app, self._config, self._context, ConnectionState({}), stream)  # type: ignore[arg-type]  # plain TCP
        except Exception as error:
            log.warning("connection ended", why=_innermost(error))
        finally:
            self._streams.discard(stream)
            await trio.aclose_forcefully(stream)


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
    config.websocket_max_message_size = websocket_bytes
    config.websocket_ping_interval = WEBSOCKET_PING_SECONDS
    return config
