"""HTTP/2 (RFC 9113) for one connection: what its client sends told to the streams, what they say in frames.

Instead of hypercorn's own (0.18), with which one stream could hurt the others: a header that is no text, or
data behind an early answer, ended the connection; an app cut while it wrote took other streams' bytes with
it; a stream without window had everything kept; a crash in the middle of an answer left its client waiting;
a thousand unknown priorities ended it. Here a stream's trouble is its own. Parsing and state are h2's.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import trio
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.events import Event as FrameEvent
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol import events as said
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.typing import AppWrapper, ConnectionState, TaskGroup, WorkerContext
from hypercorn.utils import filter_pseudo_headers
from hyperframe.frame import GoAwayFrame

from server import logs
from server.http.h2_connection import new_connection
from server.http.h2_send_buffer import Side
from server.http.h2_stream import Exchange
from server.http.h2_writer import Writer
from server.http.token_bucket import Allowance
from server.http.websocket import MendedWSStream

log = logs.get("host")

RESETS = (1_000, 33.0)
"""Requests that a client may begin and take back: at once, and a second. nghttp2's numbers (CVE-2023-44487)."""
PARTING_SECONDS = 1.0


class Http2:
    """One connection. Takes hypercorn's arguments, for hypercorn makes it."""

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        task_group: TaskGroup,
        connection_state: ConnectionState,
        ssl: bool,
        client: tuple[str, int] | None,
        server: tuple[str, int] | None,
        send: Callable[[Event], Awaitable[None]],
    ) -> None:
        self._app = app
        self._config = config
        self._context = context
        self._tasks = task_group
        self._state = connection_state
        self._place = (ssl, client, server)
        self._send = send
        self._h2 = new_connection(config)
        self._writer = Writer(self._h2, send)
        self._exchanges: dict[int, Exchange] = {}
        self._resets = Allowance(*RESETS)
        self._reader: trio.lowlevel.Task | None = None
        self._leaving = False
        self._closed = False

    async def initiate(self) -> None:
        """Says our settings and begins to write."""
        self._h2.initiate_connection()
        self._writer.flush()
        self._tasks.spawn(self._writer.run, self._over)
        await self._send(Updated(idle=True))  # the preface was a request to HTTP/1.1: without another, for ever

    async def handle(self, event: Event) -> None:
        """Bytes from the client, or its end."""
        if isinstance(event, Closed):
            self._closed = True
            self._writer.close()
            for exchange in list(self._exchanges.values()):
                await exchange.cut()
        elif isinstance(event, RawData):
            self._reader = trio.lowlevel.current_task()
            try:
                for came in self._h2.receive_data(event.data):
                    if not self._closed:
                        await self._take(came)
            except ProtocolError as error:
                log.debug("not HTTP/2", why=repr(error)[:200])
                await self._part()
            self._writer.flush()
            await self._writer.not_behind()

    async def say_goodbye(self) -> None:
        """Tells the client that no more requests are taken (RFC 9113 section 6.8); those begun go on.

        By hand: after h2's own it would send nothing more.
        """
        if not self._leaving and not self._closed:
            self._leaving = True
            frame = GoAwayFrame(0, last_stream_id=self._h2.highest_inbound_stream_id)
            self._writer.flush(frame.serialize())
        await self._writer.all_sent(PARTING_SECONDS)

    async def _part(self) -> None:
        """Ends the connection; h2 says why."""
        self._writer.flush()
        await self._writer.all_sent(PARTING_SECONDS)
        await self._send(Closed())

    async def _take(self, event: FrameEvent) -> None:
        if isinstance(event, RequestReceived):
            await self._requested(event.stream_id, event.headers)
        elif isinstance(event, ConnectionTerminated):
            await self._send(Closed())
        elif isinstance(event, RemoteSettingsChanged):
            if SettingCodes.INITIAL_WINDOW_SIZE in event.changed_settings:
                self._more_window(list(self._exchanges.values()))
        elif isinstance(event, WindowUpdated) and event.stream_id == 0:
            self._more_window(list(self._exchanges.values()))
        elif isinstance(event, (DataReceived, StreamEnded, StreamReset, WindowUpdated)):
            exchange = self._exchanges.get(event.stream_id)
            if exchange is not None:
                await self._guarded(exchange, self._take_for(exchange, event))
            elif isinstance(event, DataReceived):
                # Behind an early answer. Nobody reads it, but the connection's window is every stream's.
                self._acknowledge(event.stream_id, event.flow_controlled_length)
            if isinstance(event, StreamReset):
                await self._count_reset()

    async def _take_for(
        self, exchange: Exchange, event: DataReceived | StreamEnded | StreamReset | WindowUpdated
    ) -> None:
        if isinstance(event, DataReceived):
            await exchange.received(event.data, event.flow_controlled_length)
        elif isinstance(event, StreamEnded):
            await exchange.request_ended()
        elif isinstance(event, StreamReset):
            await exchange.cut()
            await self._over(exchange)
        else:
            self._more_window([exchange])

    async def _requested(self, stream_id: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        named = dict(headers)
        method, path = named.get(b":method", b""), named.get(b":path", b"")
        if self._leaving or self._context.terminated.is_set():
            self._reset(stream_id, ErrorCodes.REFUSED_STREAM)
        elif len(self._exchanges) >= self._config.h2_max_concurrent_streams:
            # An app that is still ending counts: else requests taken back would start apps without bound.
            self._reset(stream_id, ErrorCodes.REFUSED_STREAM)
            await self._count_reset()
        elif not (method.isascii() and path.isascii() and path):
            self._reset(stream_id, ErrorCodes.PROTOCOL_ERROR)
        elif method == b"CONNECT" and named.get(b":protocol") != b"websocket":
            self._h2.send_headers(stream_id, [(b":status", b"501")], end_stream=True)  # RFC 9220 section 3
        else:
            request = said.Request(
                stream_id=stream_id,
                headers=filter_pseudo_headers(list(headers)),
                http_version="2",
                method=method.decode().upper(),
                raw_path=path,
                state=self._state,
            )
            await self._begin(request)

    async def _begin(self, request: said.Request) -> None:
        exchange = Exchange(request.stream_id, self._tasks, self._acknowledge, self._over)
        kind = MendedWSStream if request.method == "CONNECT" else HTTPStream
        exchange.speaker = kind(
            self._app,
            self._config,
            self._context,
            exchange,  # type: ignore[arg-type]  # it has what a stream asks a task group for
            *self._place,
            self._stream_send,
            request.stream_id,
        )
        # Before the idle timer is stopped: whoever ends meanwhile starts it when there is none here.
        self._exchanges[request.stream_id] = exchange
        await self._send(Updated(idle=False))
        await self._guarded(exchange, exchange.begin(request))
        await self._over(exchange)  # if it was refused without the app
        await trio.lowlevel.checkpoint()  # many requests in one packet: others get their turn between

    async def _guarded(self, exchange: Exchange, doing: Awaitable[None]) -> None:
        """What one stream makes of its bytes: if it cannot, that is its end and nobody else's."""
        try:
            await doing
        except Exception as error:
            log.warning("stream ended", why=repr(error)[:200])
            self._reset(exchange.stream_id, ErrorCodes.PROTOCOL_ERROR)
            exchange.outgoing.close()
            if exchange.running:
                await exchange.closed()
            await self._over(exchange)

    async def _stream_send(self, event: said.Event) -> None:
        """What hypercorn's stream says for the app."""
        exchange = self._exchanges.get(event.stream_id)
        if exchange is None or self._closed:
            await trio.lowlevel.checkpoint()
        elif isinstance(event, (said.Response, said.InformationalResponse)):
            status = [(b":status", b"%d" % event.status_code)]
            try:
                headers = [*status, *event.headers, *self._config.response_headers("h2")]
                self._h2.send_headers(event.stream_id, headers)
            except ProtocolError:  # taken back meanwhile
                exchange.outgoing.close()
            self._writer.flush()
        elif isinstance(event, (said.Body, said.Data)):
            await self._say(exchange, event.data)
        elif isinstance(event, (said.EndBody, said.EndData)):
            exchange.outgoing.end()
            self._writer.queue(exchange)
            await exchange.outgoing.gone()
        elif isinstance(event, said.StreamClosed):
            await exchange.closed()

    async def _say(self, exchange: Exchange, data: bytes) -> None:
        if trio.lowlevel.current_task() is not self._reader:
            exchange.outgoing.add(data)
            self._writer.queue(exchange)
            await exchange.outgoing.room()
        elif not exchange.outgoing.full:
            # A pong. The reader must not wait for window that only it can bring; and of pings that nobody takes
            # the answers of, some may stay without (RFC 6455 section 5.5.3).
            exchange.outgoing.add(data)
            self._writer.queue(exchange)

    async def _over(self, exchange: Exchange) -> None:
        """Forgets a stream when its app and its answer have ended; until then it holds its place."""
        if exchange.running or self._exchanges.get(exchange.stream_id) is not exchange:
            return
        if exchange.outgoing.side is Side.OPEN:  # the app crashed: cut off must not look like complete
            self._reset(exchange.stream_id, ErrorCodes.INTERNAL_ERROR)
            exchange.outgoing.close()
        if exchange.outgoing.side is Side.ENDING:
            self._writer.queue(exchange)  # who comes back here
            return
        del self._exchanges[exchange.stream_id]
        exchange.settle()
        self._reset(exchange.stream_id, ErrorCodes.NO_ERROR)  # the answer is complete: send no more (section 8.1)
        if not self._exchanges and not self._closed:
            await self._send(Updated(idle=True))

    def _reset(self, stream_id: int, code: ErrorCodes) -> None:
        """Ends a stream that has not ended by itself."""
        stream = self._h2.streams.get(stream_id)
        if stream is not None and not stream.closed:
            with suppress(ProtocolError):
                self._h2.reset_stream(stream_id, code)
        self._writer.flush()

    async def _count_reset(self) -> None:
        if not self._resets.spend(trio.current_time()) and not self._closed:
            log.warning("connection ended", why="too many requests taken back")
            with suppress(ProtocolError):
                self._h2.close_connection(ErrorCodes.ENHANCE_YOUR_CALM)
            await self._part()

    def _acknowledge(self, stream_id: int, size: int) -> None:
        with suppress(ProtocolError):
            self._h2.acknowledge_received_data(size, stream_id)
        self._writer.flush()

    def _more_window(self, exchanges: Sequence[Exchange]) -> None:
        for exchange in exchanges:
            if len(exchange.outgoing):
                self._writer.queue(exchange)
