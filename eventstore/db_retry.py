"""How a call to a database that may be away is repeated: after which errors, with which pauses, for how long.

After which errors: only after `StoreUnavailable`, which is passing. Any other error would be the same the next
time, so it is raised at once. With which pauses: `pause_before_retry`, one schedule for the whole store. For how
long: `retry_within` has a timeout, `retry_until_available` has none.

The caller must be free to make its call twice. Every append of this store may be sent twice, because
`backend.repeatable` gives each one a name by which the log knows it again. This file knows no SQL.
"""

import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from eventstore.errors import StoreUnavailable
from eventstore.observer import Health, Observer

FIRST_PAUSE: Final = 0.02
MAX_PAUSE: Final = 0.5

T = TypeVar("T")


def pause_before_retry(retry: int, longest: float = MAX_PAUSE, *, jitter: bool = False) -> float:
    """Seconds to wait before the `retry`-th repetition (1, 2, 3 …): 0.02, 0.04, 0.08 … and at most `longest`.

    The first pause is short because most failures are one broken connection. The longest one bounds how much later
    than the database a waiting call is back. `jitter` takes a random part off, up to half of the pause: for new
    connections, which all processes make at the same moment when the database comes back.
    """
    doublings = min(retry - 1, 16)  # 2 ** retry would become a huge number in an outage of hours
    pause = min(FIRST_PAUSE * 2.0**doublings, longest)
    return pause * random.uniform(0.5, 1.0) if jitter else pause


async def call_once(call: Callable[[], Awaitable[T]], name: str, health: Health) -> T:
    """Makes the call a single time and reports to `health`, under `name`, whether the database answered."""
    try:
        answer = await call()
    except StoreUnavailable as error:
        health.failed(name, error.kind, str(error))
        raise
    health.answered(name)
    return answer


async def retry_within(
    call: Callable[[], Awaitable[T]], timeout: float, name: str = "", health: Health | None = None
) -> T:
    """Repeats the call while the database is away, for `timeout` seconds in all, and returns its result.

    A try that is under way when the time is over is cancelled. `health` is told of every try, under `name`. Raises
    `StoreUnavailable` when the time is over, and at once whatever else the call raises.
    """
    health = Health(Observer()) if health is None else health
    deadline = trio.current_time() + timeout
    retry = 0
    while True:
        retry += 1
        pause = pause_before_retry(retry)
        try:
            with trio.fail_at(deadline):
                return await call_once(call, name, health)
        except StoreUnavailable:
            if trio.current_time() + pause > deadline:
                raise
        except trio.TooSlowError:
            why = f"the database did not answer within {timeout:g} s"
            health.failed(name, "timeout", why)
            raise StoreUnavailable(why) from None
        health.retries[name] = health.retries.get(name, 0) + 1
        await trio.sleep(pause)


async def retry_until_available(call: Callable[[], Awaitable[T]]) -> T:
    """Repeats the call for as long as the database is away, and returns its result.

    For a caller that loses nothing by waiting, such as a run whose next event has to be written. Raises at once
    whatever else the call raises.
    """
    retry = 0
    while True:
        try:
            return await call()
        except StoreUnavailable:
            retry += 1
            await trio.sleep(pause_before_retry(retry))
