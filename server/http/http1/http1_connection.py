"""HTTP/1.1 on one connection (RFC 9112): one request after the other, and how the connection ends.

`http1_parser.py` parses the bytes, `http1_exchange.py` translates one request and response to ASGI.

One task reads a request, runs the app, and reads the next request. While the app runs, nobody reads from the
socket unless the app asks for the request's body; what the client sends ahead stays in the kernel. If the client
leaves meanwhile, the disconnect watcher (`transport.py`) notices it and cancels the connection's scope.

A client that closes its sending half after a request (FIN) may still be reading, as `nc -N` does. So the app has
`GRACE_SECONDS` to begin a response of known length, which is then sent to its end. An endless stream is ended: as
in nginx, its reader counts as gone.
"""

import trio

from server.http.asgi import Headers, Message, http_scope, in_own_context, status_line
from server.http.connection import LINGER_BYTES, LINGER_SECONDS, AcceptedConnection
from server.http.http1.http1_exchange import Http1Exchange, finish_head
from server.http.http1.http1_parser import HeadParser, RequestHead
from server.http.websocket import WebSocket, WebSocketHandshake
from server.observability import logs
from server.problem import Problem

log = logs.get("http")

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_METHODS = b"GET, HEAD, OPTIONS, POST"


class Http1Connection:
    """One connection. `run` returns when it has ended; the caller closes the socket.

    `preface` then holds what was read, if the client's first bytes begin HTTP/2's preface.
    """

    __slots__ = (
        "_connection",
        "_exchange",
        "_lingering",
        "_lingers",
        "_served",
        "_unread",
        "_websocket",
        "preface",
    )

    def __init__(self, connection: AcceptedConnection) -> None:
        self.preface = b""
        self._connection = connection
        self._unread = b""
        self._exchange: Http1Exchange | None = None
        self._websocket: WebSocket | None = None
        self._served = False
        self._lingers = self._lingering = False

    async def run(self) -> None:
        """Serves one request after the other, until either side ends the connection."""
        keeps = True
        while keeps:
            head = await self._next_head()
            if head is None:
                break
            self._served = True
            self._connection.server.table.busy(self._connection)
            self._connection.scope.deadline = float("inf")  # `close_idle` may have set one
            keeps = await self._serve(head)
        if self._lingers:
            await self._linger()

    # -- ending (`HttpConnection`)

    def client_finished(self) -> None:
        """See `HttpConnection`."""
        if self._exchange is not None and self._exchange.endless:
            self._connection.client_gone()
        elif self._exchange is not None and self._exchange.sending:
            pass  # the response has an end, and if the client has left, a write fails
        elif self._exchange is not None or self._websocket is not None:
            self._connection.expire()

    def close_idle(self) -> None:
        """See `HttpConnection`. The client may still take what is unsent of the last response, for a while."""
        if self._lingering:
            return  # `_linger` has a deadline of its own
        scope = self._connection.scope
        if self._connection.transport.unsent():
            stall_timeout = self._connection.server.options.stall_timeout
            scope.deadline = min(scope.deadline, trio.current_time() + stall_timeout)
        else:
            scope.cancel()

    def begin_close(self) -> None:
        """See `HttpConnection`. Nothing to do: `Http1Exchange` sees that the server is closing, and says so."""

    # -- reading

    async def _next_head(self) -> RequestHead | None:
        """Returns the next request's head; None if the connection ends, or the head was refused."""
        table, transport = self._connection.server.table, self._connection.transport
        parser = HeadParser()
        data, self._unread = self._unread, b""
        if data:
            await trio.lowlevel.checkpoint()  # pipelined requests: other tasks run between them
        waits = False
        while True:
            if data:
                if not self._served and PREFACE.startswith((self.preface + data)[: len(PREFACE)]):
                    self.preface += data
                    if len(self.preface) >= len(PREFACE):
                        return None
                else:
                    data, self.preface = self.preface + data, b""
                    try:
                        self._unread = parser.feed(data)
                    except Problem as problem:
                        await self._refuse(problem)
                        return None
                    if parser.head is not None:
                        return parser.head
                    if parser.begun:
                        table.asking(self._connection, trio.current_time())
            if self._served and not parser.begun and not waits:
                # Only once: else a client could send empty lines for ever and never be idle for too long.
                table.idle(self._connection, trio.current_time())
                waits = True
                if self._connection.server.closing:
                    return None
            data = await transport.receive()
            if not data:
                return None

    async def _refuse(self, problem: Problem) -> None:
        """Answers bytes that are no request, and ends: where the next request begins cannot be known."""
        self._connection.server.table.busy(self._connection)
        exchange = Http1Exchange(self, self._connection, None)
        await exchange.answer(problem)
        self._lingers = True

    async def read(self) -> bytes:
        """See `BodySource`."""
        if self._unread:
            data, self._unread = self._unread, b""
            return data
        return await self._connection.transport.receive()

    def take_unread(self) -> bytes:
        """See `BodySource`."""
        data, self._unread = self._unread, b""
        return data

    @property
    def unread_size(self) -> int:
        """See `BodySource`."""
        return len(self._unread)

    def put_back(self, data: bytes) -> None:
        """See `BodySource`."""
        self._unread = data

    # -- serving

    async def _serve(self, head: RequestHead) -> bool:
        """Serves one request; returns whether another may follow.

        However the request is answered, the exchange settles what is left of its body. Otherwise the rest of the
        body would be parsed as the next request.
        """
        connection = self._connection
        exchange = Http1Exchange(self, connection, head)
        if head.path == b"*":
            await exchange.send({"type": "http.response.start", "status": 204, "headers": [(b"allow", _METHODS)]})
            await exchange.send({"type": "http.response.body", "body": b""})
        else:
            scope = http_scope(
                head.method,
                head.path,
                head.query,
                head.version,
                head.headers,
                secure=connection.secure,
                client=connection.client_address,
                server=connection.server_address,
            )
            if head.upgrades:
                return await self._serve_websocket(head, scope, exchange)
            await self._run_app(scope, exchange)
        await exchange.settle()
        return self._after(exchange)

    async def _run_app(self, scope: Message, exchange: Http1Exchange) -> None:
        connection = self._connection
        self._exchange = exchange
        if connection.finished:
            self.client_finished()
        try:
            await in_own_context(connection.server.app(scope, exchange.receive, exchange.send))
        except Exception as error:
            if exchange.bad_body is None:
                log.error("request failed", exc_info=error)
        finally:
            self._exchange = None
            connection.scope.deadline = float("inf")

    def _after(self, exchange: Http1Exchange) -> bool:
        if self._connection.transport.broken:
            return False
        self._lingers = not exchange.keeps
        return exchange.keeps

    async def _serve_websocket(self, head: RequestHead, scope: Message, exchange: Http1Exchange) -> bool:
        connection = self._connection
        options = connection.server.options
        handshake = WebSocketHandshake(head.headers, needs_key=True)
        websocket_transport = _Http1WebSocketTransport(connection, exchange)
        socket = WebSocket(scope, handshake, websocket_transport, options.websocket_bytes, connection.expire)
        self._lingers = True
        if handshake.problem is not None:
            await socket.refuse(handshake.problem, options.encode_problem(handshake.problem))
            return False
        self._websocket = socket
        if connection.finished:
            connection.expire()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_websocket, socket, options.ping_seconds)
            try:
                await in_own_context(connection.server.app(socket.scope, socket.receive, socket.send))
            except Exception as error:
                log.error("WebSocket failed", exc_info=error)
            await socket.finish()
            with trio.move_on_after(LINGER_SECONDS):  # for the client's close frame
                await socket.over.wait()
            nursery.cancel_scope.cancel()
        return False

    async def _read_websocket(self, socket: WebSocket, ping_seconds: float) -> None:
        await socket.accepted()
        data = self.take_unread()
        while True:
            if data:
                await socket.reply(socket.feed(data))
                await socket.wait_for_room()
            with trio.move_on_after(ping_seconds) as quiet:
                data = await self._connection.transport.receive()
            if quiet.cancelled_caught:
                data = b""
                await socket.ping()
            elif not data:
                socket.end()
                return

    async def _linger(self) -> None:
        """Gives the client time to read the last response before the socket is closed.

        Closing a socket with unread received bytes resets the connection, and the client may lose what it has not
        read of the response. So what comes in is read and dropped, until `LINGER_SECONDS` after the client has
        acknowledged the whole response, and at most until the stall timeout.
        """
        connection, transport = self._connection, self._connection.transport
        stall_timeout = connection.server.options.stall_timeout
        self._lingering = True
        # So that it can be ended to make room for another.
        connection.server.table.idle(connection, trio.current_time())
        transport.half_close()
        bytes_left = LINGER_BYTES
        with trio.move_on_after(stall_timeout) as linger:
            acknowledged = False
            while bytes_left > 0 and not transport.broken:
                if not acknowledged and not transport.unsent():
                    acknowledged = True
                    linger.deadline = min(linger.deadline, trio.current_time() + LINGER_SECONDS)
                with trio.move_on_after(LINGER_SECONDS / 4) as interval:
                    data = await transport.receive()
                if interval.cancelled_caught:
                    continue
                if not data:
                    break
                bytes_left -= len(data)


class _Http1WebSocketTransport:
    """How a WebSocket sends on HTTP/1.1."""

    __slots__ = ("_connection", "_exchange")

    def __init__(self, connection: AcceptedConnection, exchange: Http1Exchange) -> None:
        self._connection = connection
        self._exchange = exchange

    async def accept(self, headers: Headers) -> None:
        """Sends 101 Switching Protocols."""
        lines = [status_line(101), b"upgrade: websocket\r\n", b"connection: Upgrade\r\n"]
        await self._connection.transport.send(finish_head(lines, headers))

    async def refuse(self, status: int, headers: Headers, body: bytes) -> None:
        """Sends a whole response, after which the connection ends."""
        await self._exchange.send({"type": "http.response.start", "status": status, "headers": headers})
        await self._exchange.send({"type": "http.response.body", "body": body})

    async def send(self, data: bytes) -> None:
        """Sends frames."""
        await self._connection.transport.send(data)

    def taken(self) -> None:
        """Does nothing: the reader waits for room by itself."""
