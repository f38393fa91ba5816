"""What an HTTP/2 connection sends, written by one task: control frames as they come, streams' bytes in turn.

Owns the order and the amount. An app that is cut while it says something leaves no half of it: were each
task to write for itself, a cancelled one would take headers with it, and with them the state of the header
compression that all streams share. It decides nothing about streams.
"""

from collections.abc import Awaitable, Callable

import trio
from h2.connection import H2Connection
from h2.exceptions import ProtocolError

from server.http.h2_send_buffer import Side
from server.http.h2_stream import Http2Stream

FRAME_BYTES = 16_384
WRITE_BYTES = 4 * FRAME_BYTES
"""What goes out at once, of as many streams as wait: one write for a hundred tokens, not a hundred."""
MOST_UNSENT = 65_536
"""A client that takes no answers to its pings and requests is not read from any more."""


class Writer:
    """The way out of one connection. `run` is its task; all else only leaves it work."""

    def __init__(self, h2: H2Connection, send: Callable[[bytes], Awaitable[None]]) -> None:
        self._h2 = h2
        self._send = send
        self._ready: list[Http2Stream] = []
        self._unsent = bytearray()
        self._wake = trio.Event()
        self._sent = trio.Event()
        self._closed = False

    def queue(self, stream: Http2Stream) -> None:
        """A stream has something that may go out."""
        if not stream.outgoing.queued:
            stream.outgoing.queued = True
            self._ready.append(stream)
            self._wake.set()

    def flush(self, more: bytes = b"") -> None:
        """Takes the frames that h2 has made since, and `more`."""
        data = self._h2.data_to_send() + more
        if data:
            self._unsent += data
            self._wake.set()

    def close(self) -> None:
        """Nobody is there any more."""
        self._closed = True
        self._sent.set()
        self._wake.set()

    async def not_behind(self) -> None:
        """Waits while the client takes too little of what it makes us answer."""
        while len(self._unsent) > MOST_UNSENT and not self._closed:
            await self._sent.wait()

    async def all_sent(self, seconds: float) -> None:
        """Waits until nothing is left but streams' bytes, at most so long."""
        with trio.move_on_after(seconds):
            while self._unsent and not self._closed:
                await self._sent.wait()

    async def run(self, over: Callable[[Http2Stream], None]) -> None:
        """Writes until `close`. `over` is told of each stream whose last byte this was."""
        while not self._closed:
            ended = self._fill()
            if self._unsent:
                data = bytes(self._unsent)
                await self._send(data)
                del self._unsent[: len(data)]  # only now: whoever waits for it to be sent may close the socket
                self._sent.set()
                self._sent = trio.Event()
            elif not ended:
                await self._wake.wait()
                self._wake = trio.Event()
            for stream in ended:
                over(stream)

    def _fill(self) -> list[Http2Stream]:
        """Frames of the streams that wait, in turn; which of them ended thereby."""
        self.flush()
        ended: list[Http2Stream] = []
        while self._ready and len(self._unsent) < WRITE_BYTES:
            stream = self._ready.pop(0)
            stream.outgoing.queued = False
            if stream.outgoing.side is not Side.OVER and self._frame(stream):
                ended.append(stream)
            self.flush()
        return ended

    def _frame(self, stream: Http2Stream) -> bool:
        """One frame, as far as the client's windows let it go; whether the stream has ended."""
        stream_id, outgoing = stream.stream_id, stream.outgoing
        try:
            window = self._h2.local_flow_control_window(stream_id)
            data = outgoing.take(max(0, min(window, self._h2.max_outbound_frame_size, FRAME_BYTES)))
            ends = outgoing.side is Side.ENDING and len(outgoing) == 0
            if data or ends:
                self._h2.send_data(stream_id, data, end_stream=ends)
        except ProtocolError:  # ended meanwhile, by its client
            outgoing.close()
            return True
        if ends:
            outgoing.close()
        elif data and len(outgoing):
            self.queue(stream)  # behind the others
        return ends
