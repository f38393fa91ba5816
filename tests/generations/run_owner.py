"""Processes that own runs: a supervisor on a store on a log, and requests for it to run."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

from eventstore import NO_STREAM, Append, Event, EventStore, StoreOptions, Writer
from eventstore.backend import Backend
from eventstore.memory_backend import EPOCH as BEGINNING
from eventstore.memory_backend import MemoryBackend
from server import event_types
from server.conversations.conversation_state import Conversation, Generation
from server.conversations.fold import fold
from server.conversations.prompt import FirstPrompt
from server.conversations.state_machine import Status
from server.event_types import TERMINAL
from server.generations.executors import FIRST_EPOCH, AnswerExecutor, Attempt
from server.generations.run_context import RunResources
from server.generations.supervisor import Supervisor
from server.generations.token_pump import AdaptiveBatching
from server.observability import Metrics
from server.providers import Provider, ProviderRegistry

from .fake_upstream import PROMPT
from .unreliable_logs import events_of

CONVERSATION, GENERATION = "conv_1", "gen_1"
REQUESTED = 2
"""Where the request stands: behind the start of its conversation."""


@dataclass(frozen=True)
class Owner:
    """One process at work."""

    store: EventStore
    supervisor: Supervisor

    async def request(self, generation: str = GENERATION, conversation: str = CONVERSATION) -> None:
        """Appends a request in a new conversation, with this process as the owner of its writer."""
        asked = event_types.generation_requested(generation, model="fake", parameters={}, by="anonymous")
        news = (event_types.conversation_started(None, None), asked)
        await self.store.append(Append(conversation, news, NO_STREAM, Writer(generation, FIRST_EPOCH, 1)))

    async def cancel(self, generation: str = GENERATION, conversation: str = CONVERSATION) -> bool:
        """Ends a generation from outside, in the log alone; False if it had ended already."""
        event = event_types.generation_cancelled(generation, None, "anonymous")
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
async def owner(
    log: Backend, *, patience: float = 30.0, watch: bool = True, metrics: Metrics | None = None
) -> AsyncIterator[Owner]:
    """A process that lives as long as the context, then is gone as after a kill."""
    async with (
        EventStore(log, StoreOptions(call_timeout=patience)).open() as store,
        trio.open_nursery() as nursery,
    ):
        supervisor = Supervisor(store, nursery, "worker-1", resources(store), metrics)
        if watch:
            nursery.start_soon(supervisor.watch)
        yield Owner(store, supervisor)
        nursery.cancel_scope.cancel()


def resources(store: EventStore) -> RunResources:
    """What the runs of a process share: the conversations in the log, and no provider or tool."""

    async def read_conversation(conversation: str) -> Conversation:
        return fold(Conversation(conversation), (await store.read(conversation, 0, 5_000)).events)

    return RunResources(ProviderRegistry(), {}, AdaptiveBatching(), read_conversation)


def found(generation: str = GENERATION, conversation: str = CONVERSATION, **more: Any) -> Generation:
    """The state of a generation that `Owner.request` has requested."""
    known: dict[str, Any] = {"model": "fake", "parameters": {}, "status": Status.QUEUED, **more}
    return Generation(
        id=generation,
        conversation=conversation,
        requested_position=REQUESTED,
        position=REQUESTED,
        created_at=BEGINNING,
        **known,
    )


def run_of(
    upstream: Provider,
    generation: str = GENERATION,
    conversation: str = CONVERSATION,
    model: str = "fake",
    on_crash: str = "fail",
) -> Attempt:
    """A first attempt at an answer that a supervisor can start."""

    async def prompt(until: int | None) -> FirstPrompt:
        return FirstPrompt(PROMPT, REQUESTED)

    asked = found(generation, conversation, model=model, on_crash=on_crash)
    return Attempt(asked, AnswerExecutor(model, upstream, prompt), position=REQUESTED)


def told(log: MemoryBackend, generation: str = GENERATION, conversation: str = CONVERSATION) -> list[Event]:
    """The generation's events in the log."""
    return [event for event in events_of(log, conversation) if event.tag == generation]


def types(log: MemoryBackend) -> list[str]:
    """Their types, from `generation.started` on."""
    return [event.type for event in told(log)][1:]


def deltas(log: MemoryBackend) -> list[str]:
    """The texts of the token events."""
    return [fields(event)["delta"] for event in told(log) if event.type == "token"]


def fields(event: Event) -> dict[str, Any]:
    """An event's own fields."""
    known: dict[str, Any] = json.loads(event.data)
    return known


def the_end(own: Sequence[Event]) -> Event:
    """The one terminal event among a generation's events, which must be the last of them."""
    ends = [event for event in own if event.type in TERMINAL]
    assert len(ends) == 1, [event.type for event in own]
    assert own[-1] is ends[0], [event.type for event in own]
    return ends[0]
