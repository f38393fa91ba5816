"""Whole server processes on one in-memory log: store, runtime and fake upstreams; and the requests that tests send
them.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from eventstore import Event, EventStore, Key, StoreOptions
from eventstore.backend import Backend
from eventstore.memory_backend import MemoryBackend
from server.config.price_table import PriceTable
from server.config.web_addresses import PublicUrl
from server.conversations.command_types import (
    CancelGeneration,
    NewMessage,
    PostMessage,
    RequestGeneration,
    StartConversation,
)
from server.conversations.conversation_state import Conversation
from server.conversations.fold import fold
from server.files.file_store import FileStore
from server.ids import new_id
from server.problem import Problem
from server.providers import Provider
from server.runtime.conversation_service import ConversationService, open_conversation_service
from server.runtime.run_limits import RunLimits
from server.runtime.stream_drain import StreamDrain
from server.webhooks.retry_schedule import WebhookOptions
from server.workflows import Registry, Tool, Workflow
from tests.generations.fake_upstream import FakeUpstream, FakeUpstreams
from tests.generations.unreliable_logs import events_of


@asynccontextmanager
async def process(
    log: Backend,
    fake: Provider | None = None,
    *,
    patience: float = 30.0,
    max_runs: int = 100,
    registry: Registry | None = None,
    ephemeral_seconds: float = 600.0,
    public: PublicUrl | None = None,
    webhooks: WebhookOptions | None = None,
    prices: PriceTable | None = None,
    limits: RunLimits | None = None,
    safety_poll: float = 1.0,
    files: FileStore | None = None,
) -> AsyncIterator[ConversationService]:
    """A process that lives as long as the context, then is gone as after a kill.

    `fake` is its model named `fake`, `registry` the apps it has loaded.
    """
    upstreams = FakeUpstreams(fake=fake or FakeUpstream(("a",)))
    async with (
        EventStore(log, StoreOptions(call_timeout=patience, safety_poll=safety_poll)).open() as store,
        open_conversation_service(
            store,
            upstreams,
            StreamDrain(10, None),
            max_runs=max_runs,
            registry=registry,
            ephemeral_seconds=ephemeral_seconds,
            public=public,
            webhooks=webhooks,
            prices=prices,
            limits=limits,
            files=files,
        ) as runtime,
    ):
        yield runtime


async def start(runtime: ConversationService) -> str:
    """Starts a conversation and returns its id."""
    return (await runtime.commands.start_conversation(StartConversation(None, None), None)).stream


async def say(runtime: ConversationService, conversation: str, text: str, key: Key | None = None) -> int:
    """Posts a message and returns its position."""
    command = PostMessage(new_id("msg"), "user", text, None, "anonymous")
    return (await runtime.commands.post_message(conversation, command, key)).last


def app(*declared: Tool | Workflow) -> Registry:
    """What an app's module declares."""
    workflows = {one.name: one for one in declared if isinstance(one, Workflow)}
    return Registry(workflows, {one.name: one for one in declared if isinstance(one, Tool)})


def asking(*said: str, model: str = "fake", **parameters: Any) -> RequestGeneration:
    """A request for an answer, with an id of its own."""
    texts = tuple(NewMessage("user", text) for text in said)
    return RequestGeneration(new_id("gen"), parameters, "anonymous", model=model, input=texts)


async def ask(
    runtime: ConversationService, conversation: str | None = None, key: Key | None = None
) -> tuple[str, str]:
    """Requests an answer, and returns the conversation and the generation."""
    command = asking()
    return (await runtime.commands.request_generation(conversation, command, key)).stream, command.generation


async def cancel(runtime: ConversationService, conversation: str, generation: str, key: Key | None = None) -> bool:
    """Cancels the generation, and returns whether the upstream connection is closed."""
    command = CancelGeneration(generation, None, "anonymous")
    return await runtime.commands.cancel_generation(conversation, command, key)


def key(name: str, digest: bytes = b"body", scope: str = "anonymous POST /v1/x") -> Key:
    """A client's idempotency key."""
    return Key(scope, name, digest, 3600.0)


def folded(log: MemoryBackend, conversation: str, position: int | None = None) -> Conversation:
    """The state that the log itself folds to, up to a position: what every process has to answer."""
    events = events_of(log, conversation)
    return fold(Conversation(conversation), events if position is None else events[:position])


def of(log: MemoryBackend, conversation: str, generation: str) -> list[Event]:
    """A generation's events in the log."""
    return [event for event in events_of(log, conversation) if event.tag == generation]


@contextmanager
def thought_dead(log: MemoryBackend, runtime: ConversationService) -> Iterator[None]:
    """While open, the process lives but no other process can see that it does."""
    hear = log.living.pop(runtime.store.owner)
    try:
        yield
    finally:
        log.living[runtime.store.owner] = hear


def refused(caught: pytest.ExceptionInfo[Problem]) -> tuple[int, str]:
    """The status and code of the Problem."""
    return caught.value.status, caught.value.code
