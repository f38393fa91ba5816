"""One streaming POST over trio: connect, send, read as it comes, close at once.

Owns the socket of one request, the limit of each phase, and the translation of what the network does into
`UpstreamError`. A connection serves one request and is closed after it; to reuse connections, a pool would hand an
idle stream to `start` and take it back from `aclose`. Must not know what is sent or said. Keys pass through as
bytes and are never kept, printed or put into an error.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from dataclasses import dataclass

import trio

from .address import Address
from .errors import UpstreamError
from .exchange import ResponseParser

__all__ = ["Limits", "Post"]

RECEIVE_SIZE = 1 << 16  # bytes: all that has arrived is decoded in one go, with one pass of the scheduler


@dataclass(frozen=True, slots=True)
class Limits:
    """How long each phase may take, in seconds.

    `first_byte` is long because servers load models and read long prompts before they answer at all; `idle` is
    longer, because reasoning models think without a word (the providers' SDKs wait 600 s). `tail` bounds what is
    of no use to the answer any more: the rest after its finish, the body of an error.
    """

    connect: float = 10.0
    send: float = 30.0
    first_byte: float = 120.0
    idle: float = 180.0
    tail: float = 5.0


class Post:
    """One request and its response. Made without I/O; whoever makes it calls `aclose` at last, whatever happened.

    Every method but `aclose` raises `UpstreamError` for what the provider or the network does.
    """

    def __init__(self, address: Address, limits: Limits, context: ssl.SSLContext | None) -> None:
        self._address = address
        self._limits = limits
        self._context = context
        self._socket: trio.SocketStream | None = None
        self._stream: trio.abc.Stream | None = None  # the socket itself, or TLS around it
        self._parser = ResponseParser()
        self._early = b""  # body that has arrived and was not asked for yet

    @property
    def status(self) -> int:
        return self._parser.status

    @property
    def headers(self) -> dict[str, str]:
        """The response's headers, names in lower case."""
        return self._parser.headers

    async def start(self, request: bytes) -> None:
        """Connect, send the request and read the response's head (`status`, `headers`)."""
        stream = self._stream = await self._connect()
        try:
            # Broken: a server may refuse a long request and close before it has read all of it. See what it said.
            with trio.fail_after(self._limits.send), suppress(trio.BrokenResourceError):
                await stream.send_all(request)
        except trio.TooSlowError:
            raise self._timeout("taking the request", self._limits.send) from None
        try:
            with trio.fail_after(self._limits.first_byte):
                while True:
                    self._early += await self._feed(stream)
                    if self._parser.head_done:
                        return
                    if self._parser.failure:
                        raise self._parser.failure
        except trio.TooSlowError:
            raise self._timeout("beginning to answer", self._limits.first_byte) from None

    async def receive_some(self, within: float) -> bytes:
        """The body's bytes that have arrived, at least one; empty once the body is complete.

        Raises `upstream_stalled` if none comes for `within` seconds, `upstream_cut` if the connection ends early,
        trio.ClosedResourceError after `aclose` (the caller's fault).
        """
        if self._early or self._over:
            await trio.lowlevel.checkpoint()
        else:
            await self._fill(within)
        body, self._early = self._early, b""
        if not body and self._parser.failure:
            raise self._parser.failure
        return body

    async def read_up_to(self, size: int) -> bytes:
        """The body's first `size` bytes, or what of it came in time; for errors, so it raises none itself."""
        body = b""
        with trio.move_on_after(self._limits.tail):
            await trio.lowlevel.checkpoint()
            while True:
                try:
                    more = await self.receive_some(self._limits.tail)
                except UpstreamError:
                    break  # half an explanation is better than none, and than another error
                body += more
                if not more or len(body) >= size:
                    break
        return body[:size]

    async def aclose(self) -> None:
        """Close at once: when this returns the FIN (or RST) is out. Idempotent, works when cancelled.

        TLS is not told goodbye: that would wait for the provider.
        """
        socket, self._socket, self._stream = self._socket, None, None
        if socket is None:
            await trio.lowlevel.checkpoint()
        else:
            await trio.aclose_forcefully(socket)

    async def _connect(self) -> trio.abc.Stream:
        address = self._address
        try:
            with trio.fail_after(self._limits.connect):
                self._socket = await trio.open_tcp_stream(address.host, address.port)
                if self._context is None:
                    return self._socket
                # https_compatible: providers end without close_notify, and the protocol has an end of its own.
                tls = trio.SSLStream(
                    self._socket, self._context, server_hostname=address.host, https_compatible=True
                )
                await tls.do_handshake()
                return tls
        except trio.TooSlowError:
            raise self._timeout("accepting the connection", self._limits.connect) from None
        except (OSError, trio.BrokenResourceError) as error:
            raise self._unavailable(error) from error

    @property
    def _over(self) -> bool:
        return self._parser.complete or self._parser.failure is not None

    async def _fill(self, within: float) -> None:
        if self._stream is None:
            raise trio.ClosedResourceError
        try:
            while True:
                with trio.fail_after(within):
                    self._early = await self._feed(self._stream)
                if self._early or self._over:
                    return
        except trio.TooSlowError:
            message = f"{self._address.authority} sent nothing for {within:g} s"
            raise UpstreamError("upstream_stalled", message) from None

    async def _feed(self, stream: trio.abc.Stream) -> bytes:
        try:
            data = await stream.receive_some(RECEIVE_SIZE)
        except trio.BrokenResourceError as error:
            raise UpstreamError("upstream_cut", f"{self._address.authority} broke the connection") from error
        if data:
            return self._parser.feed(bytes(data))
        self._parser.feed_eof()
        if not self._parser.complete:
            raise UpstreamError("upstream_cut", f"{self._address.authority} closed the connection too early")
        return b""

    def _timeout(self, what: str, limit: float) -> UpstreamError:
        return UpstreamError("upstream_timeout", f"{self._address.authority}: {what} took over {limit:g} s")

    def _unavailable(self, error: Exception) -> UpstreamError:
        cause = error.__cause__ if isinstance(error, trio.BrokenResourceError) else error
        where = self._address.authority
        if isinstance(cause, ssl.SSLCertVerificationError):
            # Nobody mends a certificate within a retry's time.
            message = f"the certificate of {where} is not valid: {cause.verify_message}"
            return UpstreamError("upstream_unavailable", message, retryable=False)
        return UpstreamError("upstream_unavailable", f"cannot connect to {where}")
