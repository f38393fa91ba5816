"""How long and how often a client tries to reach a server that has gone away.

Owns the pauses between tries and the bound of the whole wait; the status line of a command reads how long it
lasts. It must not know what is requested.
"""

import random
from collections.abc import Callable

import trio

from server.client.errors import ClientError, Unreachable

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 3.0
"""Seconds between two tries. Each pause is twice the one before; then a random part of up to half is taken off."""


class ReconnectPolicy:
    """The reconnects of one session with a server.

    `seconds`: how long to wait for a server that is away. `away_since`: when it was first missed, on trio's clock;
    None while it answers. `on_change` is called with that first error, and with None when the server is back. A
    server that has never answered is not waited for: its address is wrong, or it has not been started.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.away_since: float | None = None
        self.on_change: Callable[[ClientError | None], None] = lambda _: None
        self._has_answered = False
        self._pause = FIRST_PAUSE

    def begin(self) -> None:
        """Starts again in a new `trio.run`, whose clock has another zero."""
        self.away_since = None
        self._pause = FIRST_PAUSE

    def succeeded(self) -> None:
        """The server has answered."""
        self._has_answered = True
        self._pause = FIRST_PAUSE
        if self.away_since is not None:
            self.away_since = None
            self.on_change(None)

    async def wait(self, error: ClientError) -> None:
        """Waits before the next try. Raises `error` if it is permanent, or the server is away for too long."""
        now = trio.current_time()
        if not error.is_temporary or (isinstance(error, Unreachable) and not self._has_answered):
            raise error
        if self.away_since is None:
            self.away_since = now
            self.on_change(error)
        left = self.away_since + self.seconds - now
        if left <= 0:
            raise error
        # A random pause, so that clients that were cut off together do not come back together.
        pause = max(self._pause * random.uniform(0.5, 1.0), error.retry_after or 0.0)
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        await trio.sleep(min(pause, left))
