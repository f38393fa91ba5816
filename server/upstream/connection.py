"""One connection to a provider: TCP, a proxy's tunnel where one is set, TLS where the address wants it.

Owns the socket: who holds a `Connection` holds one, or will once it is open, and `close` is all it takes to be rid
of it. Must not know requests, nor who uses a connection after whom.
"""

from __future__ import annotations

import ssl
from contextlib import suppress

import trio

from .address import Address
from .errors import UpstreamError
from .exchange import ResponseParser
from .proxy import Proxy, encode_connect

__all__ = ["Connection"]

RECEIVE_SIZE = 1 << 16  # bytes


class Connection:
    """One socket, maybe with TLS around it. Made without I/O."""

    def __init__(self, address: Address, context: ssl.SSLContext | None, proxy: Proxy | None = None) -> None:
        """`context` for TLS; with a proxy, TLS goes through a tunnel, and all else to the proxy itself."""
        self._address = address
        self._context = context
        self._proxy = proxy
        self._socket: trio.SocketStream | None = None
        self._stream: trio.abc.Stream | None = None  # the socket itself, or TLS around it

    async def open(self, limit: float) -> None:
        """Connect within so many seconds. Raises `UpstreamError`; close it then, too."""
        address, proxy = self._address, self._proxy
        first = proxy.address if proxy else address
        try:
            with trio.fail_after(limit):
                self._stream = self._socket = await trio.open_tcp_stream(first.host, first.port)
                if self._context is None:
                    return
                if proxy:
                    await _dig(self._socket, address, proxy)
                # https_compatible: providers end without close_notify, and the protocol has an end of its own.
                tls = self._stream = trio.SSLStream(
                    self._socket, self._context, server_hostname=address.host, https_compatible=True
                )
                await tls.do_handshake()
        except trio.TooSlowError:
            message = f"accepting the connection took over {limit:g} s"
            raise UpstreamError("upstream_timeout", message, detail=first.authority) from None
        except (OSError, trio.BrokenResourceError) as error:
            raise self._unavailable(error) from error

    async def send_all(self, data: bytes) -> None:
        """As trio's SendStream."""
        await self._opened().send_all(data)

    async def receive_some(self, most: int) -> bytes:
        """As trio's ReceiveStream."""
        return bytes(await self._opened().receive_some(most))

    async def is_quiet(self) -> bool:
        """Whether nothing has come since the last answer: no end, no byte. Only then can it be used again.

        A byte that nobody asked for would be read as the beginning of the next answer. Does not wait.
        """
        stream = self._opened()
        await trio.lowlevel.checkpoint()
        if self._socket is None or self._socket.socket.is_readable():
            return False
        if stream is self._socket:
            return True
        # TLS may hold back what came together with the last answer. Its read looks there first, and only then at
        # the socket; the deadline is set inside, for a scope that begins as cancelled would stop it before both.
        with trio.CancelScope() as scope:
            scope.deadline = trio.current_time()
            with suppress(trio.BrokenResourceError):
                await stream.receive_some(1)
        return scope.cancelled_caught

    def close(self) -> None:
        """Close at once: when this returns the FIN (or RST) is out. Idempotent.

        TLS is not told goodbye: that would wait for the provider.
        """
        if self._socket is not None:
            self._socket.socket.close()
        self._socket = self._stream = None

    def _opened(self) -> trio.abc.Stream:
        if self._stream is None:
            raise trio.ClosedResourceError
        return self._stream

    def _unavailable(self, error: Exception) -> UpstreamError:
        cause = error.__cause__ if isinstance(error, trio.BrokenResourceError) else error
        where = self._address.authority
        if self._proxy:
            where += f" through the proxy {self._proxy.address.authority}"
        if isinstance(cause, ssl.SSLCertVerificationError):
            # Nobody mends a certificate within a retry's time.
            # The reason may name the host that is expected, so it is not for every reader.
            detail = f"{where}: {cause.verify_message}"
            message = "the provider's certificate is not valid"
            return UpstreamError("upstream_unavailable", message, detail=detail, retryable=False)
        return UpstreamError("upstream_unavailable", "cannot connect to the provider", detail=f"{where}: {cause}")


async def _dig(socket: trio.SocketStream, address: Address, proxy: Proxy) -> None:
    """Ask the proxy for a tunnel to the address. Raises `UpstreamError`, with no word of the proxy's."""
    await socket.send_all(encode_connect(address, proxy))
    parser, body = ResponseParser(), b""
    while not parser.head_done and not parser.failure and (data := await socket.receive_some(RECEIVE_SIZE)):
        body += parser.feed(bytes(data))
    where = proxy.address.authority
    if parser.failure or not parser.head_done:
        raise UpstreamError("upstream_unavailable", "the proxy does not answer as one", detail=where)
    if not 200 <= parser.status < 300:
        # A name that it cannot find or reach (5xx) may pass; that it wants another password, or forbids, does not.
        message = f"the proxy answered {parser.status} to CONNECT"
        passing = parser.status >= 500 or parser.status in (408, 429)
        raise UpstreamError("upstream_unavailable", message, detail=where, retryable=passing)
    if body:
        message = "the proxy put bytes of its own into the tunnel"
        raise UpstreamError("upstream_malformed", message, detail=where)
