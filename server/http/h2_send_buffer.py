"""One HTTP/2 stream's bytes on their way out: kept until the client's window lets them go, and never too many.

Owns the buffer and who waits for it. It knows no frames and no connection. Every byte in it is counted in the
process's budget until it has gone out or nobody wants it any more.
"""

from enum import Enum, auto

import trio

from server.http.connection_limits import ByteBudget

MOST_WAITING = 32 * 1024
"""Who has put in so much waits until there is less: two frames of the usual size."""


class Side(Enum):
    """What may still go out."""

    OPEN = auto()
    ENDING = auto()
    OVER = auto()


class SendBuffer:
    """The way out of one stream. `side` only moves on; `moved_at` is when a byte last went out."""

    __slots__ = ("_budget", "_bytes", "_changed", "moved_at", "queued", "side")

    def __init__(self, budget: ByteBudget) -> None:
        self.side = Side.OPEN
        self.queued = False  # the writer's mark: the stream stands in its row
        self.moved_at = 0.0
        self._budget = budget
        self._bytes = bytearray()
        self._changed: trio.Event | None = None

    def __len__(self) -> int:
        return len(self._bytes)

    @property
    def full(self) -> bool:
        """Whether `room` would wait."""
        return len(self._bytes) >= MOST_WAITING

    def add(self, data: bytes | memoryview) -> None:
        """Takes bytes without waiting; once it is ending there is nobody to take them for."""
        if self.side is Side.OPEN:
            if not self._bytes:
                self.moved_at = trio.current_time()
            self._bytes += data
            self._budget.add(len(data))

    async def room(self) -> None:
        """Waits until there is little enough, or it is over."""
        await trio.lowlevel.checkpoint()
        while self.full and self.side is not Side.OVER:
            if self._changed is None:
                self._changed = trio.Event()
            await self._changed.wait()

    def end(self) -> None:
        """No more will come; what is here still goes out."""
        if self.side is Side.OPEN:
            self.side = Side.ENDING

    def take(self, most: int) -> bytes:
        """Takes so many bytes out, or fewer."""
        with memoryview(self._bytes) as view:
            data = bytes(view[:most])
        if data:
            del self._bytes[: len(data)]
            self._budget.give(len(data))
            self.moved_at = trio.current_time()
            if not self.full:
                self._wake()
        return data

    def close(self) -> None:
        """It is over: all is out, or nobody wants it. Whoever waits goes on."""
        self.side = Side.OVER
        self._budget.give(len(self._bytes))
        self._bytes = bytearray()
        self._wake()

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None
