"""HTTP/2 (RFC 9113) on one connection: it gives h2's events to the streams, and turns their responses into frames.

A fault of one stream ends that stream alone: no request and no app may stop the other streams of the connection,
and a malformed request resets its stream (RFC 9113 section 8.1.1). What breaks the framing or the header
compression, which all streams share, ends the connection. h2 parses and keeps the protocol's state. One task
reads, one writes (`http2_writer.py`), and each stream has a task.
"""

from collections.abc import Sequence
from contextlib import suppress

import trio
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from hyperframe.frame import GoAwayFrame

from server.http.asgi import Headers, date, http_scope
from server.http.connection import AcceptedConnection
from server.http.connection_limits import TokenBucket
from server.http.http1.http1_parser import check_head, check_method, check_size
from server.http.http2.http2_limits import MAX_STREAMS, check_headers, new_h2_connection
from server.http.http2.http2_stream import Http2Stream
from server.http.http2.http2_writer import Http2Writer, SendBuffer, SendState
from server.observability import logs
from server.problem import Problem

log = logs.get("http")

RESETS = (1_000, 33.0)
"""How many requests a client may begin and reset: at once, and each second. As nghttp2 (CVE-2023-44487)."""
GOODBYE_SECONDS = 1.0
"""How long the client may take to receive the last control frames before the socket is closed."""


class Http2Connection:
    """One connection. `run` returns when it has ended; the caller closes the socket."""

    def __init__(self, connection: AcceptedConnection) -> None:
        self.server = connection.server
        self.budget = connection.budget
        self._connection = connection
        self._h2 = new_h2_connection()
        self._writer = Http2Writer(self._h2, connection.transport.send)
        self._streams: dict[int, Http2Stream] = {}
        self._resets = TokenBucket(*RESETS)
        self._nursery: trio.Nursery
        self._goaway_sent = False
        self._ending = False

    async def run(self, data: bytes) -> None:
        """Serves until either side ends the connection. `data`: bytes that were received already."""
        self._h2.initiate_connection()
        self._writer.flush()
        table = self.server.table
        table.idle(self._connection, trio.current_time())
        try:
            async with trio.open_nursery() as self._nursery:
                self._connection.http = self
                self._nursery.start_soon(self._writer.run, self._all_sent)
                try:
                    if data:
                        await self._take_bytes(data)
                    while not self._ending and (data := await self._connection.transport.receive()):
                        await self._take_bytes(data)
                finally:
                    self._ending = True  # no task may be started in the nursery any more
                self._nursery.cancel_scope.cancel()
        finally:
            for stream in self._streams.values():
                stream.send_buffer.close()

    # -- ending (`HttpConnection`)

    def client_finished(self) -> None:
        """See `HttpConnection`. The connection ends: without further WINDOW_UPDATEs no response can go on."""
        self._connection.client_gone()

    def close_idle(self) -> None:
        """See `HttpConnection`. Sends GOAWAY: a client whose request comes too late may safely send it again."""
        if not self._ending:
            self._send_goaway()
            self._nursery.start_soon(self._end_when_sent)

    def begin_close(self) -> None:
        """See `HttpConnection`. Streams that have begun go on."""
        self._send_goaway()
        if not self._streams and not self._ending:
            self._nursery.start_soon(self._end_when_sent)

    def end_stalled(self, now: float) -> None:
        """Resets streams whose response has an end, and whose client has taken nothing of it for too long."""
        for stream in list(self._streams.values()):
            if stream.stalled(now, self.server.options.stall_timeout):
                log.debug("stream ended", why="its client takes nothing")
                self._reset(stream.stream_id, ErrorCodes.CANCEL)
                stream.cut()
                self.forget(stream)

    def _send_goaway(self) -> None:
        """Sends GOAWAY (RFC 9113 section 6.8). Not through h2, which sends nothing more after its own GOAWAY."""
        if not self._goaway_sent and not self._ending:
            self._goaway_sent = True
            frame = GoAwayFrame(0, last_stream_id=self._h2.highest_inbound_stream_id)
            self._writer.flush(frame.serialize())

    async def _end_when_sent(self) -> None:
        await self._writer.wait_until_sent(GOODBYE_SECONDS)
        self._ending = True
        self._nursery.cancel_scope.cancel()

    async def _end_with_reason(self) -> None:
        """Ends the connection. h2 has made the GOAWAY frame that says why."""
        self._ending = True
        self._writer.flush()
        await self._writer.wait_until_sent(GOODBYE_SECONDS)

    # -- from the client

    async def _take_bytes(self, data: bytes) -> None:
        try:
            for event in self._h2.receive_data(data):
                if not self._ending:
                    await self._handle(event)
        except ProtocolError as error:
            log.debug("not HTTP/2", why=repr(error)[:200])
            await self._end_with_reason()
        self._writer.flush()
        await self._writer.wait_until_caught_up()

    async def _handle(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            await self._handle_request(event.stream_id, event.headers, ended=event.stream_ended is not None)
        elif isinstance(event, TrailersReceived):
            if not _well_formed(event.headers, trailers=True):
                await self._malformed(event.stream_id)
        elif isinstance(event, ConnectionTerminated):
            self._ending = True
        elif isinstance(event, RemoteSettingsChanged):
            if SettingCodes.INITIAL_WINDOW_SIZE in event.changed_settings:
                self._window_grown(list(self._streams.values()))
        elif isinstance(event, WindowUpdated) and event.stream_id == 0:
            self._window_grown(list(self._streams.values()))
        elif isinstance(event, (DataReceived, StreamEnded, StreamReset, WindowUpdated)):
            stream = self._streams.get(event.stream_id)
            if stream is not None:
                await self._handle_stream(stream, event)
            elif isinstance(event, DataReceived):
                # Body that comes after its stream was answered. Nobody reads it, but its window has to be given
                # back: all streams share the connection's window.
                self.acknowledge(event.stream_id, event.flow_controlled_length)
            if isinstance(event, StreamReset):
                await self._count_reset()

    async def _handle_stream(
        self, stream: Http2Stream, event: DataReceived | StreamEnded | StreamReset | WindowUpdated
    ) -> None:
        if isinstance(event, DataReceived):
            await stream.received(event.data, event.flow_controlled_length)
        elif isinstance(event, StreamEnded):
            stream.request_ended()
        elif isinstance(event, StreamReset):
            stream.cut()
            self.forget(stream)
        else:
            self._window_grown([stream])
        if stream.malformed:
            await self._malformed(stream.stream_id)

    async def _handle_request(
        self, stream_id: int, headers: Sequence[tuple[bytes, bytes]], *, ended: bool
    ) -> None:
        named = dict(headers)
        method, target = named.get(b":method", b""), named.get(b":path", b"")
        if self._goaway_sent or self.server.closing:
            self._reset(stream_id, ErrorCodes.REFUSED_STREAM)
        elif len(self._streams) >= MAX_STREAMS:
            # A stream counts until its app has ended. Otherwise a client that begins and resets requests could
            # start apps without bound.
            self._reset(stream_id, ErrorCodes.REFUSED_STREAM)
            await self._count_reset()
        elif not _well_formed(headers) or not (method.isascii() and target.isascii() and target):
            await self._malformed(stream_id)
        elif target == b"*" and method == b"OPTIONS":
            self._answer(stream_id, b"204", (b"allow", b"GET, HEAD, OPTIONS, POST"))
        else:
            await self._begin(stream_id, named, headers, ended=ended)

    async def _begin(
        self, stream_id: int, named: dict[bytes, bytes], headers: Sequence[tuple[bytes, bytes]], *, ended: bool
    ) -> None:
        connection = self._connection
        target = named[b":path"]
        method = named[b":method"].decode()
        # Any other CONNECT gets 501 (RFC 9220 section 3).
        upgrades = method == "CONNECT" and named.get(b":protocol") == b"websocket"
        if upgrades:
            method = "GET"
        plain = plain_headers(headers)
        problem = length = None
        path, query, expects = b"/", b"", False
        try:
            check_method(method)
            check_size(len(target), len(plain), sum(len(name) + len(value) + 4 for name, value in plain))
            head = check_head(method, target, "2", plain)
            path, query, expects = head.path, head.query, head.expects_continue
            length = None if upgrades else head.length
        except Problem as error:
            problem, upgrades = error, False
        if ended and length:
            await self._malformed(stream_id)
            return
        scope = http_scope(
            method,
            path,
            query,
            "2",
            plain,
            secure=connection.secure,
            client=connection.client_address,
            server=connection.server_address,
        )
        try:
            stream = Http2Stream(
                self, stream_id, scope, upgrades=upgrades, length=length, expects=expects, problem=problem
            )
        except ValueError as error:  # a header is no text
            log.debug("stream refused", why=repr(error)[:200])
            await self._malformed(stream_id)
            return
        self._streams[stream_id] = stream
        self.server.table.busy(connection)
        self._nursery.start_soon(stream.run)
        await trio.lowlevel.checkpoint()  # many requests in one packet: other tasks run between them

    async def _malformed(self, stream_id: int) -> None:
        """Resets the stream of a malformed request (RFC 9113 section 8.1.1), and no other.

        It counts like a stream that the client resets. Otherwise a client could evade that limit by making the
        server reset its streams (CVE-2025-8671).
        """
        self._reset(stream_id, ErrorCodes.PROTOCOL_ERROR)
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.cut()
            self.forget(stream)
        await self._count_reset()

    def _answer(self, stream_id: int, status: bytes, *headers: tuple[bytes, bytes]) -> None:
        with suppress(ProtocolError):
            self._h2.send_headers(stream_id, [(b":status", status), *headers, (b"date", date())], end_stream=True)
        self._reset(stream_id, ErrorCodes.NO_ERROR)

    async def _count_reset(self) -> None:
        if not self._resets.spend(trio.current_time()) and not self._ending:
            log.warning("connection ended", why="too many requests reset")
            with suppress(ProtocolError):
                self._h2.close_connection(ErrorCodes.ENHANCE_YOUR_CALM)
            await self._end_with_reason()

    # -- what the streams need (`StreamConnection`)

    def send_head(self, stream: Http2Stream, status: int, headers: Headers, *, ended: bool) -> None:
        """See `StreamConnection`. If the client has reset the stream meanwhile, its buffer is closed."""
        try:
            self._h2.send_headers(stream.stream_id, [(b":status", b"%d" % status), *headers], end_stream=ended)
        except ProtocolError:
            stream.send_buffer.close()
        self._writer.flush()

    def queue(self, stream: Http2Stream) -> None:
        """See `StreamConnection`."""
        self._writer.queue(stream.send_buffer)

    def acknowledge(self, stream_id: int, size: int) -> None:
        """See `StreamConnection`."""
        with suppress(ProtocolError):
            self._h2.acknowledge_received_data(size, stream_id)
        self._writer.flush()

    def forget(self, stream: Http2Stream) -> None:
        """Forgets a stream once its app and its response have ended. Until then it counts in `MAX_STREAMS`."""
        if stream.running or self._streams.get(stream.stream_id) is not stream:
            return
        if stream.send_buffer.state is SendState.OPEN:  # the app has crashed: its response must not look complete
            self._reset(stream.stream_id, ErrorCodes.INTERNAL_ERROR)
            stream.send_buffer.close()
        if stream.send_buffer.state is SendState.ENDING:
            self._writer.queue(stream.send_buffer)  # the writer calls this again when the last byte is sent
            return
        del self._streams[stream.stream_id]
        stream.settle_window()
        # The client need not send the rest of its body (section 8.1).
        self._reset(stream.stream_id, ErrorCodes.NO_ERROR)
        if not self._streams and not self._ending:
            self.server.table.idle(self._connection, trio.current_time())
            if self._goaway_sent:
                self._nursery.start_soon(self._end_when_sent)

    def _all_sent(self, buffer: SendBuffer) -> None:
        stream = self._streams.get(buffer.stream_id)
        if stream is not None:
            self.forget(stream)

    def _reset(self, stream_id: int, code: ErrorCodes) -> None:
        """Sends RST_STREAM, unless the stream is closed."""
        stream = self._h2.streams.get(stream_id)
        if stream is not None and not stream.closed:
            with suppress(ProtocolError):
                self._h2.reset_stream(stream_id, code)
        self._writer.flush()

    def _window_grown(self, streams: Sequence[Http2Stream]) -> None:
        for stream in streams:
            if len(stream.send_buffer):
                self._writer.queue(stream.send_buffer)


def _well_formed(headers: Sequence[tuple[bytes, bytes]], *, trailers: bool = False) -> bool:
    try:
        check_headers(headers, trailers=trailers)
    except ProtocolError as error:
        log.debug("stream refused", why=repr(error)[:200])
        return False
    return True


def plain_headers(headers: Sequence[tuple[bytes, bytes]]) -> Headers:
    """Translates a request's headers to HTTP/1.1's: `:authority` becomes `host` (RFC 9113 section 8.3.1)."""
    plain: Headers = []
    authority = None
    for name, value in headers:
        if name == b":authority":
            authority = value
        elif not name.startswith(b":"):
            plain.append((bytes(name), bytes(value)))
    if authority is not None:
        plain = [(b"host", bytes(authority)), *(header for header in plain if header[0] != b"host")]
    return plain
