"""HTTP/1.1 on one connection (RFC 9112): its requests in turn, and its end.

`http1_parser.py` reads the bytes, `http1_exchange.py` speaks ASGI to the app.

One task does everything in turn: it reads a request, runs the app, and reads the next. While the app runs nobody
reads from the socket unless the app asks for the request's body; what the client sends ahead stays in the kernel.
That the client leaves meanwhile is noticed by the watch (`transport.py`), and the connection's scope is cancelled.

A client that closes its sending half behind a request (FIN) may still be reading, as `nc -N` does: an answer of
known length has `GRACE_SECONDS` to come about. For an endless stream it is the reader's end, as nginx takes it.
"""

import trio

from server import logs
from server.errors import Problem
from server.http.asgi import Headers, Message, http_scope, in_own_context, status_line
from server.http.connection import LINGER_BYTES, LINGER_SECONDS, Connection
from server.http.http1_exchange import Exchange, finish_head
from server.http.http1_parser import HeadParser, RequestHead
from server.http.websocket import Handshake, WebSocket

log = logs.get("host")

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_ALLOWED = b"GET, HEAD, OPTIONS, POST"


class Http1:
    """One connection. `run` returns when it has ended; the caller closes the socket.

    `preface` then holds what was read, if that begins HTTP/2.
    """

    __slots__ = ("_connection", "_exchange", "_lingering", "_lingers", "_rest", "_served", "_websocket", "preface")

    def __init__(self, connection: Connection) -> None:
        self.preface = b""
        self._connection = connection
        self._rest = b""
        self._exchange: Exchange | None = None
        self._websocket: WebSocket | None = None
        self._served = False
        self._lingers = self._lingering = False

    async def run(self) -> None:
        """Answers request after request, until either side wants no more of them."""
        keeps = True
        while keeps:
            head = await self._next_head()
            if head is None:
                break
            self._served = True
            self._connection.serving.table.busy(self._connection)
            self._connection.scope.deadline = float("inf")  # which it may have been given while it was idle
            keeps = await self._serve(head)
        if self._lingers:
            await self._linger()

    # -- what ends it

    def client_finished(self) -> None:
        """The client has sent its last byte."""
        if self._exchange is not None and self._exchange.endless:
            self._connection.client_gone()
        elif self._exchange is not None and self._exchange.sending:
            pass  # it ends, or a write fails
        elif self._exchange is not None or self._websocket is not None:
            self._connection.expire()

    def close_idle(self) -> None:
        """Nothing is under way. What the client has not taken of the last answer it still may, for a while."""
        if self._lingering:
            return  # it has its own deadline
        scope = self._connection.scope
        if self._connection.transport.unsent():
            stall_timeout = self._connection.serving.options.stall_timeout
            scope.deadline = min(scope.deadline, trio.current_time() + stall_timeout)
        else:
            scope.cancel()

    def begin_close(self) -> None:
        """The answer that is under way is the last: `Exchange` looks whether the server is closing."""

    # -- reading

    async def _next_head(self) -> RequestHead | None:
        """The next request's head; None when there is none, or it was refused."""
        table, transport = self._connection.serving.table, self._connection.transport
        parser = HeadParser()
        data, self._rest = self._rest, b""
        if data:
            await trio.lowlevel.checkpoint()  # requests in one packet: others get their turn between them
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
                        self._rest = parser.feed(data)
                    except Problem as problem:
                        await self._refuse(problem)
                        return None
                    if parser.head is not None:
                        return parser.head
                    if parser.begun:
                        table.asking(self._connection, trio.current_time())
            if self._served and not parser.begun and not waits:
                # Once: empty lines, of which clients may send some, are no signs of life.
                table.idle(self._connection, trio.current_time())
                waits = True
                if self._connection.serving.closing:
                    return None
            data = await transport.receive()
            if not data:
                return None

    async def _refuse(self, problem: Problem) -> None:
        """Answers bytes that are no request. Nothing behind them can be understood."""
        self._connection.serving.table.busy(self._connection)
        exchange = Exchange(self, self._connection, None)
        await exchange.answer(problem)
        self._lingers = True

    async def read(self) -> bytes:
        """Bytes of a request's body: what is here, or what comes."""
        if self._rest:
            data, self._rest = self._rest, b""
            return data
        return await self._connection.transport.receive()

    def take_rest(self) -> bytes:
        """What has been read of the body already."""
        data, self._rest = self._rest, b""
        return data

    @property
    def rest_size(self) -> int:
        """How many bytes have been read of it, and not been taken."""
        return len(self._rest)

    def put_back(self, data: bytes) -> None:
        """What was read behind the body: the next request."""
        self._rest = data

    # -- answering

    async def _serve(self, head: RequestHead) -> bool:
        """Answers one request; returns whether another may follow.

        However it is answered, the exchange settles what is left of the request's body: what stays of it would be
        read as the next request.
        """
        connection = self._connection
        exchange = Exchange(self, connection, head)
        if head.path == b"*":
            await exchange.send({"type": "http.response.start", "status": 204, "headers": [(b"allow", _ALLOWED)]})
            await exchange.send({"type": "http.response.body", "body": b""})
        else:
            scope = http_scope(
                head.method,
                head.path,
                head.query,
                head.version,
                head.headers,
                secure=connection.secure,
                client=connection.client,
                server=connection.server,
            )
            if head.upgrades:
                return await self._serve_websocket(head, scope, exchange)
            await self._run_app(scope, exchange)
        await exchange.settle()
        return self._after(exchange)

    async def _run_app(self, scope: Message, exchange: Exchange) -> None:
        connection = self._connection
        self._exchange = exchange
        if connection.finished:
            self.client_finished()
        try:
            await in_own_context(connection.serving.app(scope, exchange.receive, exchange.send))
        except Exception as error:
            if exchange.bad_body is None:
                log.error("request failed", exc_info=error)
        finally:
            self._exchange = None
            connection.scope.deadline = float("inf")

    def _after(self, exchange: Exchange) -> bool:
        if self._connection.transport.broken:
            return False
        self._lingers = not exchange.keeps
        return exchange.keeps

    async def _serve_websocket(self, head: RequestHead, scope: Message, exchange: Exchange) -> bool:
        connection = self._connection
        options = connection.serving.options
        handshake = Handshake(head.headers, needs_key=True)
        carrier = _Carrier(connection, exchange)
        socket = WebSocket(scope, handshake, carrier, options.websocket_bytes, connection.expire)
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
                await in_own_context(connection.serving.app(socket.scope, socket.receive, socket.send))
            except Exception as error:
                log.error("WebSocket failed", exc_info=error)
            await socket.finish()
            with trio.move_on_after(LINGER_SECONDS):  # the client's close frame
                await socket.over.wait()
            nursery.cancel_scope.cancel()
        return False

    async def _read_websocket(self, socket: WebSocket, ping_seconds: float) -> None:
        await socket.accepted()
        data = self.take_rest()
        while True:
            if data:
                await socket.reply(socket.feed(data))
                await socket.room()
            with trio.move_on_after(ping_seconds) as quiet:
                data = await self._connection.transport.receive()
            if quiet.cancelled_caught:
                data = b""
                await socket.ping()
            elif not data:
                socket.end()
                return

    async def _linger(self) -> None:
        """Lets the client read our last words.

        Closing a socket on bytes that nobody has read resets the connection, and the reset takes with it what
        the client has not read yet of our answer. It takes `LINGER_SECONDS` from when the client has taken all,
        and in all no longer than the stall timeout, whatever comes in meanwhile.
        """
        connection, transport = self._connection, self._connection.transport
        stall_timeout = connection.serving.options.stall_timeout
        self._lingering = True
        connection.serving.table.idle(connection, trio.current_time())  # it may have to make room for another
        transport.half_close()
        left = LINGER_BYTES
        with trio.move_on_after(stall_timeout) as patience:
            taken = False
            while left > 0 and not transport.broken:
                if not taken and not transport.unsent():
                    taken = True
                    patience.deadline = min(patience.deadline, trio.current_time() + LINGER_SECONDS)
                with trio.move_on_after(LINGER_SECONDS / 4) as look:
                    data = await transport.receive()
                if look.cancelled_caught:
                    continue
                if not data:
                    break
                left -= len(data)


class _Carrier:
    """A WebSocket's way on HTTP/1.1."""

    __slots__ = ("_connection", "_exchange")

    def __init__(self, connection: Connection, exchange: Exchange) -> None:
        self._connection = connection
        self._exchange = exchange

    async def accept(self, headers: Headers) -> None:
        """101."""
        lines = [status_line(101), b"upgrade: websocket\r\n", b"connection: Upgrade\r\n"]
        await self._connection.transport.send(finish_head(lines, headers))

    async def refuse(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer, after which the connection ends."""
        await self._exchange.send({"type": "http.response.start", "status": status, "headers": headers})
        await self._exchange.send({"type": "http.response.body", "body": body})

    async def send(self, data: bytes) -> None:
        """Frames."""
        await self._connection.transport.send(data)

    def taken(self) -> None:
        """Nothing: the reader waits for room by itself."""
