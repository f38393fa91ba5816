"""Waiting for a database that is away: try again, with growing pauses, up to a bound.

Only for what may be sent twice; in this store that is everything (see `appending.repeatable`).
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from eventstore.errors import StoreUnavailable

PAUSE_FIRST, PAUSE_MOST = 0.02, 0.5

T = TypeVar("T")


async def patiently(call: Callable[[], Awaitable[T]], patience: float) -> T:
    """What `call` returns, or `StoreUnavailable` once `patience` seconds are over; one under way is cancelled."""
    deadline = trio.current_time() + patience
    pause = PAUSE_FIRST
    while True:
        try:
            with trio.fail_at(deadline):
                return await call()
        except StoreUnavailable:
            if trio.current_time() + pause > deadline:
                raise
        except trio.TooSlowError:
            raise StoreUnavailable(f"the database did not answer within {patience:g} s") from None
        await trio.sleep(pause)
        pause = min(2 * pause, PAUSE_MOST)
