"""Retention: erases ephemeral conversations after their time, and idempotency keys that have expired.

Owns when this is looked for. What may be erased is decided by the store, under lock: no stream with an open
writer, and no category but the ephemeral one. Must not know what is in a conversation.
"""

import trio

from eventstore import EventStore, StoreError, StoreUnavailable
from server.event_types import EPHEMERAL
from server.observability import logs
from server.runtime.state_cache import StateCache

log = logs.get("retention")

ERASE_SECONDS = 5.0
"""Between two looks for ephemeral conversations whose time is over."""
EXPIRY_SECONDS = 600.0
"""Between two looks for keys that have expired."""


async def enforce_retention(store: EventStore, states: StateCache, ephemeral_seconds: float) -> None:
    """Erases what has had its time, for ever.

    An ephemeral conversation has `ephemeral_seconds` after its last event.
    """
    keys_due = trio.current_time()
    while True:
        try:
            while erased := await store.erase_streams(EPHEMERAL, ephemeral_seconds):
                for name in erased:
                    states.forget(name)
                log.info("ephemeral results erased", number=len(erased))
            if trio.current_time() >= keys_due:
                keys_due = trio.current_time() + EXPIRY_SECONDS
                await store.expire_keys()
        except StoreUnavailable:
            pass  # the store logs the outage
        except Exception as error:
            log.warning("nothing erased", why=str(error), exc_info=not isinstance(error, StoreError))
        await trio.sleep(ERASE_SECONDS)
