"""Processes that own runs: a supervisor on a store on a log, and requests for it to take up.

Several may share one `MemoryLog`, as processes share a database.
"""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

from eventstore import NO_STREAM, Append, Event, EventStore, StoreOptions, Writer
from eventstore.log import Log
from eventstore.memory import MemoryLog
from server import events
from server.events import TERMINAL
from server.generation.supervisor import EPOCH, Run, Supervisor
from server.upstream import Upstream

from .fake_upstream import PROMPT
from .wrapped_log import events_of

CONVERSATION, GENERATION = "conv_1", "gen_1"


@dataclass(frozen=True)
class Owner:
    """One process at work."""

    store: EventStore
    supervisor: Supervisor

    async def request(self, generation: str = GENERATION, conversation: str = CONVERSATION) -> None:
        """Appends a request in a new conversation, with this process as the owner of its writer."""
        asked = events.generation_requested(generation, "fake", {}, "anonymous")
        news = (events.conversation_started(None, None), asked)
        await self.store.append(Append(conversation, news, NO_STREAM, Writer(generation, EPOCH, 1)))

    async def cancel(self, generation: str = GENERATION, conversation: str = CONVERSATION) -> bool:
        """Ends a generation from outside, in the log alone; False if it had ended already."""
        event = events.generation_cancelled(generation, None, "anonymous")
        return await self.supervisor.end(conversation, generation, event)

    async def released(self, generation: str = GENERATION, conversation: str = CONVERSATION) -> None:
        """Returns when the generation's owner has said that it holds nothing for it."""
        while True:
            writer = await self.store.writer(conversation, generation)
            assert writer is not None
            if writer.released:
                return
            await trio.sleep(0.01)


@asynccontextmanager
async def owner(log: Log, *, patience: float = 30.0, watch: bool = True) -> AsyncIterator[Owner]:
    """A process for as long as the context is open; then it is gone, as by a kill."""
    async with EventStore(log, StoreOptions(patience=patience)).open() as store, trio.open_nursery() as nursery:
        supervisor = Supervisor(store, nursery, "worker-1")
        if watch:
            nursery.start_soon(supervisor.watch)
        yield Owner(store, supervisor)
        nursery.cancel_scope.cancel()


def run_of(upstream: Upstream, generation: str = GENERATION, conversation: str = CONVERSATION) -> Run:
    """A run that a supervisor can start."""
    return Run(conversation, generation, upstream, PROMPT)


def told(log: MemoryLog, generation: str = GENERATION, conversation: str = CONVERSATION) -> list[Event]:
    """The generation's events in the log."""
    return [event for event in events_of(log, conversation) if event.tag == generation]


def types(log: MemoryLog) -> list[str]:
    """Their types, from `generation.started` on."""
    return [event.type for event in told(log)][1:]


def deltas(log: MemoryLog) -> list[str]:
    """Their texts."""
    return [fields(event)["delta"] for event in told(log) if event.type == "token"]


def fields(event: Event) -> dict[str, Any]:
    """An event's own fields."""
    found: dict[str, Any] = json.loads(event.data)
    return found


def the_end(found: Sequence[Event]) -> Event:
    """The one terminal event among a generation's events, which must be the last of them."""
    ends = [event for event in found if event.type in TERMINAL]
    assert len(ends) == 1, [event.type for event in found]
    assert found[-1] is ends[0], [event.type for event in found]
    return ends[0]
