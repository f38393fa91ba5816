"""The accept loop: connections come in, are counted, and are spoken to; none can hurt another.

Whatever a connection's task raises ends that connection and leaves one log line. It knows of the protocols only
which one begins how.
"""

import errno
import socket

import trio

from server import logs
from server.errors import Problem
from server.http.asgi import App, problem_headers, status_line
from server.http.connection import Connection, HttpOptions, Serving
from server.http.connection_limits import ByteBudget, ConnectionTable
from server.http.http1 import PREFACE, Http1
from server.http.http1_exchange import finish_head
from server.http.http2 import Http2
from server.http.listener import Listener
from server.http.tls import Tls, shake_hands
from server.http.transport import ClientWatch, PlainTransport, TlsTransport

log = logs.get("host")

ACCEPTS_AT_ONCE = 8
"""After so many new connections, those that are there get their turn. Thousands that come at once would else begin
together, and a token of a running answer would wait in each turn of the scheduler until all of them had theirs."""
NO_FILES_SECONDS = 0.05
_NO_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Host:
    """Serves one app on one listening socket, until `close`."""

    def __init__(self, app: App, listener: Listener, options: HttpOptions | None = None) -> None:
        options = options or HttpOptions()
        self._listener = listener
        self._table = ConnectionTable(
            options.max_connections, options.max_connections_per_address, options.trusted_proxies
        )
        self._serving = Serving(app, options, self._table, ByteBudget(options.unsent_bytes))
        self._watch = ClientWatch()
        self._connections: set[Connection] = set()
        self._accepting = trio.CancelScope()
        self._over = trio.Event()

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accepts and serves. Returns when `close` was called and the last connection has ended."""
        self._listener.sock.setblocking(False)
        try:
            async with trio.open_nursery() as helpers:
                helpers.start_soon(self._watch.run)
                helpers.start_soon(self._end_overdue)
                async with trio.open_nursery() as connections:
                    with self._accepting:
                        task_status.started()
                        await self._accept(connections)
                    self._listener.sock.close()
                helpers.cancel_scope.cancel()
        finally:
            self._listener.sock.close()
            self._watch.close()
            self._over.set()

    async def close(self, seconds: float) -> None:
        """Accepts no more, lets idle connections end, and after half of `seconds` cuts what is left."""
        self._accepting.cancel()
        self._serving.closing = True
        for connection in list(self._connections):
            connection.begin_close()
        self._table.end_waiting()
        with trio.move_on_after(seconds / 2):
            await self._over.wait()
        for connection in list(self._connections):
            connection.scope.cancel()
        with trio.move_on_after(seconds / 2):
            await self._over.wait()

    # -- coming in

    async def _accept(self, connections: trio.Nursery) -> None:
        sock = self._listener.sock
        while True:
            await trio.lowlevel.wait_readable(sock)
            for _ in range(ACCEPTS_AT_ONCE):
                try:
                    accepted, client = sock.accept()
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno in _NO_FILES:
                        log.warning("cannot accept", why=error.strerror)
                        self._table.make_room(trio.current_time())
                        await trio.sleep(NO_FILES_SECONDS)
                        break
                    continue  # this one has gone already
                self._admit(connections, accepted, client)

    def _admit(self, connections: trio.Nursery, sock: socket.socket, client: tuple[str, int]) -> None:
        sock.setblocking(False)
        tls = self._listener.tls
        connection = Connection(self._serving, (client[0], client[1]), self._address(sock), secure=tls is not None)
        if self._table.admit(connection, client[0], trio.current_time()):
            self._connections.add(connection)
            connections.start_soon(self._serve, connection, sock, tls)
        else:
            if tls is None:
                _refuse(sock, self._serving.options)
            sock.close()

    def _address(self, sock: socket.socket) -> tuple[str, int] | None:
        try:
            host, port, *_ = sock.getsockname()
        except OSError:
            return None
        return host, port

    # -- being served

    async def _serve(self, connection: Connection, sock: socket.socket, tls: Tls | None) -> None:
        try:
            with connection.scope:
                await self._speak(connection, sock, tls)
        except Exception as error:
            log.warning("connection ended", why=_innermost(error))
        finally:
            self._watch.remove(sock.fileno())
            self._table.forget(connection)
            self._connections.discard(connection)
            trio.lowlevel.notify_closing(sock)
            sock.close()

    async def _speak(self, connection: Connection, sock: socket.socket, tls: Tls | None) -> None:
        http2 = False
        if tls is None:
            connection.transport = PlainTransport(sock, connection.client_gone)
        else:
            stream = await shake_hands(trio.SocketStream(trio.socket.from_stdlib_socket(sock)), tls.context)
            if stream is None:
                return
            connection.transport = TlsTransport(stream, connection.client_gone)
            http2 = stream.selected_alpn_protocol() == "h2"
        self._watch.add(connection.transport.fd, connection)
        data = b""
        if not http2:
            http1 = Http1(connection)
            connection.speaker = http1
            await http1.run()
            data = http1.preface
        if http2 or data.startswith(PREFACE):
            await Http2(connection).run(data)

    async def _end_overdue(self) -> None:
        options = self._serving.options
        pause = min(1.0, options.keep_alive / 4, options.head_seconds / 4, options.stall_timeout / 4)
        while True:
            await trio.sleep(pause)
            now = trio.current_time()
            self._table.end_overdue(now, options.keep_alive, options.head_seconds)
            if self._serving.budget.held:
                for connection in list(self._connections):
                    if isinstance(connection.speaker, Http2):
                        connection.speaker.end_stalled(now)


def _refuse(sock: socket.socket, options: HttpOptions) -> None:
    """Says why, if the socket takes it at once; it will."""
    problem = Problem(503, "overloaded", "This server has too many connections. Come back.", retry_after=2.0)
    body = options.encode_problem(problem)
    headers = [*problem_headers(problem, body), (b"connection", b"close")]
    try:
        sock.send(finish_head([status_line(503)], headers) + body)
    except OSError as error:
        log.debug("connection was gone already", why=str(error))


def _innermost(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return repr(error)[:200]
