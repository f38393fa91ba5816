"""Waiting for a database that is away: try again, with growing pauses, up to a bound.

Only for what may be sent twice; in this store that is everything (see `appending.repeatable`).
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from eventstore.errors import StoreUnavailable
from eventstore.observing import Health, Observer

PAUSE_FIRST, PAUSE_MOST = 0.02, 0.5

T = TypeVar("T")


async def patiently(
    call: Callable[[], Awaitable[T]], patience: float, name: str = "", health: Health | None = None
) -> T:
    """What `call` returns, or `StoreUnavailable` once `patience` seconds are over; one under way is cancelled.

    `health` is told how each try fared, under the call's `name`.
    """
    health = health or Health(Observer())
    deadline = trio.current_time() + patience
    pause = PAUSE_FIRST
    while True:
        try:
            with trio.fail_at(deadline):
                answer = await call()
        except StoreUnavailable as error:
            health.failed(name, error.kind, str(error))
            if trio.current_time() + pause > deadline:
                raise
        except trio.TooSlowError:
            why = f"the database did not answer within {patience:g} s"
            health.failed(name, "timeout", why)
            raise StoreUnavailable(why) from None
        else:
            health.answered(name)
            return answer
        health.retries[name] = health.retries.get(name, 0) + 1
        await trio.sleep(pause)
        pause = min(2 * pause, PAUSE_MOST)


async def once(call: Callable[[], Awaitable[T]], name: str, health: Health) -> T:
    """What `call` returns, or raises, the first time; `health` is told."""
    try:
        answer = await call()
    except StoreUnavailable as error:
        health.failed(name, error.kind, str(error))
        raise
    health.answered(name)
    return answer
