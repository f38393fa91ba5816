"""Asking a store that may be away, for as long as that takes: a webhook has days, and nobody waits for it here."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from eventstore import StoreUnavailable

T = TypeVar("T")

RETRY_SECONDS = 2.0


async def insist(call: Callable[[], Awaitable[T]]) -> T:
    """What the call returns once the store answers. An append is safe here: sent again, it happens once."""
    while True:
        try:
            return await call()
        except StoreUnavailable:
            await trio.sleep(RETRY_SECONDS)
