"""The one task that writes on an HTTP/2 connection: control frames as they come, streams' bytes in turn.

Owns the order of frames and how much is written at once. If each stream's task wrote for itself, a cancelled task
could leave half a frame, or lose headers and with them the state of the header compression that all streams share.
It must not decide anything about streams.
"""

from collections.abc import Awaitable, Callable

import trio
from h2.connection import H2Connection
from h2.exceptions import ProtocolError

from server.http.http2.http2_send_buffer import SendState
from server.http.http2.http2_stream import Http2Stream

FRAME_BYTES = 16_384
WRITE_BYTES = 4 * FRAME_BYTES
"""How much one write may hold, of all streams that wait: a hundred tokens take one write, not a hundred."""
MAX_UNSENT = 65_536
"""While so many control bytes are unsent, the connection is not read. Otherwise a client could send pings, take no
answers, and fill this server's memory."""


class Http2Writer:
    """The writer of one connection. `run` is its task; the other methods only give it work."""

    def __init__(self, h2: H2Connection, send: Callable[[bytes], Awaitable[None]]) -> None:
        self._h2 = h2
        self._send = send
        self._ready: list[Http2Stream] = []
        self._unsent = bytearray()
        self._wake = trio.Event()
        self._sent = trio.Event()
        self._closed = False

    def queue(self, stream: Http2Stream) -> None:
        """Queues a stream that has bytes to send, or has ended."""
        if not stream.send_buffer.queued:
            stream.send_buffer.queued = True
            self._ready.append(stream)
            self._wake.set()

    def flush(self, more: bytes = b"") -> None:
        """Takes over the frames that h2 has made since the last call, and the bytes `more`."""
        data = self._h2.data_to_send() + more
        if data:
            self._unsent += data
            self._wake.set()

    def close(self) -> None:
        """The connection has ended."""
        self._closed = True
        self._sent.set()
        self._wake.set()

    async def wait_until_caught_up(self) -> None:
        """Waits while the client takes too few of the answers that it causes."""
        while len(self._unsent) > MAX_UNSENT and not self._closed:
            await self._sent.wait()

    async def wait_until_sent(self, seconds: float) -> None:
        """Waits until all but the streams' buffered bytes is sent, at most for `seconds`."""
        with trio.move_on_after(seconds):
            while self._unsent and not self._closed:
                await self._sent.wait()

    async def run(self, on_stream_sent: Callable[[Http2Stream], None]) -> None:
        """Writes until `close`. `on_stream_sent` is called for each stream whose last byte was sent."""
        while not self._closed:
            ended = self._fill()
            if self._unsent:
                data = bytes(self._unsent)
                await self._send(data)
                del self._unsent[: len(data)]  # after the send: `wait_until_sent` may close the socket
                self._sent.set()
                self._sent = trio.Event()
            elif not ended:
                await self._wake.wait()
                self._wake = trio.Event()
            for stream in ended:
                on_stream_sent(stream)

    def _fill(self) -> list[Http2Stream]:
        """Makes frames of the queued streams, one for each in turn. Returns those streams that ended with it."""
        self.flush()
        ended: list[Http2Stream] = []
        while self._ready and len(self._unsent) < WRITE_BYTES:
            stream = self._ready.pop(0)
            stream.send_buffer.queued = False
            if stream.send_buffer.state is not SendState.CLOSED and self._frame(stream):
                ended.append(stream)
            self.flush()
        return ended

    def _frame(self, stream: Http2Stream) -> bool:
        """Makes one frame, as large as the client's windows allow. Returns whether the stream has ended."""
        stream_id, send_buffer = stream.stream_id, stream.send_buffer
        try:
            window = self._h2.local_flow_control_window(stream_id)
            data = send_buffer.take(max(0, min(window, self._h2.max_outbound_frame_size, FRAME_BYTES)))
            ends = send_buffer.state is SendState.ENDING and len(send_buffer) == 0
            if data or ends:
                self._h2.send_data(stream_id, data, end_stream=ends)
        except ProtocolError:  # the client has reset the stream
            send_buffer.close()
            return True
        if ends:
            send_buffer.close()
        elif data and len(send_buffer):
            self.queue(stream)  # at the end: the streams take turns
        return ends
