"""Whole processes on one in-memory log: store, runtime, fake upstreams. And what tests ask of them."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from eventstore import Event, EventStore, Key, StoreOptions
from eventstore.backend import Backend
from eventstore.memory_backend import MemoryBackend
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
from server.ids import new_id
from server.problem import Problem
from server.providers import Provider
from server.runtime.conversation_service import ConversationService, open_conversation_service
from server.runtime.stream_drain import StreamDrain
from server.webhooks.retry_schedule import WebhookOptions
from server.workflows import Registry, Tool, Workflow
from tests.generations.fake_upstream import FakeUpstream, FakeUpstreams
from tests.generations.wrapped_log import events_of


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
) -> AsyncIterator[ConversationService]:
    """A process for as long as the context is open; then it is gone, as by a kill. `fake` is its model `fake`.

    `registry`: the apps it has loaded.
    """
    upstreams = FakeUpstreams(fake=fake or FakeUpstream(("a",)))
    async with (
        EventStore(log, StoreOptions(call_timeout=patience)).open() as store,
        open_conversation_service(
            store,
            upstreams,
            StreamDrain(10, None),
            max_runs=max_runs,
            registry=registry,
            ephemeral_seconds=ephemeral_seconds,
            public=public,
            webhooks=webhooks,
        ) as runtime,
    ):
        yield runtime


async def start(runtime: ConversationService) -> str:
    """A new conversation's id."""
    return (await runtime.commands.start_conversation(StartConversation(None, None), None)).stream


async def say(runtime: ConversationService, conversation: str, text: str, key: Key | None = None) -> int:
    """Posts a message and returns where it stands."""
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
    """Requests an answer; the conversation and the generation."""
    command = asking()
    return (await runtime.commands.request_generation(conversation, command, key)).stream, command.generation


async def cancel(runtime: ConversationService, conversation: str, generation: str, key: Key | None = None) -> bool:
    """Cancels, and says whether the upstream is closed."""
    command = CancelGeneration(generation, None, "anonymous")
    return await runtime.commands.cancel_generation(conversation, command, key)


def key(name: str, digest: bytes = b"body", scope: str = "anonymous POST /v1/x") -> Key:
    """A client's idempotency key."""
    return Key(scope, name, digest, 3600.0)


def folded(log: MemoryBackend, conversation: str, position: int | None = None) -> Conversation:
    """The fold of the log itself, up to a position: what every process has to say."""
    events = events_of(log, conversation)
    return fold(Conversation(conversation), events if position is None else events[:position])


def of(log: MemoryBackend, conversation: str, generation: str) -> list[Event]:
    """A generation's events in the log."""
    return [event for event in events_of(log, conversation) if event.tag == generation]


@contextmanager
def thought_dead(log: MemoryBackend, runtime: ConversationService) -> Iterator[None]:
    """The process lives, but its sign of life cannot be seen."""
    hear = log.living.pop(runtime.store.owner)
    try:
        yield
    finally:
        log.living[runtime.store.owner] = hear


def refused(caught: pytest.ExceptionInfo[Problem]) -> tuple[int, str]:
    """The status and code of a problem."""
    return caught.value.status, caught.value.code
