"""One streaming POST over trio: connect, send, read as it comes, close at once.

Owns the connection of one request while it lasts, the limit of each phase, and the translation of what the network
does into `UpstreamError`. A connection comes from the pool and goes back only if the answer was read to its last
byte; else it is closed. Must not know what is sent or said. Keys pass through as bytes and are never kept, printed
or put into an error.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import trio

from .connection import Connection
from .errors import UpstreamError
from .exchange import ResponseParser
from .pool import Pool

__all__ = ["Limits", "Post"]

RECEIVE_SIZE = 1 << 16  # bytes: all that has arrived is decoded in one go, with one pass of the scheduler


@dataclass(frozen=True, slots=True)
class Limits:
    """How long each phase may take, in seconds.

    `first_byte` is long because servers load models and read long prompts before they answer at all; `idle` is
    because reasoning models think without a word: the providers' SDKs wait 600 s for both. `tail` bounds what is
    of no use to the answer any more: the rest after its finish, the body of an error. `end` is how long the last
    bytes are waited for once the answer is over, which only serves to use the connection again.
    """

    connect: float = 10.0
    send: float = 30.0
    first_byte: float = 600.0
    idle: float = 600.0
    tail: float = 5.0
    end: float = 0.1


class Post:
    """One request and its response. Made without I/O; whoever makes it calls `aclose` at last, whatever happened.

    Every method but `aclose` raises `UpstreamError` for what the provider or the network does.
    """

    def __init__(self, pool: Pool, limits: Limits) -> None:
        self._pool = pool
        self._limits = limits
        self._where = pool.address.authority
        self._connection: Connection | None = None
        self._parser = ResponseParser()
        self._early = b""  # body that has arrived and was not asked for yet
        self._sent = False
        self._read_out = False

    @property
    def status(self) -> int:
        return self._parser.status

    @property
    def headers(self) -> dict[str, str]:
        """The response's headers, names in lower case."""
        return self._parser.headers

    async def start(self, request: bytes) -> None:
        """Send the request and read the response's head (`status`, `headers`)."""
        connection = self._connection = self._pool.take()
        began = trio.current_time()
        if connection is not None and await connection.is_quiet():
            try:
                await self._exchange(connection, request)
            except UpstreamError as error:
                # The provider closed it in the same moment, as it may at any time (RFC 9112 section 9.5). One that
                # is closed after a while had taken the request.
                late = trio.current_time() - began > self._limits.connect
                if error.code != "upstream_cut" or self._parser.heard or late:
                    raise
            else:
                return
        if connection is not None:
            connection.close()
        connection = self._connection = self._pool.new()
        await connection.open(self._limits.connect)
        await self._exchange(connection, request)

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

    async def read_out(self) -> None:
        """Wait a moment for the body's last bytes; if they come, `aclose` keeps the connection for another."""
        if not self._pool.keeping:
            return
        with trio.move_on_after(self._limits.end), suppress(UpstreamError):
            while await self.receive_some(self._limits.end):
                continue
        self._read_out = self._parser.reusable and self._sent

    async def aclose(self) -> None:
        """Close at once: when this returns the FIN (or RST) is out. Idempotent, works when cancelled.

        After `read_out` the connection may be handed on instead.
        """
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._read_out:
                self._pool.give(connection)
            else:
                connection.close()
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def _exchange(self, connection: Connection, request: bytes) -> None:
        self._sent = False
        try:
            # Broken: a server may refuse a long request and close before it has read all of it. See what it said.
            with trio.fail_after(self._limits.send), suppress(trio.BrokenResourceError):
                await connection.send_all(request)
                self._sent = True
        except trio.TooSlowError:
            raise self._timeout("taking the request", self._limits.send, stall=False) from None
        try:
            with trio.fail_after(self._limits.first_byte):
                while True:
                    self._early += await self._feed(connection)
                    if self._parser.head_done:
                        return
                    if self._parser.failure:
                        raise self._parser.failure
        except trio.TooSlowError:
            raise self._timeout("beginning to answer", self._limits.first_byte, stall=True) from None

    @property
    def _over(self) -> bool:
        return self._parser.complete or self._parser.failure is not None

    async def _fill(self, within: float) -> None:
        if self._connection is None:
            raise trio.ClosedResourceError
        try:
            while True:
                with trio.fail_after(within):
                    self._early = await self._feed(self._connection)
                if self._early or self._over:
                    return
        except trio.TooSlowError:
            message = f"the provider sent nothing for {within:g} s"
            raise UpstreamError("upstream_stalled", message, detail=self._where, stall=True) from None

    async def _feed(self, connection: Connection) -> bytes:
        try:
            data = await connection.receive_some(RECEIVE_SIZE)
        except trio.BrokenResourceError as error:
            raise UpstreamError("upstream_cut", "the provider broke the connection", detail=self._where) from error
        if data:
            return self._parser.feed(data)
        self._parser.feed_eof()
        if not self._parser.complete:
            message = "the provider closed the connection too early"
            raise UpstreamError("upstream_cut", message, detail=self._where)
        return b""

    def _timeout(self, what: str, limit: float, *, stall: bool) -> UpstreamError:
        message = f"the provider: {what} took over {limit:g} s"
        return UpstreamError("upstream_timeout", message, detail=self._where, stall=stall)
