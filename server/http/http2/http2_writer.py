"""What is sent on an HTTP/2 connection: the send buffer of each stream, and the one task that writes.

`SendBuffer` holds a stream's bytes until the client's window allows to send them. It has a bound, and tasks wait
for room in it. Every byte in it counts in the process's byte budget until it is sent or dropped.

`Http2Writer` sends control frames as they come, and the streams' bytes in turn. It owns the order of frames and
how much is written at once. If each stream's task wrote for itself, a cancelled task could leave half a frame, or
lose headers and with them the state of the header compression that all streams share. It must not decide anything
about streams.
"""

from collections.abc import Awaitable, Callable
from enum import Enum, auto

import trio
from h2.connection import H2Connection
from h2.exceptions import ProtocolError

from server.http.connection import WakeSignal
from server.http.connection_limits import ByteShare

MAX_BUFFERED = 32 * 1024
"""A task that has added bytes waits while the buffer holds so much: two frames of the default size."""


class SendState(Enum):
    """What may still be sent on a stream. It only moves on."""

    OPEN = auto()
    ENDING = auto()  # no more bytes are added; the buffered ones are still sent, the last one with END_STREAM
    CLOSED = auto()  # all is sent, or the rest was dropped


class SendBuffer:
    """The send buffer of one stream. `moved_at`: when a byte was last sent, or the buffer ceased to be empty.

    `queued` belongs to the writer: the buffer is in its queue.
    """

    __slots__ = ("_budget", "_bytes", "_changed", "moved_at", "queued", "state", "stream_id")

    def __init__(self, stream_id: int, budget: ByteShare) -> None:
        self.stream_id = stream_id
        self.state = SendState.OPEN
        self.queued = False
        self.moved_at = 0.0
        self._budget = budget
        self._bytes = bytearray()
        self._changed = WakeSignal()

    def __len__(self) -> int:
        return len(self._bytes)

    @property
    def full(self) -> bool:
        """Whether `wait_for_room` would wait."""
        return len(self._bytes) >= MAX_BUFFERED

    def add(self, data: bytes | memoryview) -> None:
        """Adds bytes without waiting. Once the stream is ending it drops them."""
        if self.state is SendState.OPEN:
            if not self._bytes:
                self.moved_at = trio.current_time()
            self._bytes += data
            self._budget.add(len(data))

    async def wait_for_room(self) -> None:
        """Waits until the buffer has room, or is closed."""
        await trio.lowlevel.checkpoint()
        while self.full and self.state is not SendState.CLOSED:
            await self._changed.wait()

    def end(self) -> None:
        """No more bytes are added; the buffered ones are still sent."""
        if self.state is SendState.OPEN:
            self.state = SendState.ENDING

    def take(self, most: int) -> bytes:
        """Takes out at most so many bytes, to send them."""
        with memoryview(self._bytes) as view:
            data = bytes(view[:most])
        if data:
            del self._bytes[: len(data)]
            self._budget.give(len(data))
            self.moved_at = trio.current_time()
            if not self.full:
                self._changed.wake()
        return data

    def close(self) -> None:
        """Drops what is left and wakes the tasks that wait for room. All is sent, or nobody wants the rest."""
        self.state = SendState.CLOSED
        self._budget.give(len(self._bytes))
        self._bytes = bytearray()
        self._changed.wake()


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
        self._ready: list[SendBuffer] = []
        self._unsent = bytearray()
        self._wake = trio.Event()
        self._sent = trio.Event()
        self._closed = False

    def queue(self, buffer: SendBuffer) -> None:
        """Queues the buffer of a stream that has bytes to send, or has ended."""
        if not buffer.queued:
            buffer.queued = True
            self._ready.append(buffer)
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

    async def run(self, on_all_sent: Callable[[SendBuffer], None]) -> None:
        """Writes until `close`. `on_all_sent` is called for the buffer of each stream whose last byte was sent."""
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
            for buffer in ended:
                on_all_sent(buffer)

    def _fill(self) -> list[SendBuffer]:
        """Makes frames of the queued streams, one for each in turn. Returns those streams that ended with it."""
        self.flush()
        ended: list[SendBuffer] = []
        while self._ready and len(self._unsent) < WRITE_BYTES:
            buffer = self._ready.pop(0)
            buffer.queued = False
            if buffer.state is not SendState.CLOSED and self._frame(buffer):
                ended.append(buffer)
            self.flush()
        return ended

    def _frame(self, buffer: SendBuffer) -> bool:
        """Makes one frame, as large as the client's windows allow. Returns whether the stream has ended."""
        try:
            window = self._h2.local_flow_control_window(buffer.stream_id)
            data = buffer.take(max(0, min(window, self._h2.max_outbound_frame_size, FRAME_BYTES)))
            ends = buffer.state is SendState.ENDING and len(buffer) == 0
            if data or ends:
                self._h2.send_data(buffer.stream_id, data, end_stream=ends)
        except ProtocolError:  # the client has reset the stream
            buffer.close()
            return True
        if ends:
            buffer.close()
        elif data and len(buffer):
            self.queue(buffer)  # at the end: the streams take turns
        return ends
