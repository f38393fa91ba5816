"""The idle connections of one provider, kept from one answer for the next.

Owns who may stay: only while somebody runs the pool, at most so many, and each for so long. Idle sockets thus have
an owner, which closes them when their time is over and when it ends; where nobody runs the pool, every connection
is closed after its answer. Must not know requests; whether a connection may be used again its user says.
"""

from __future__ import annotations

import ssl

import trio

from .address import Address
from .connection import Connection
from .proxy import Proxy

__all__ = ["Pool"]

MOST_IDLE = 8
IDLE_SECONDS = 30.0  # shorter than the usual limits of servers (nginx 75 s, uvicorn's 5 s is found out on reuse)


class Pool:
    """Connections to one address. All methods but `run` return at once."""

    def __init__(
        self,
        address: Address,
        context: ssl.SSLContext | None = None,
        *,
        proxy: Proxy | None = None,
        most: int = MOST_IDLE,
        seconds: float = IDLE_SECONDS,
    ) -> None:
        self.address = address
        self.keeping = False
        self._context = context
        self._proxy = proxy
        self._most = most
        self._seconds = seconds
        self._idle: list[tuple[float, Connection]] = []  # with the time at which it is closed; the oldest first

    def __len__(self) -> int:
        """How many connections are idle."""
        return len(self._idle)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep connections until cancelled; then close the idle ones, and from then on each after its use."""
        self.keeping = True
        task_status.started()
        try:
            while True:
                # One that comes while this sleeps is not due before the sleep ends.
                due = self._idle[0][0] if self._idle else trio.current_time() + self._seconds
                await trio.sleep_until(due)
                self._close_due()
        finally:
            self.keeping = False
            while self._idle:
                self._idle.pop()[1].close()

    def new(self) -> Connection:
        """A connection that is not open yet."""
        return Connection(self.address, self._context, self._proxy)

    def take(self) -> Connection | None:
        """The connection that was used last, which is the likeliest to be alive; None if none is idle."""
        self._close_due()
        return self._idle.pop()[1] if self._idle else None

    def give(self, connection: Connection) -> None:
        """Take over a connection that can be used again; the caller must not touch it any more."""
        if not self.keeping:
            connection.close()
            return
        self._idle.append((trio.current_time() + self._seconds, connection))
        if len(self._idle) > self._most:
            self._idle.pop(0)[1].close()

    def _close_due(self) -> None:
        while self._idle and self._idle[0][0] <= trio.current_time():
            self._idle.pop(0)[1].close()
