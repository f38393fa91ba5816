"""Retention: erases ephemeral conversations after their time, files that nothing uses, and keys that have expired.

Owns when this is looked for. What may be erased is decided by the stores, under lock: no stream with an open
writer, no category but the ephemeral one, and no file that a conversation uses. Must not know what is in a
conversation or a file.
"""

import trio

from eventstore import EventStore, StoreError, StoreUnavailable
from server.event_types import EPHEMERAL
from server.files.file_store import FileStore
from server.observability import Metrics, logs
from server.runtime.state_cache import StateCache

log = logs.get("retention")

ERASE_SECONDS = 5.0
"""Between two looks for ephemeral conversations whose time is over."""
EXPIRY_SECONDS = 600.0
"""Between two looks for keys that have expired, and for uses of files that this process did not see end."""
SWEEP_FILES = 20
"""Files that one transaction removes, at most."""
USERS_PAGE = 1_000
"""Conversations that are looked at together."""


async def enforce_retention(
    store: EventStore, states: StateCache, files: FileStore, metrics: Metrics, ephemeral_seconds: float
) -> None:
    """Erases what has had its time, for ever.

    An ephemeral conversation has `ephemeral_seconds` after its last event. Files that it alone uses go with it.
    """
    keys_due = trio.current_time()
    while True:
        try:
            while erased := await store.erase_streams(EPHEMERAL, ephemeral_seconds):
                for name in erased:
                    states.forget(name)
                await files.release(erased)
                log.info("ephemeral results erased", number=len(erased))
            if trio.current_time() >= keys_due:
                keys_due = trio.current_time() + EXPIRY_SECONDS
                await store.expire_keys()
                await _release_missed(files)
            while removed := await files.sweep(SWEEP_FILES):
                metrics.removed_files += removed
                log.info("files removed", number=removed)
        except StoreUnavailable:
            pass  # the store logs the outage
        except Exception as error:
            log.warning("nothing erased", why=str(error), exc_info=not isinstance(error, StoreError))
        await trio.sleep(ERASE_SECONDS)


async def _release_missed(files: FileStore) -> None:
    """Ends uses of conversations that were erased by hand, or by a process that was killed before it did so."""
    after = ""
    while users := await files.list_users(after, USERS_PAGE):
        await files.release(users)
        after = users[-1]
