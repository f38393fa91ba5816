"""The listening socket, and the accept loop that serves every connection in a task of its own.

Owns the listening socket, the connections' tasks, and the order in which a server stops. Whatever a connection's
task raises ends that connection alone and leaves one log line. Of the protocols it knows only how their first
bytes differ.
"""

import errno
import socket
from dataclasses import dataclass

import trio

from server.http.asgi import App, problem_headers, status_line
from server.http.connection import AcceptedConnection, HttpOptions, ServerState
from server.http.connection_limits import ByteBudget, ConnectionTable
from server.http.http1.http1_connection import PREFACE, Http1Connection
from server.http.http1.http1_exchange import finish_head
from server.http.http2.http2_connection import Http2Connection
from server.http.tls import Tls, accept_tls
from server.http.transport import DisconnectWatcher, PlainTransport, TlsTransport
from server.observability import logs
from server.problem import Problem

log = logs.get("http")

BACKLOG = 1024
KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
ACCEPTS_AT_ONCE = 8
"""How many connections are accepted in one turn of the scheduler. If thousands that connect at once all began in
one turn, a token of a running answer would wait until every one of them had run."""
NO_FILES_SECONDS = 0.05
"""How long to wait before the next accept when the process has no file descriptor left."""
_NO_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class CannotListen(Exception):
    """The address cannot be bound: another process has it, this machine does not, or it is not allowed."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that listens, and its address. `tls`: None for plain HTTP."""

    sock: socket.socket
    host: str
    port: int
    tls: Tls | None = None

    @property
    def url(self) -> str:
        """`http://host:port`, or `https://…`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'' if self.tls is None else 's'}://{host}:{self.port}"


def listen(bind: str, stall_timeout: float, tls: Tls | None = None) -> Listener:
    """Binds `host:port` (port 0 takes a free one). Raises `CannotListen` with the reason.

    Accepted sockets inherit the options that are set here. `stall_timeout`, in seconds: TCP_USER_TIMEOUT (Linux,
    RFC 5482), after which the kernel drops a client that acknowledges nothing of what was sent.
    """
    host, _, port = bind.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(stall_timeout * 1000))
            for option, value in KEEPALIVE:
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        sock.bind((host, int(port)))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise CannotListen(f"cannot listen on {bind}: {error.strerror or error}. Set TOKENTAPE_BIND.") from error
    return Listener(sock, host, sock.getsockname()[1], tls)


class HttpServer:
    """Serves one ASGI app on one listening socket, until `close`."""

    def __init__(self, app: App, listener: Listener, options: HttpOptions | None = None) -> None:
        options = options or HttpOptions()
        self._listener = listener
        self._table = ConnectionTable(
            options.max_connections, options.max_connections_per_address, options.trusted_proxies
        )
        self._state = ServerState(app, options, self._table, ByteBudget(options.unsent_bytes))
        self._watcher = DisconnectWatcher()
        self._connections: set[AcceptedConnection] = set()
        self._accepting = trio.CancelScope()
        self._over = trio.Event()

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accepts and serves connections. Returns when `close` was called and the last connection has ended."""
        self._listener.sock.setblocking(False)
        try:
            async with trio.open_nursery() as services:
                services.start_soon(self._watcher.run)
                services.start_soon(self._end_overdue)
                async with trio.open_nursery() as connections:
                    with self._accepting:
                        task_status.started()
                        await self._accept(connections)
                    self._listener.sock.close()
                services.cancel_scope.cancel()
        finally:
            self._listener.sock.close()
            self._watcher.close()
            self._over.set()

    async def close(self, seconds: float) -> None:
        """Stops: accepts no more, ends idle connections, and after half of `seconds` cancels the others."""
        self._accepting.cancel()
        self._state.closing = True
        for connection in list(self._connections):
            connection.begin_close()
        self._table.end_waiting()
        with trio.move_on_after(seconds / 2):
            await self._over.wait()
        for connection in list(self._connections):
            connection.scope.cancel()
        with trio.move_on_after(seconds / 2):
            await self._over.wait()

    # -- accepting

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
                    continue  # the client has closed this connection already (ECONNABORTED)
                self._admit(connections, accepted, client)

    def _admit(self, connections: trio.Nursery, sock: socket.socket, client: tuple[str, int]) -> None:
        sock.setblocking(False)
        tls = self._listener.tls
        here = self._address(sock)
        connection = AcceptedConnection(self._state, (client[0], client[1]), here, secure=tls is not None)
        if self._table.admit(connection, client[0], trio.current_time()):
            self._connections.add(connection)
            connections.start_soon(self._serve, connection, sock, tls)
        else:
            if tls is None:
                _refuse(sock, self._state.options)
            sock.close()

    def _address(self, sock: socket.socket) -> tuple[str, int] | None:
        try:
            host, port, *_ = sock.getsockname()
        except OSError:
            return None
        return host, port

    # -- serving

    async def _serve(self, connection: AcceptedConnection, sock: socket.socket, tls: Tls | None) -> None:
        try:
            with connection.scope:
                await self._run_protocol(connection, sock, tls)
        except Exception as error:
            log.warning("connection ended", why=_innermost(error))
        finally:
            self._watcher.remove(sock.fileno())
            self._table.forget(connection)
            self._connections.discard(connection)
            trio.lowlevel.notify_closing(sock)
            sock.close()

    async def _run_protocol(self, connection: AcceptedConnection, sock: socket.socket, tls: Tls | None) -> None:
        http2 = False
        if tls is None:
            connection.transport = PlainTransport(sock, connection.client_gone)
        else:
            stream = await accept_tls(trio.SocketStream(trio.socket.from_stdlib_socket(sock)), tls.context)
            if stream is None:
                return
            connection.transport = TlsTransport(stream, connection.client_gone)
            http2 = stream.selected_alpn_protocol() == "h2"
        self._watcher.add(connection.transport.fd, connection)
        data = b""
        if not http2:
            http1 = Http1Connection(connection)
            connection.http = http1
            await http1.run()
            data = http1.preface  # of HTTP/2, if the client began with it (RFC 9113 section 3.4)
        if http2 or data.startswith(PREFACE):
            await Http2Connection(connection).run(data)

    async def _end_overdue(self) -> None:
        options = self._state.options
        pause = min(1.0, options.keep_alive / 4, options.head_seconds / 4, options.stall_timeout / 4)
        while True:
            await trio.sleep(pause)
            now = trio.current_time()
            self._table.end_overdue(now, options.keep_alive, options.head_seconds)
            if self._state.budget.held:
                for connection in list(self._connections):
                    if isinstance(connection.http, Http2Connection):
                        connection.http.end_stalled(now)


def _refuse(sock: socket.socket, options: HttpOptions) -> None:
    """Sends 503 to a client that is not admitted. It never waits: a new socket's buffer has room for it."""
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
