"""Waiting for a database that is away: try again, with growing pauses, up to a bound.

Only for what may be sent twice; in this store that is everything (see `_repeatable`).
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from eventstore.errors import StoreUnavailable

PAUSE_FIRST, PAUSE_MOST = 0.02, 0.5

T = TypeVar("T")


async def patiently(call: Callable[[], Awaitable[T]], patience: float) -> T:
    """What `call` returns, or its last `StoreUnavailable` once `patience` seconds are over."""
    deadline = trio.current_time() + patience
    pause = PAUSE_FIRST
    while True:
        try:
            return await call()
        except StoreUnavailable:
            if trio.current_time() + pause > deadline:
                raise
        await trio.sleep(pause)
        pause = min(2 * pause, PAUSE_MOST)
