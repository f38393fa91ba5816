"""One HTTP/1.1 request on a connection of its own, with as little between the socket and the caller as can be.

For load tests, where the client shares the machine with what it measures: a general client costs several times
as much a chunk. RFC 9112; the parsing is llhttp's.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import httptools
import trio

from server.client.address import Address
from server.client.api import explain
from server.client.errors import ClientError, Unreachable

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 45.0
READ = 65_536


class Answer:
    """A response that is being received. `status` and `headers` are there from the beginning."""

    def __init__(self, address: Address, stream: trio.abc.Stream) -> None:
        self._address = address
        self._stream = stream
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._begun = False
        self._whole = False
        self.status = 0
        self.headers: dict[str, str] = {}

    async def begin(self) -> None:
        """Until the headers are there."""
        while not self._begun:
            await self._more()

    async def receive(self) -> bytes:
        """What has come of the body; nothing at its end. Raises `Unreachable` when it was cut."""
        while not self._body and not self._whole:
            await self._more()
        body, self._body = b"".join(self._body), []
        return body

    async def read(self) -> bytes:
        """The whole body."""
        parts = []
        while part := await self.receive():
            parts.append(part)
        return b"".join(parts)

    async def _more(self) -> None:
        received: bytes | bytearray = b""
        try:
            with trio.move_on_after(SILENCE_SECONDS):
                received = await self._stream.receive_some(READ)
        except trio.BrokenResourceError as error:
            raise explain(self._address.base, self._address.trust is not None, error) from None
        if not received:
            raise Unreachable(self._address.base, "the connection was cut")
        try:
            self._parser.feed_data(received)
        except httptools.HttpParserError as error:
            raise ClientError("not_http", f"what answers at {self._address.base} is not HTTP: {error}") from None

    # -- what the parser calls

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._begun = True

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self._whole = True


@asynccontextmanager
async def exchange(
    address: Address, method: str, path: str, headers: Mapping[str, str], body: bytes = b""
) -> AsyncIterator[Answer]:
    """Sends a request and waits for the response's headers. Raises `ClientError`; tried once."""
    lines = {"Host": address.authority, "Connection": "close", "Content-Length": str(len(body)), **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    stream = None
    try:
        try:
            with trio.fail_after(CONNECT_SECONDS):
                stream = await _connect(address)
            await stream.send_all(f"{method} {address.path}{path} HTTP/1.1\r\n{head}\r\n".encode() + body)
            answer = Answer(address, stream)
            await answer.begin()
        except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
            raise explain(address.base, address.trust is not None, error) from None
        yield answer
    finally:
        if stream is not None:
            await trio.aclose_forcefully(stream)


async def _connect(address: Address) -> trio.abc.Stream:
    plain = await trio.open_tcp_stream(address.host, address.port)
    if address.trust is None:
        return plain
    secure = trio.SSLStream(plain, address.trust, server_hostname=address.host, https_compatible=True)
    try:
        await secure.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(plain)
        raise
    return secure
