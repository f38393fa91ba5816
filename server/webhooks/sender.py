"""One POST to a receiver, and its way out of the operator's network.

`Sender` resolves the host's name once, checks every address, and connects to one of those: a name that leads
elsewhere a moment later (DNS rebinding) changes nothing. It uses no proxy, follows no redirect and keeps the
status alone. It must not know what is sent, or when to try again. No URL reaches a log line, for it may hold a
secret.
"""

import ssl
import traceback
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

import trio

from server.http_client.base_url import BaseUrl
from server.http_client.http1_codec import ResponseParser, encode_request
from server.observability import logs
from server.webhooks.target_address import ANY_PORT, is_public, parse_target_url

log = logs.get("webhooks")

CONNECT_SECONDS = 4.0
"""For each address of the host: an address that never answers leaves time for the next one."""
RECEIVE_SIZE = 4_096  # bytes
MAX_READ, READ_SECONDS = 8_192, 0.5
"""How much of the response body is read and dropped: TCP resets a connection that is closed on unread bytes."""

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
"""The error codes of a try, and what each means. `Try.shown` shows clients one code for several of them."""

Connect = Callable[[str, int], Awaitable[trio.abc.Stream]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a try: the receiver's HTTP `status`, or one of `ERRORS`, after `ms` milliseconds."""

    status: int | None
    error: str | None
    ms: int

    @property
    def delivered(self) -> bool:
        """Whether the receiver took it (2xx).

        A redirect (3xx) is a failure: only the registered URL may get it.
        """
        return self.status is not None and 200 <= self.status < 300

    @property
    def gone(self) -> bool:
        """Whether the receiver wants no more tries (410 Gone)."""
        return self.status == 410


class DeliveryError(Exception):
    """A try got no status. `error` is one of `ERRORS`."""

    def __init__(self, error: str) -> None:
        super().__init__(error)
        self.error = error


def describe_fault(failure: Exception) -> dict[str, str]:
    """The fields of a log line about a bug: type and place of the exception.

    Not its text: the URL may be in it.
    """
    last = traceback.extract_tb(failure.__traceback__)[-1]
    return {"why": type(failure).__name__, "where": f"{last.name}, line {last.lineno} of {last.filename}"}


class Sender:
    """Sends POSTs to receivers.

    `timeout`: seconds of a try, until the status has come. `ports`: those that receivers may listen on.
    `allow_private`: addresses that are not public are allowed. `connect` takes an IP address and a port.
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
        """Makes one try. Raises no error: whatever goes wrong is in the outcome."""
        started = trio.current_time()
        status, error = None, None
        try:
            status = await self._post(url, headers, body)
        except DeliveryError as undelivered:
            error = undelivered.error
        except trio.TooSlowError:
            error = "timeout"
        except Exception as failure:
            log.error("webhook try failed", **describe_fault(failure))
            error = "internal_error"
        return Outcome(status, error, round((trio.current_time() - started) * 1000))

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        target = parse_target_url(url)
        if not any(target.address.port in ports for ports in self._ports):
            raise DeliveryError("port_not_allowed")  # it was registered under another setting
        request = encode_request(target.address, target.path, headers, body)
        async with AsyncExitStack() as stack:
            with trio.fail_after(self._timeout):
                stream = await self._open(target.address, stack)
                parser = await _exchange(stream, request)
            await _drain_response(stream, parser)
        return parser.status

    async def _open(self, address: BaseUrl, stack: AsyncExitStack) -> trio.abc.Stream:
        stream = await self._connect_to_any(await self._resolve(address), address.port)
        # Closed without TLS's close_notify: sending it could wait for the receiver.
        stack.push_async_callback(trio.aclose_forcefully, stream)
        if not address.secure:
            return stream
        if self._context is None:  # in a thread: it reads all certificates from disk
            self._context = await trio.to_thread.run_sync(ssl.create_default_context)
        # https_compatible: many receivers close without close_notify; HTTP says itself where the response ends.
        tls = trio.SSLStream(stream, self._context, server_hostname=address.host, https_compatible=True)
        try:
            await tls.do_handshake()
        except trio.BrokenResourceError:
            raise DeliveryError("tls_failed") from None
        return tls

    async def _resolve(self, address: BaseUrl) -> list[str]:
        try:
            found = await trio.socket.getaddrinfo(address.host, address.port, type=trio.socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise DeliveryError("name_not_found") from None
        addresses = list(dict.fromkeys(str(socket_address[0]) for *_, socket_address in found))
        if not self._allow_private and not all(map(is_public, addresses)):
            raise DeliveryError("private_address")
        return addresses

    async def _connect_to_any(self, addresses: list[str], port: int) -> trio.abc.Stream:
        for ip in addresses:
            with trio.move_on_after(CONNECT_SECONDS), suppress(OSError):
                return await self._connect(ip, port)
        raise DeliveryError("cannot_connect")


async def _exchange(stream: trio.abc.Stream, request: bytes) -> ResponseParser:
    """Sends the request and reads the head of the response."""
    parser = ResponseParser()
    try:
        # The receiver may refuse, and close before it has read the whole request. Its response may be there still.
        with suppress(trio.BrokenResourceError):
            await stream.send_all(request)
        while data := await stream.receive_some(RECEIVE_SIZE):
            parser.feed(bytes(data))
            if parser.head_complete:
                return parser
            if parser.failure:
                raise DeliveryError("malformed")
    except trio.BrokenResourceError:
        pass
    raise DeliveryError("cut")


async def _drain_response(stream: trio.abc.Stream, parser: ResponseParser) -> None:
    size = 0
    with trio.move_on_after(READ_SECONDS), suppress(trio.BrokenResourceError):
        while size < MAX_READ and not parser.complete and not parser.failure:
            data = await stream.receive_some(RECEIVE_SIZE)
            if not data:
                return
            size += len(data)
            parser.feed(bytes(data))
