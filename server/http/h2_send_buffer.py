"""One HTTP/2 stream's bytes on their way out: kept until the client's window lets them go, and never too many.

Owns the buffer and who waits for it. It knows no frames and no connection. hypercorn's own buffer (0.18) lets
its writer go on whenever a look at it took nothing, so a client that gave no window had everything kept.
"""

from enum import Enum, auto

import trio

MOST_WAITING = 32 * 1024
"""Who has put in so much waits until there is less: two frames of the usual size."""


class Side(Enum):
    """What may still go out."""

    OPEN = auto()
    ENDING = auto()
    OVER = auto()


class Outgoing:
    """The way out of one stream. `side` only moves on."""

    __slots__ = ("_bytes", "_changed", "queued", "side")

    def __init__(self) -> None:
        self.side = Side.OPEN
        self.queued = False  # the writer's mark: it stands in its row
        self._bytes = bytearray()
        self._changed = trio.Event()

    def __len__(self) -> int:
        return len(self._bytes)

    @property
    def full(self) -> bool:
        """Whether `put` would wait."""
        return len(self._bytes) >= MOST_WAITING

    def add(self, data: bytes) -> None:
        """Takes bytes without waiting; once it is ending there is nobody to take them for."""
        if self.side is Side.OPEN:
            self._bytes += data

    async def room(self) -> None:
        """Waits until there is little enough, or it is over."""
        await trio.lowlevel.checkpoint()
        while self.full and self.side is not Side.OVER:
            await self._changed.wait()

    def end(self) -> None:
        """No more will come; what is here still goes out."""
        if self.side is Side.OPEN:
            self.side = Side.ENDING

    async def gone(self) -> None:
        """Waits until all is out, or nobody wants it."""
        await trio.lowlevel.checkpoint()
        while self.side is not Side.OVER:
            await self._changed.wait()

    def take(self, most: int) -> bytes:
        """Takes so many bytes out, or fewer."""
        with memoryview(self._bytes) as view:
            data = bytes(view[:most])
        del self._bytes[: len(data)]
        if data and not self.full:
            self._wake()
        return data

    def close(self) -> None:
        """It is over: all is out, or nobody wants it. Whoever waits goes on."""
        self.side = Side.OVER
        self._bytes = bytearray()
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
