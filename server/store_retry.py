"""Asking a store that may be away, for as long as that takes: for whoever has nothing to lose by waiting."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from eventstore import StoreUnavailable

T = TypeVar("T")

RETRY_SECONDS = 2.0


async def insist(call: Callable[[], Awaitable[T]]) -> T:
    """What the call returns once the store answers. An append is safe here: sent again, it happens once.

    Every other error comes through: it would be the same the next time.
    """
    while True:
        try:
            return await call()
        except StoreUnavailable:
            await trio.sleep(RETRY_SECONDS)
