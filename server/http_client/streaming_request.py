"""One request whose response is read as it comes: connect, send, receive, close at once.

Owns the request's connection while it lasts, the time limit of each phase, and the translation of what the network
does into `HttpClientError`. It returns its connection to the pool only after the response was read to its last
byte; otherwise it closes it. Must not know what is sent or received. Keys pass through as bytes, and are never
kept, printed or put into an error.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import trio

from .connection_pool import RECEIVE_SIZE, Connection, ConnectionPool
from .errors import ConnectionCut, HttpClientError, ReadTimeout, ResponseTimeout, SendTimeout
from .http1_codec import ResponseParser

__all__ = ["StreamingRequest", "Timeouts"]


SEND_BYTES = 262_144
"""A long request may leave as slowly as this many bytes a second (2 Mbit/s)."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long each phase of a request may take, in seconds.

    `first_byte` bounds the wait for the response's head, `idle` the wait between two pieces of its body. Both are
    long: a language model may read a long prompt or think for minutes without sending a byte, and the SDKs for
    such models wait 600 s. Sending may take `send`, and one second more for each `SEND_BYTES` of the request: a
    prompt with images has many megabytes. `tail` bounds the wait for bytes that matter little, such as the body of
    an error. `end` bounds the wait for the response's last bytes, which serves only to use the connection again.
    """

    connect: float = 10.0
    send: float = 30.0
    first_byte: float = 600.0
    idle: float = 600.0
    tail: float = 5.0
    end: float = 0.1


class StreamingRequest:
    """One request and its response. Constructing it does no I/O; the caller always calls `aclose` at the end."""

    def __init__(self, pool: ConnectionPool, timeouts: Timeouts) -> None:
        self._pool = pool
        self._timeouts = timeouts
        self._authority = pool.url.authority
        self._connection: Connection | None = None
        self._parser = ResponseParser()
        self._unread = b""  # body that has arrived and was not asked for yet
        self._sent = False
        self._read_to_end = False

    @property
    def status(self) -> int:
        return self._parser.status

    @property
    def headers(self) -> dict[str, str]:
        """The response's headers, names in lower case."""
        return self._parser.headers

    async def start(self, request: bytes) -> None:
        """Sends an encoded request and reads the response's head. Raises `HttpClientError`."""
        connection = self._connection = self._pool.acquire()
        began = trio.current_time()
        if connection is not None and await connection.is_quiet():
            try:
                await self._exchange(connection, request)
            except ConnectionCut:
                # The server may close an idle connection just when the request is sent (RFC 9112 section 9.5).
                # Then the request goes over a new connection. Where the close came late, the server had taken the
                # request and may have worked on it.
                late = trio.current_time() - began > self._timeouts.connect
                if self._parser.received_any or late:
                    raise
            else:
                return
        if connection is not None:
            connection.close()
        connection = self._connection = self._pool.new_connection()
        await connection.open(self._timeouts.connect)
        await self._exchange(connection, request)

    async def receive_some(self, seconds: float) -> bytes:
        """Returns the body's bytes that have arrived, at least one; empty once the body is complete.

        Raises `ReadTimeout` if none comes for `seconds`, `ConnectionCut` if the connection ends early,
        `MalformedResponse`, and trio.ClosedResourceError after `aclose` (the caller is to blame).
        """
        if self._unread or self._over:
            await trio.lowlevel.checkpoint()
        else:
            await self._receive_body(seconds)
        body, self._unread = self._unread, b""
        if not body and self._parser.failure:
            raise self._parser.failure
        return body

    async def read_up_to(self, size: int) -> bytes:
        """Returns the body's first `size` bytes, or what of them came in time. Raises no `HttpClientError`.

        It is for the body of an error: half an explanation is better than none, and better than a second error.
        """
        body = b""
        with trio.move_on_after(self._timeouts.tail):
            await trio.lowlevel.checkpoint()
            while True:
                try:
                    more = await self.receive_some(self._timeouts.tail)
                except HttpClientError:
                    break
                body += more
                if not more or len(body) >= size:
                    break
        return body[:size]

    async def read_to_end(self) -> None:
        """Waits a moment for the body's last bytes. If they come, `aclose` returns the connection to the pool."""
        if not self._pool.running:
            return
        with trio.move_on_after(self._timeouts.end), suppress(HttpClientError):
            while await self.receive_some(self._timeouts.end):
                continue
        self._read_to_end = self._parser.reusable and self._sent

    async def aclose(self) -> None:
        """Closes at once: the FIN (or RST) is sent when this returns. Idempotent; works in a cancelled scope.

        After `read_to_end` it may return the connection to the pool instead.
        """
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._read_to_end:
                self._pool.release(connection)
            else:
                connection.close()
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def _exchange(self, connection: Connection, request: bytes) -> None:
        """Sends the request and reads the response's head."""
        self._sent = False
        bound = self._timeouts.send + len(request) // SEND_BYTES
        try:
            # A server may refuse a long request and close before it has read all of it. Sending then fails, and
            # the refusal can still be read.
            with trio.fail_after(bound), suppress(trio.BrokenResourceError):
                await connection.send_all(request)
                self._sent = True
        except trio.TooSlowError:
            raise SendTimeout(bound, detail=self._authority) from None
        try:
            with trio.fail_after(self._timeouts.first_byte):
                while True:
                    self._unread += await self._receive(connection)
                    if self._parser.head_complete:
                        return
                    if self._parser.failure:
                        raise self._parser.failure
        except trio.TooSlowError:
            raise ResponseTimeout(self._timeouts.first_byte, detail=self._authority) from None

    @property
    def _over(self) -> bool:
        return self._parser.complete or self._parser.failure is not None

    async def _receive_body(self, seconds: float) -> None:
        """Receives until there is a byte of body, or the response is over. Each received byte renews the limit."""
        if self._connection is None:
            raise trio.ClosedResourceError
        try:
            while True:
                with trio.fail_after(seconds):
                    self._unread = await self._receive(self._connection)
                if self._unread or self._over:
                    return
        except trio.TooSlowError:
            raise ReadTimeout(seconds, detail=self._authority) from None

    async def _receive(self, connection: Connection) -> bytes:
        """Receives once; returns what of it belongs to the body."""
        try:
            data = await connection.receive_some(RECEIVE_SIZE)
        except trio.BrokenResourceError as error:
            raise ConnectionCut(reset=True, detail=self._authority) from error
        if data:
            return self._parser.feed(data)
        self._parser.feed_eof()
        if not self._parser.complete:
            raise ConnectionCut(reset=False, detail=self._authority)
        return b""
