"""Ends runs that nobody drives: those of a process that is gone, and our own that never got going.

The first kind is found by its owner's free advisory lock (`worker_lost`). The second is a request whose commit
became known only after it was answered with 503 (`store_unavailable`). Either is ended only after two looks in
a row: a restarted database frees all locks for a moment in which the living take theirs back.
"""

import trio

from eventstore import EventStore, OpenWriter, StoreError
from server import events, logs
from server.generation.supervisor import Supervisor

log = logs.get("sweep")

LOOK_SECONDS = 1.0
KEYS_SECONDS = 600.0


async def sweep(store: EventStore, supervisor: Supervisor) -> None:
    """Runs for ever."""
    suspects: set[OpenWriter] = set()
    keys_at = trio.current_time()
    while True:
        try:
            idle = {writer for writer in await store.open_writers() if not supervisor.drives(writer.name)}
            for writer in suspects & idle:
                await _end(supervisor, writer)
            suspects = idle
            if trio.current_time() >= keys_at:
                keys_at = trio.current_time() + KEYS_SECONDS
                await store.expire_keys()
        except StoreError as error:
            suspects = set()
            log.warning("sweep failed", why=str(error))
        await trio.sleep(LOOK_SECONDS)


async def _end(supervisor: Supervisor, writer: OpenWriter) -> None:
    code, why = "worker_lost", "The server process that ran this generation is gone. Ask again."
    if writer.owner == supervisor.owner:
        code, why = "store_unavailable", "The log was away when this generation was to start. Ask again."
    event = events.generation_failed(writer.name, code, why, retryable=True)
    if await supervisor.end(writer.stream, writer.name, event):
        log.warning("lost run ended", generation=writer.name, conversation=writer.stream, owner=writer.owner)
