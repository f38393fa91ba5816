"""What nobody drives any more: runs and webhooks of a process that is gone, and our own that never got going.

The first kind is found by its owner's free advisory lock: one that may go on is taken over, another is ended
(`worker_lost`). The second is a request whose commit became known only after it was answered with 503
(`store_unavailable`). Either is touched only after it was seen so in every look for a while: a restarted database
frees all locks, and the living need a moment to connect again and take theirs back.
"""

from dataclasses import dataclass

import trio

from eventstore import EventStore, OpenWriter, StoreError, StoreUnavailable
from server import events, logs
from server.errors import Problem
from server.events import EPHEMERAL
from server.generation.supervisor import Supervisor
from server.runtime.starting import Starting
from server.runtime.state_cache import StateCache
from server.runtime.stream_drain import Drain
from server.webhooks.webhook_events import is_webhook
from server.webhooks.webhooks import Webhooks

log = logs.get("sweep")

LOOK_SECONDS = 0.5
SUSPECT_SECONDS = 2.5
"""Longer than it takes a living process to show its lock again (`show_life` tries five times a second)."""
UNKNOWN_SECONDS = 60.0
"""How long a run whose workflow this process has not loaded is left for one that has."""
EXPIRY_SECONDS = 600.0
ERASE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Sweeping:
    """What a sweep works with."""

    store: EventStore
    folds: StateCache
    supervisor: Supervisor
    starting: Starting
    webhooks: Webhooks
    drain: Drain


async def sweep(with_: Sweeping) -> None:
    """Runs for ever."""
    suspects: dict[OpenWriter, float] = {}
    while True:
        now = trio.current_time()
        try:
            found = await with_.store.open_writers()
            idle = [writer for writer in found if not _driven(with_, writer)]
            suspects = {writer: suspects.get(writer, now) for writer in idle}
            for writer, since in suspects.items():
                if now - since >= SUSPECT_SECONDS and not with_.drain.begun:
                    await _take(with_, writer, now - since)
        except StoreUnavailable:
            suspects = {}  # the outage has a log line of its own
        except StoreError as error:
            suspects = {}
            log.warning("sweep failed", why=str(error))
        await trio.sleep(LOOK_SECONDS)


def _driven(with_: Sweeping, writer: OpenWriter) -> bool:
    if is_webhook(writer.name):
        return with_.webhooks.drives(writer.name)
    return with_.supervisor.drives(writer.name)


async def _take(with_: Sweeping, writer: OpenWriter, idle_for: float) -> None:
    if is_webhook(writer.name):
        await with_.webhooks.take_over(writer)
        return
    try:
        found = (await with_.folds.latest(writer.stream)).generation(writer.name)
    except Problem:
        found = None
    if found is not None and writer.owner != with_.supervisor.owner and found.may_follow(found.attempt):
        if with_.starting.knows(found):
            if await with_.starting.take_over(with_.supervisor, writer, found):
                with_.supervisor.metrics.taken_over += 1
                log.info(
                    "run taken over", generation=found.id, conversation=writer.stream, attempt=found.attempt + 1
                )
            return
        if idle_for < UNKNOWN_SECONDS:
            return
    await _end(with_.supervisor, writer)


async def _end(supervisor: Supervisor, writer: OpenWriter) -> None:
    code, why = "worker_lost", "The server process that ran this generation is gone. Ask again."
    if writer.owner == supervisor.owner:
        code, why = "store_unavailable", "The log was away when this generation was to start. Ask again."
    event = events.generation_failed(writer.name, code, why, retryable=True)
    if await supervisor.end(writer.stream, writer.name, event):
        supervisor.metrics.lost_runs += 1
        log.warning("lost run ended", generation=writer.name, conversation=writer.stream, owner=writer.owner)


async def expire(store: EventStore, folds: StateCache, ephemeral_seconds: float) -> None:
    """Removes what has had its time: ephemeral conversations, and keys. Runs for ever."""
    keys_at = trio.current_time()
    while True:
        try:
            while erased := await store.erase_streams(EPHEMERAL, ephemeral_seconds):
                for name in erased:
                    folds.forget(name)
                log.info("ephemeral results erased", number=len(erased))
            if trio.current_time() >= keys_at:
                keys_at = trio.current_time() + EXPIRY_SECONDS
                while await store.expire_keys():
                    pass
        except StoreUnavailable:
            pass  # the outage has a log line of its own
        except StoreError as error:
            log.warning("nothing erased", why=str(error))
        await trio.sleep(ERASE_SECONDS)
