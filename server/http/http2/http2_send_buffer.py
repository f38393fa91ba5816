"""The send buffer of one HTTP/2 stream: it holds bytes until the client's window allows to send them.

Owns the buffer, its bound, and the tasks that wait for room in it. Every byte in it counts in the process's byte
budget until it is sent or dropped. It must not know frames or the connection.
"""

from enum import Enum, auto

import trio

from server.http.connection import WakeSignal
from server.http.connection_limits import ByteBudget

MAX_BUFFERED = 32 * 1024
"""A task that has added bytes waits while the buffer holds so much: two frames of the default size."""


class SendState(Enum):
    """What may still be sent on a stream. It only moves on."""

    OPEN = auto()
    ENDING = auto()  # no more bytes are added; the buffered ones are still sent, the last one with END_STREAM
    CLOSED = auto()  # all is sent, or the rest was dropped


class SendBuffer:
    """The send buffer of one stream. `moved_at`: when a byte was last sent, or the buffer ceased to be empty.

    `queued` belongs to the writer: the stream is in its queue.
    """

    __slots__ = ("_budget", "_bytes", "_changed", "moved_at", "queued", "state")

    def __init__(self, budget: ByteBudget) -> None:
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
