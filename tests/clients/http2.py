"""An HTTP/2 client on the `h2` package, with or without TLS, that can stall single streams and cut the connection.

It returns flow-control window only as a test reads, so a stream that is not read is a stalled stream.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError, StreamClosedError
from h2.settings import SettingCodes

from .http1 import PATIENCE, Broken, Head

READ = 65_536


@dataclass(eq=False)
class Stream:
    """A request. `head` and `receive` wait; both raise `Broken` if nothing more can come."""

    connection: Connection
    stream_id: int
    reset_code: int | None = None
    received: int = 0
    _head: Head | None = None
    _raw: bytearray = field(default_factory=bytearray)
    _unread: int = 0
    _ended: bool = False

    async def head(self) -> Head:
        """Waits for status and headers of the response."""
        while self._head is None:
            await self._more()
        return self._head

    async def receive(self) -> bytes:
        """Receives more of the body; b"" at its clean end."""
        while not self._raw and not self._ended:
            await self._more()
        return self.take()

    def take(self) -> bytes:
        """The bytes that have arrived so far."""
        data = bytes(self._raw)
        self._raw.clear()
        if self._unread and not self.connection.over:
            with suppress(ProtocolError):
                self.connection.h2.acknowledge_received_data(self._unread, self.stream_id)
            self.connection.changed.set()
        self._unread = 0
        return data

    async def body(self) -> bytes:
        """Reads the rest of the body."""
        parts = []
        while data := await self.receive():
            parts.append(data)
        return b"".join(parts)

    async def reset_by_server(self) -> int:
        """Waits for RST_STREAM. Returns its error code."""
        while self.reset_code is None:
            await self._more()
        return self.reset_code

    async def cancel(self) -> None:
        """Sends RST_STREAM."""
        self.reset_code = ErrorCodes.CANCEL
        with suppress(ProtocolError):  # it may have ended meanwhile
            self.connection.h2.reset_stream(self.stream_id, self.reset_code)
        await self.connection.flush()

    async def send(self, data: bytes, *, end: bool = False) -> None:
        """Sends more of the request's body, as the server's window allows."""
        h2 = self.connection.h2
        while data or end:
            size = min(len(data), h2.local_flow_control_window(self.stream_id), h2.max_outbound_frame_size)
            if size or not data:
                last = end and size == len(data)
                h2.send_data(self.stream_id, data[:size], end_stream=last)
                await self.connection.flush()
                data = data[size:]
                if not data:
                    return
            else:
                await self._more()

    async def _more(self) -> None:
        if self.reset_code is not None or self.connection.over:
            raise Broken(f"stream {self.stream_id} was reset ({self.reset_code}) or cut")
        with trio.fail_after(PATIENCE):
            await self.connection.something.wait()

    def _take_event(self, event: Event) -> None:
        if isinstance(event, ResponseReceived):
            headers = {name.decode(): value.decode() for name, value in event.headers or []}
            self._head = Head(int(headers.pop(":status")), headers)
        elif isinstance(event, DataReceived):
            self._raw += event.data
            self.received += len(event.data)
            self._unread += event.flow_controlled_length
        elif isinstance(event, StreamEnded):
            self._ended = True
        elif isinstance(event, StreamReset):
            self.reset_code = event.error_code


class Connection:
    """A connection. `over` once it has ended; `goaway` is the server's GOAWAY, if it sent one."""

    def __init__(self, transport: trio.SocketStream | trio.SSLStream[trio.SocketStream], port: int) -> None:
        self.transport = transport
        self.port = port
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self.over = False
        self.goaway: ConnectionTerminated | None = None
        self.something = trio.Event()
        self.changed = trio.Event()
        self.cut_after = math.inf
        """So many bytes from the server from now on, then the socket is closed."""
        self._streams: dict[int, Stream] = {}
        self._sending = trio.Lock()
        self._unread = bytearray()

    @property
    def secure(self) -> bool:
        """Whether the connection uses TLS."""
        return isinstance(self.transport, trio.SSLStream)

    async def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        *,
        authority: str | None = None,
        end: bool = True,
    ) -> Stream:
        """Sends a request; with `end=False` its body follows later."""
        pseudo = {":method": method, ":path": path, ":scheme": "https" if self.secure else "http"}
        pseudo[":authority"] = authority or f"127.0.0.1:{self.port}"
        stream = Stream(self, self.h2.get_next_available_stream_id())
        self._streams[stream.stream_id] = stream
        all_headers = [*pseudo.items(), *((name.lower(), value) for name, value in (headers or {}).items())]
        self.h2.send_headers(stream.stream_id, all_headers, end_stream=end and not body)
        await self.flush()
        if body:
            with suppress(StreamClosedError):  # the server has answered already, and wants no body
                await stream.send(body, end=end)
        return stream

    async def flush(self) -> None:
        """Sends the bytes that h2 has prepared."""
        async with self._sending:
            data = self.h2.data_to_send()
            if data:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self.transport.send_all(data)

    async def raw(self, data: bytes) -> None:
        """Sends any bytes, bypassing h2."""
        async with self._sending:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self.transport.send_all(data)

    async def ended(self) -> None:
        """Waits until the server ends the connection."""
        with trio.fail_after(PATIENCE):
            while not self.over:
                await self.something.wait()

    async def cut(self) -> None:
        """Closes the socket at once."""
        self._over()
        await trio.aclose_forcefully(self.transport)

    async def read(self) -> None:
        """Task that reads until the end or the cut."""
        try:
            while not self.over:
                data = await self.transport.receive_some(READ)
                cut = len(data) >= self.cut_after
                if cut:
                    data = data[: int(self.cut_after)]
                self.cut_after -= len(data)
                for frame in self._whole_frames(data):
                    for event in self.h2.receive_data(frame):
                        self._take(event)
                await self.flush()
                self._tell()
                if not data or cut:
                    break
        except (trio.BrokenResourceError, trio.ClosedResourceError, ProtocolError):
            pass  # cut; or frames behind a GOAWAY, which h2 does not read
        await self.cut()

    def _whole_frames(self, data: bytes | bytearray) -> Iterator[bytes]:
        """Splits the bytes into frames (RFC 9113 section 4.1).

        h2 treats a frame after GOAWAY as an error of everything it was given: if both came in one packet, the
        GOAWAY itself would be lost.
        """
        self._unread += data
        while len(self._unread) >= 9:
            size = 9 + int.from_bytes(self._unread[:3], "big")
            if len(self._unread) < size:
                break
            frame = bytes(self._unread[:size])
            del self._unread[:size]
            yield frame

    async def give_window(self) -> None:
        """Task that returns window for the bytes that tests have read."""
        while not self.over:
            await self.changed.wait()
            self.changed = trio.Event()
            await self.flush()

    def _take(self, event: Event) -> None:
        if isinstance(event, ConnectionTerminated):
            self.goaway = event
        elif isinstance(event, (ResponseReceived, DataReceived, StreamEnded, StreamReset)):
            stream = self._streams.get(event.stream_id)
            if stream is not None:
                stream._take_event(event)
        elif isinstance(event, WindowUpdated):
            self._tell()

    def _over(self) -> None:
        self.over = True
        self.changed.set()
        self._tell()

    def _tell(self) -> None:
        self.something.set()
        self.something = trio.Event()


@asynccontextmanager
async def connect(
    port: int, trust: ssl.SSLContext | None = None, *, window: int = READ
) -> AsyncIterator[Connection]:
    """Connects with prior knowledge, or by ALPN over TLS. `window`: bytes that each stream may send unread."""
    plain = await trio.open_tcp_stream("127.0.0.1", port)
    transport: trio.SocketStream | trio.SSLStream[trio.SocketStream] = plain
    if trust is not None:
        secured = trio.SSLStream(plain, trust, server_hostname="127.0.0.1", https_compatible=True)
        try:
            await secured.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(plain)
            raise
        assert secured.selected_alpn_protocol() == "h2"
        transport = secured
    connection = Connection(transport, port)
    connection.h2.local_settings[SettingCodes.INITIAL_WINDOW_SIZE] = window
    connection.h2.local_settings.acknowledge()
    connection.h2.initiate_connection()
    # The connection's own window is no test's subject: it is never what runs out.
    connection.h2.increment_flow_control_window(2**30)
    await connection.flush()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.read)
        nursery.start_soon(connection.give_window)
        try:
            yield connection
        finally:
            await connection.cut()
            nursery.cancel_scope.cancel()


def trusting(authority: Path, *protocols: str) -> ssl.SSLContext:
    """A TLS context that trusts this authority alone."""
    context = ssl.create_default_context(cafile=authority)
    context.set_alpn_protocols(list(protocols or ("h2", "http/1.1")))
    return context
