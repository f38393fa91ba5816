"""Ends runs that nobody drives: those of a process that is gone, and our own that never got going.

The first kind is found by its owner's free advisory lock (`worker_lost`). The second is a request whose commit
became known only after it was answered with 503 (`store_unavailable`). Either is ended only after it was seen
so in every look for a while: a restarted database frees all locks, and the living need a moment to connect
again and take theirs back.
"""

import trio

from eventstore import EventStore, OpenWriter, StoreError, StoreUnavailable
from server import events, logs
from server.generation.supervisor import Supervisor

log = logs.get("sweep")

LOOK_SECONDS = 0.5
SUSPECT_SECONDS = 2.5
"""Longer than it takes a living process to show its lock again (`show_life` tries five times a second)."""
KEYS_SECONDS = 600.0


async def sweep(store: EventStore, supervisor: Supervisor) -> None:
    """Runs for ever."""
    suspects: dict[OpenWriter, float] = {}
    keys_at = trio.current_time()
    while True:
        now = trio.current_time()
        try:
            idle = [writer for writer in await store.open_writers() if not supervisor.drives(writer.name)]
            suspects = {writer: suspects.get(writer, now) for writer in idle}
            for writer, since in suspects.items():
                if now - since >= SUSPECT_SECONDS:
                    await _end(supervisor, writer)
            if now >= keys_at:
                keys_at = now + KEYS_SECONDS
                while await store.expire_keys():
                    pass
        except StoreUnavailable:
            suspects = {}  # the outage has a log line of its own
        except StoreError as error:
            suspects = {}
            log.warning("sweep failed", why=str(error))
        await trio.sleep(LOOK_SECONDS)


async def _end(supervisor: Supervisor, writer: OpenWriter) -> None:
    code, why = "worker_lost", "The server process that ran this generation is gone. Ask again."
    if writer.owner == supervisor.owner:
        code, why = "store_unavailable", "The log was away when this generation was to start. Ask again."
    event = events.generation_failed(writer.name, code, why, retryable=True)
    if await supervisor.end(writer.stream, writer.name, event):
        supervisor.metrics.lost_runs += 1
        log.warning("lost run ended", generation=writer.name, conversation=writer.stream, owner=writer.owner)
