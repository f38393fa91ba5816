"""HTTP/2 (RFC 9113) on one connection: what its client sends told to the streams, what they say in frames.

A stream's trouble is its own: nothing that one client request or one app does may stop or end the others of its
connection, and a malformed request ends its stream (RFC 9113 section 8.1.1). What breaks the framing or the header
compression, which all streams share, ends the connection. Parsing and state are h2's. One task reads, one writes
(`h2_writer.py`), and each stream has one.
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

from server import logs
from server.errors import Problem
from server.http.asgi import Headers, date, http_scope
from server.http.connection import Connection
from server.http.connection_limits import TokenBucket
from server.http.h2_connection import STREAMS, check_headers, new_connection
from server.http.h2_send_buffer import Side
from server.http.h2_stream import Http2Stream
from server.http.h2_writer import Writer
from server.http.http1_parser import check_head, check_method, check_size

log = logs.get("host")

RESETS = (1_000, 33.0)
"""Requests that a client may begin and take back: at once, and a second. nghttp2's numbers (CVE-2023-44487)."""
PARTING_SECONDS = 1.0


class Http2:
    """One connection. `run` returns when it has ended; the caller closes the socket."""

    def __init__(self, connection: Connection) -> None:
        self.serving = connection.serving
        self._connection = connection
        self._h2 = new_connection()
        self._writer = Writer(self._h2, connection.transport.send)
        self._streams: dict[int, Http2Stream] = {}
        self._resets = TokenBucket(*RESETS)
        self._nursery: trio.Nursery
        self._leaving = False
        self._ending = False

    async def run(self, data: bytes) -> None:
        """Serves until either side ends it. `data` is what has been read already."""
        self._h2.initiate_connection()
        self._writer.flush()
        table = self.serving.table
        table.idle(self._connection, trio.current_time())
        try:
            async with trio.open_nursery() as self._nursery:
                self._connection.speaker = self
                self._nursery.start_soon(self._writer.run, self._forget_sent)
                try:
                    if data:
                        await self._take_bytes(data)
                    while not self._ending and (data := await self._connection.transport.receive()):
                        await self._take_bytes(data)
                finally:
                    self._ending = True  # whoever would still begin something here is too late
                self._nursery.cancel_scope.cancel()
        finally:
            for stream in self._streams.values():
                stream.outgoing.close()

    # -- what ends it

    def client_finished(self) -> None:
        """The client has sent its last byte: there is nobody who could take an answer and give window for more."""
        self._connection.client_gone()

    def close_idle(self) -> None:
        """Ends the connection in words, so that a request that crosses the end can safely be sent again."""
        if not self._ending:
            self._say_goodbye()
            self._nursery.start_soon(self._end_when_sent)

    def begin_close(self) -> None:
        """No more requests; those begun go on."""
        self._say_goodbye()
        if not self._streams and not self._ending:
            self._nursery.start_soon(self._end_when_sent)

    def end_stalled(self, now: float) -> None:
        """Ends the streams whose answers have an end, and whose client has taken nothing for too long."""
        for stream in list(self._streams.values()):
            if stream.stalled(now, self.serving.options.stall_timeout):
                log.debug("stream ended", why="its client takes nothing")
                self._reset(stream.stream_id, ErrorCodes.CANCEL)
                stream.cut()
                self.forget(stream)

    def _say_goodbye(self) -> None:
        """GOAWAY (RFC 9113 section 6.8). By hand: after h2's own it would send nothing more."""
        if not self._leaving and not self._ending:
            self._leaving = True
            frame = GoAwayFrame(0, last_stream_id=self._h2.highest_inbound_stream_id)
            self._writer.flush(frame.serialize())

    async def _end_when_sent(self) -> None:
        await self._writer.all_sent(PARTING_SECONDS)
        self._ending = True
        self._nursery.cancel_scope.cancel()

    async def _part(self) -> None:
        """Ends the connection; h2 says why."""
        self._ending = True
        self._writer.flush()
        await self._writer.all_sent(PARTING_SECONDS)

    # -- from the client

    async def _take_bytes(self, data: bytes) -> None:
        try:
            for event in self._h2.receive_data(data):
                if not self._ending:
                    await self._take(event)
        except ProtocolError as error:
            log.debug("not HTTP/2", why=repr(error)[:200])
            await self._part()
        self._writer.flush()
        await self._writer.not_behind()

    async def _take(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            await self._requested(event.stream_id, event.headers, ended=event.stream_ended is not None)
        elif isinstance(event, TrailersReceived):
            if not _well_formed(event.headers, trailers=True):
                await self._malformed(event.stream_id)
        elif isinstance(event, ConnectionTerminated):
            self._ending = True
        elif isinstance(event, RemoteSettingsChanged):
            if SettingCodes.INITIAL_WINDOW_SIZE in event.changed_settings:
                self._more_window(list(self._streams.values()))
        elif isinstance(event, WindowUpdated) and event.stream_id == 0:
            self._more_window(list(self._streams.values()))
        elif isinstance(event, (DataReceived, StreamEnded, StreamReset, WindowUpdated)):
            stream = self._streams.get(event.stream_id)
            if stream is not None:
                await self._take_for(stream, event)
            elif isinstance(event, DataReceived):
                # Behind an early answer. Nobody reads it, but the connection's window is every stream's.
                self.acknowledge(event.stream_id, event.flow_controlled_length)
            if isinstance(event, StreamReset):
                await self._count_reset()

    async def _take_for(
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
            self._more_window([stream])
        if stream.malformed:
            await self._malformed(stream.stream_id)

    async def _requested(self, stream_id: int, headers: Sequence[tuple[bytes, bytes]], *, ended: bool) -> None:
        named = dict(headers)
        method, target = named.get(b":method", b""), named.get(b":path", b"")
        if self._leaving or self.serving.closing:
            self._reset(stream_id, ErrorCodes.REFUSED_STREAM)
        elif len(self._streams) >= STREAMS:
            # An app that is still ending counts: else requests taken back would start apps without bound.
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
        upgrades = method == "CONNECT" and named.get(b":protocol") == b"websocket"  # else 501, RFC 9220 section 3
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
            client=connection.client,
            server=connection.server,
        )
        try:
            stream = Http2Stream(
                self, stream_id, scope, upgrades=upgrades, length=length, expects=expects, problem=problem
            )
        except ValueError as error:  # a header that is no text
            log.debug("stream refused", why=repr(error)[:200])
            await self._malformed(stream_id)
            return
        self._streams[stream_id] = stream
        self.serving.table.busy(connection)
        self._nursery.start_soon(stream.run)
        await trio.lowlevel.checkpoint()  # many requests in one packet: others get their turn between

    async def _malformed(self, stream_id: int) -> None:
        """Ends the stream of a request that is none (RFC 9113 section 8.1.1), and no other.

        It counts as one that is taken back: else a client could make the server do that for it, without end
        (CVE-2025-8671).
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
            log.warning("connection ended", why="too many requests taken back")
            with suppress(ProtocolError):
                self._h2.close_connection(ErrorCodes.ENHANCE_YOUR_CALM)
            await self._part()

    # -- what the streams ask for

    def send_head(self, stream: Http2Stream, status: int, headers: Headers, *, ended: bool) -> None:
        """An answer's head. A stream that its client has taken back meanwhile is over."""
        try:
            self._h2.send_headers(stream.stream_id, [(b":status", b"%d" % status), *headers], end_stream=ended)
        except ProtocolError:
            stream.outgoing.close()
        self._writer.flush()

    def queue(self, stream: Http2Stream) -> None:
        """The stream has something that may go out, or has ended."""
        self._writer.queue(stream)

    def acknowledge(self, stream_id: int, size: int) -> None:
        """Gives the client window again for so many bytes."""
        with suppress(ProtocolError):
            self._h2.acknowledge_received_data(size, stream_id)
        self._writer.flush()

    def forget(self, stream: Http2Stream) -> None:
        """Forgets a stream when its app and its answer have ended; until then it holds its place."""
        if stream.running or self._streams.get(stream.stream_id) is not stream:
            return
        if stream.outgoing.side is Side.OPEN:  # the app crashed: cut off must not look like complete
            self._reset(stream.stream_id, ErrorCodes.INTERNAL_ERROR)
            stream.outgoing.close()
        if stream.outgoing.side is Side.ENDING:
            self._writer.queue(stream)  # which comes back here
            return
        del self._streams[stream.stream_id]
        stream.settle_window()
        self._reset(stream.stream_id, ErrorCodes.NO_ERROR)  # the answer is complete: send no more (section 8.1)
        if not self._streams and not self._ending:
            self.serving.table.idle(self._connection, trio.current_time())
            if self._leaving:
                self._nursery.start_soon(self._end_when_sent)

    def _forget_sent(self, stream: Http2Stream) -> None:
        self.forget(stream)

    def _reset(self, stream_id: int, code: ErrorCodes) -> None:
        """Ends a stream that has not ended by itself."""
        stream = self._h2.streams.get(stream_id)
        if stream is not None and not stream.closed:
            with suppress(ProtocolError):
                self._h2.reset_stream(stream_id, code)
        self._writer.flush()

    def _more_window(self, streams: Sequence[Http2Stream]) -> None:
        for stream in streams:
            if len(stream.outgoing):
                self._writer.queue(stream)


def _well_formed(headers: Sequence[tuple[bytes, bytes]], *, trailers: bool = False) -> bool:
    try:
        check_headers(headers, trailers=trailers)
    except ProtocolError as error:
        log.debug("stream refused", why=repr(error)[:200])
        return False
    return True


def plain_headers(headers: Sequence[tuple[bytes, bytes]]) -> Headers:
    """A request's headers as HTTP/1.1 has them: the authority is the host (RFC 9113 section 8.3.1)."""
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
