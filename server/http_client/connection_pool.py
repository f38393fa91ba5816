"""A connection that this server opens, and the pool of idle ones that are kept for the next request.

Owns sockets: the TCP connection, a proxy's tunnel where one is set, TLS where the URL wants it. A pool keeps idle
connections only while somebody runs it, only so many, and each only for a while. So every idle socket has an owner
who closes it. Must not know requests: the user of a connection decides whether it can be used again.
"""

from __future__ import annotations

import ssl
from contextlib import suppress

import trio

from .base_url import BaseUrl
from .errors import CertificateError, ConnectError, ConnectTimeout, HttpClientError, ProxyError, TunnelError
from .http1_codec import ResponseParser
from .proxy import Proxy, encode_connect

RECEIVE_SIZE = 1 << 16
"""Bytes. All that has arrived is taken at once, and so decoded in one turn of the scheduler."""
MAX_IDLE = 8
IDLE_SECONDS = 30.0
"""Shorter than what servers usually wait (nginx 75 s). uvicorn's 5 s are noticed when a connection is reused."""


class Connection:
    """One socket, with TLS around it or not. Constructing it does no I/O."""

    def __init__(self, url: BaseUrl, context: ssl.SSLContext | None, proxy: Proxy | None = None) -> None:
        """`context`: for TLS, or None. With a `proxy`, TLS goes through a tunnel, and plain HTTP to the proxy."""
        self._url = url
        self._context = context
        self._proxy = proxy
        self._socket: trio.SocketStream | None = None
        self._stream: trio.abc.Stream | None = None  # the socket itself, or TLS around it

    async def open(self, seconds: float) -> None:
        """Connects within so many seconds. Raises `HttpClientError`; the caller closes it then, too."""
        url, proxy = self._url, self._proxy
        peer = proxy.url if proxy else url
        try:
            with trio.fail_after(seconds):
                self._stream = self._socket = await trio.open_tcp_stream(peer.host, peer.port)
                if self._context is None:
                    return
                if proxy:
                    await _open_tunnel(self._socket, url, proxy)
                # https_compatible: many servers close without close_notify, and HTTP frames its bodies itself.
                tls = self._stream = trio.SSLStream(
                    self._socket, self._context, server_hostname=url.host, https_compatible=True
                )
                await tls.do_handshake()
        except trio.TooSlowError:
            raise ConnectTimeout(seconds, detail=peer.authority) from None
        except (OSError, trio.BrokenResourceError) as error:
            raise self._connect_error(error) from error

    async def send_all(self, data: bytes) -> None:
        """As trio's SendStream."""
        await self._opened().send_all(data)

    async def receive_some(self, max_bytes: int) -> bytes:
        """As trio's ReceiveStream."""
        return bytes(await self._opened().receive_some(max_bytes))

    async def is_quiet(self) -> bool:
        """Whether nothing has come since the last response: no byte and no close. Does not wait.

        Only a quiet connection can be used again. A stray byte would be read as the beginning of the next
        response.
        """
        stream = self._opened()
        await trio.lowlevel.checkpoint()
        if self._socket is None or self._socket.socket.is_readable():
            return False
        if stream is self._socket:
            return True
        # TLS may hold decrypted bytes that came together with the last response. Its read looks there first and
        # at the socket second. The deadline is set inside the scope: a scope that begins cancelled would stop the
        # read before it has looked anywhere.
        with trio.CancelScope() as scope:
            scope.deadline = trio.current_time()
            with suppress(trio.BrokenResourceError):
                await stream.receive_some(1)
        return scope.cancelled_caught

    def close(self) -> None:
        """Closes at once: the FIN (or RST) is sent when this returns. Idempotent.

        Sends no close_notify in TLS: that would wait for the server.
        """
        if self._socket is not None:
            self._socket.socket.close()
        self._socket = self._stream = None

    def _opened(self) -> trio.abc.Stream:
        if self._stream is None:
            raise trio.ClosedResourceError
        return self._stream

    def _connect_error(self, error: Exception) -> HttpClientError:
        cause = error.__cause__ if isinstance(error, trio.BrokenResourceError) else error
        where = self._url.authority
        if self._proxy:
            where += f" through the proxy {self._proxy.url.authority}"
        if isinstance(cause, ssl.SSLCertVerificationError):
            # OpenSSL's reason may name the host that the operator has set, so it goes into the detail.
            return CertificateError(detail=f"{where}: {cause.verify_message}")
        return ConnectError(detail=f"{where}: {cause}")


async def _open_tunnel(socket: trio.SocketStream, url: BaseUrl, proxy: Proxy) -> None:
    """Asks the proxy for a tunnel to the URL's host. Raises `HttpClientError` without a word of the proxy's."""
    await socket.send_all(encode_connect(url, proxy))
    parser, body = ResponseParser(), b""
    while not parser.head_complete and not parser.failure and (data := await socket.receive_some(RECEIVE_SIZE)):
        body += parser.feed(bytes(data))
    where = proxy.url.authority
    if parser.failure or not parser.head_complete:
        raise ProxyError(None, detail=where)
    if not 200 <= parser.status < 300:
        raise ProxyError(parser.status, detail=where)
    if body:
        raise TunnelError(detail=where)


class ConnectionPool:
    """Connections to one base URL. No method but `run` waits."""

    def __init__(
        self,
        url: BaseUrl,
        context: ssl.SSLContext | None = None,
        *,
        proxy: Proxy | None = None,
        max_idle: int = MAX_IDLE,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self.url = url
        self.running = False
        self._context = context
        self._proxy = proxy
        self._max_idle = max_idle
        self._idle_seconds = idle_seconds
        self._idle: list[tuple[float, Connection]] = []  # each with the time at which it is closed, soonest first

    def __len__(self) -> int:
        """How many connections are idle."""
        return len(self._idle)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keeps idle connections until it is cancelled; then closes them. Without it none is kept."""
        self.running = True
        task_status.started()
        try:
            while True:
                # A connection that is released during this sleep is not due before the sleep ends.
                due = self._idle[0][0] if self._idle else trio.current_time() + self._idle_seconds
                await trio.sleep_until(due)
                self._close_due()
        finally:
            self.running = False
            while self._idle:
                self._idle.pop()[1].close()

    def new_connection(self) -> Connection:
        """A connection that is not open yet."""
        return Connection(self.url, self._context, self._proxy)

    def acquire(self) -> Connection | None:
        """Takes out the idle connection that was used last, the likeliest to be alive; None if none is idle."""
        self._close_due()
        return self._idle.pop()[1] if self._idle else None

    def release(self, connection: Connection) -> None:
        """Takes over a connection that can be used again. The caller must not touch it any more."""
        if not self.running:
            connection.close()
            return
        self._idle.append((trio.current_time() + self._idle_seconds, connection))
        if len(self._idle) > self._max_idle:
            self._idle.pop(0)[1].close()

    def _close_due(self) -> None:
        while self._idle and self._idle[0][0] <= trio.current_time():
            self._idle.pop(0)[1].close()
