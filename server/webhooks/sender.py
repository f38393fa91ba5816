"""One POST to a receiver: resolve, judge every address, connect to one of those, send, hear the status.

Owns the way out of this network. The name is resolved once, and the connection goes to an address that was judged:
a name that leads elsewhere a moment later (DNS rebinding) changes nothing. No proxy, no redirect, and nothing of
the answer is kept but its status. It must not know signatures, nor when to try again. No URL reaches a log line.
"""

import ssl
import traceback
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

import trio

from server import logs
from server.upstream.address import Address
from server.upstream.exchange import ResponseParser, encode_request
from server.webhooks.options import ANY_PORT
from server.webhooks.target import is_public, parse_target

log = logs.get("webhooks")

CONNECT_SECONDS = 4.0
"""For each of a name's addresses: one that swallows everything leaves time for the next."""
RECEIVE_SIZE = 4_096  # bytes
MOST_READ, READ_SECONDS = 8_192, 0.5
"""How much of the answer's body is read and thrown away: closing on unread bytes is a reset at the receiver."""

ERRORS: Mapping[str, str] = {
    "name_not_found": "the host's name cannot be resolved",
    "private_address": "the host has an address that is not public",
    "port_not_allowed": "no webhook may go to this port any more",
    "cannot_connect": "none of the host's addresses accepts a connection",
    "tls_failed": "no TLS with a certificate that is valid for the host",
    "cut": "the connection ended before the answer's head",
    "malformed": "what came is no HTTP/1.1",
    "timeout": "it took too long",
    "internal_error": "this server failed; its log says why",
}
"""The errors of a try, for programs, and what each means. Clients are told of some by one code: `Try.shown`."""

Connect = Callable[[str, int], Awaitable[trio.abc.Stream]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a try came to: the receiver's `status`, or one of `ERRORS`; after so many milliseconds."""

    status: int | None
    error: str | None
    ms: int

    @property
    def delivered(self) -> bool:
        """Taken. A redirect is not: who may be told is said by the URL alone."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def gone(self) -> bool:
        """The receiver wants no more of this (410)."""
        return self.status == 410


class Undelivered(Exception):
    """No status came; `error` is one of `ERRORS`."""

    def __init__(self, error: str) -> None:
        super().__init__(error)
        self.error = error


def described(failure: Exception) -> dict[str, str]:
    """A fault of ours for a log line: what and where, without its text, in which the URL could stand."""
    last = traceback.extract_tb(failure.__traceback__)[-1]
    return {"why": type(failure).__name__, "where": f"{last.name}, line {last.lineno} of {last.filename}"}


class Sender:
    """Posts. `timeout` in seconds, for all of a try up to the status; `connect` takes an IP address and a port.

    `ports`: where receivers may listen.
    """

    def __init__(
        self,
        *,
        allow_private: bool,
        timeout: float,
        ports: tuple[range, ...] = ANY_PORT,
        context: ssl.SSLContext | None = None,
        connect: Connect = trio.open_tcp_stream,
    ) -> None:
        self._allow_private = allow_private
        self._timeout = timeout
        self._ports = ports
        self._context = context
        self._connect = connect

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Outcome:
        """One try. Raises nothing: what goes wrong is the outcome."""
        started = trio.current_time()
        status, error = None, None
        try:
            status = await self._post(url, headers, body)
        except Undelivered as undelivered:
            error = undelivered.error
        except trio.TooSlowError:
            error = "timeout"
        except Exception as failure:
            log.error("webhook try failed", **described(failure))
            error = "internal_error"
        return Outcome(status, error, round((trio.current_time() - started) * 1000))

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        target = parse_target(url)
        if not any(target.address.port in ports for ports in self._ports):
            raise Undelivered("port_not_allowed")  # taken when the setting was another one
        request = encode_request(target.address, target.path, headers, body)
        async with AsyncExitStack() as stack:
            with trio.fail_after(self._timeout):
                stream = await self._open(target.address, stack)
                parser = await _exchange(stream, request)
            await _read_out(stream, parser)
        return parser.status

    async def _open(self, address: Address, stack: AsyncExitStack) -> trio.abc.Stream:
        stream = await self._reach(await self._resolve(address), address.port)
        # TLS around it is not told goodbye: that would wait for the receiver.
        stack.push_async_callback(trio.aclose_forcefully, stream)
        if not address.secure:
            return stream
        if self._context is None:  # it reads all the certificates there are
            self._context = await trio.to_thread.run_sync(ssl.create_default_context)
        # https_compatible: receivers end without close_notify, and the protocol has an end of its own.
        tls = trio.SSLStream(stream, self._context, server_hostname=address.host, https_compatible=True)
        try:
            await tls.do_handshake()
        except trio.BrokenResourceError:
            raise Undelivered("tls_failed") from None
        return tls

    async def _resolve(self, address: Address) -> list[str]:
        try:
            found = await trio.socket.getaddrinfo(address.host, address.port, type=trio.socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise Undelivered("name_not_found") from None
        places = list(dict.fromkeys(str(place[0]) for *_, place in found))
        if not self._allow_private and not all(map(is_public, places)):
            raise Undelivered("private_address")
        return places

    async def _reach(self, places: list[str], port: int) -> trio.abc.Stream:
        for place in places:
            with trio.move_on_after(CONNECT_SECONDS), suppress(OSError):
                return await self._connect(place, port)
        raise Undelivered("cannot_connect")


async def _exchange(stream: trio.abc.Stream, request: bytes) -> ResponseParser:
    """Sends the request and reads the answer's head."""
    parser = ResponseParser()
    try:
        # Broken: it may have refused, and closed before it has read all. See what it said.
        with suppress(trio.BrokenResourceError):
            await stream.send_all(request)
        while data := await stream.receive_some(RECEIVE_SIZE):
            parser.feed(bytes(data))
            if parser.head_done:
                return parser
            if parser.failure:
                raise Undelivered("malformed")
    except trio.BrokenResourceError:
        pass
    raise Undelivered("cut")


async def _read_out(stream: trio.abc.Stream, parser: ResponseParser) -> None:
    size = 0
    with trio.move_on_after(READ_SECONDS), suppress(trio.BrokenResourceError):
        while size < MOST_READ and not parser.complete and not parser.failure:
            data = await stream.receive_some(RECEIVE_SIZE)
            if not data:
                return
            size += len(data)
            parser.feed(bytes(data))
