"""How long to wait for a server that is away, how often to knock, and how others see it meanwhile."""

import random
from collections.abc import Callable

import trio

from server.client.errors import ClientError, Unreachable

PAUSE_FIRST, PAUSE_MOST = 0.2, 3.0


class Patience:
    """One a session. `away_since` is the time (trio's clock) of the first failure in a row, None while all is
    well. `tell` hears of that first failure, and None when the server is back.
    A server that was never met is not waited for: its address is wrong, or it is not started.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.away_since: float | None = None
        self.tell: Callable[[ClientError | None], None] = lambda _: None
        self._met = False
        self._pause = PAUSE_FIRST

    def begin(self) -> None:
        """The clock is another one: a new `trio.run` of the same session."""
        self.away_since = None
        self._pause = PAUSE_FIRST

    def well(self) -> None:
        """The server has answered."""
        self._met = True
        self._pause = PAUSE_FIRST
        if self.away_since is not None:
            self.away_since = None
            self.tell(None)

    async def wait(self, error: ClientError) -> None:
        """Waits before the next try, or raises `error` when there shall be none."""
        now = trio.current_time()
        if not error.passes or (isinstance(error, Unreachable) and not self._met):
            raise error
        if self.away_since is None:
            self.away_since = now
            self.tell(error)
        left = self.away_since + self.seconds - now
        if left <= 0:
            raise error
        # At random: clients that were cut together shall not come back together.
        pause = max(self._pause * random.uniform(0.5, 1.0), error.retry_after or 0.0)
        self._pause = min(2 * self._pause, PAUSE_MOST)
        await trio.sleep(min(pause, left))
