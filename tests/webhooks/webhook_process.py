"""Processes with webhooks on one log, generations that end when a test says so, and a fake resolver of names."""

import socket
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio
from pydantic import SecretStr

from eventstore import NO_STREAM, Append, EventStore, Key, NewEvent, OpenWriter, StoreOptions, Writer
from eventstore.backend import Backend
from eventstore.memory_backend import MemoryBackend
from server import event_types
from server.conversations import idempotency_keys
from server.webhooks import Sender, WebhookOptions, Webhooks, WebhookSnapshot
from server.webhooks.sender import Connect
from server.webhooks.webhook_events import ENDED_ONLY, Told, is_webhook, stream_of
from tests.generations.unreliable_logs import events_of

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PATH_SECRET = "T0PS3CRET"
URL = f"https://hooks.example/{PATH_SECRET}?x={PATH_SECRET}"
NAMED_URL = f"http://hooks.example:8080/{PATH_SECRET}"
PUBLIC = "93.184.216.34"
PLAIN_URL = f"http://{PUBLIC}:8080/{PATH_SECRET}"
CONVERSATION, GENERATION = "conv_1", "gen_1"
HOOK = stream_of(GENERATION)
OPTIONS = WebhookOptions(secret=SecretStr(SECRET), jitter=0.0, pause=0.01)


@dataclass(frozen=True)
class Process:
    """One process at work."""

    store: EventStore
    webhooks: Webhooks

    async def request(self, generation: str = GENERATION, conversation: str = CONVERSATION) -> None:
        """The generation's request, in a conversation of its own."""
        asked = NewEvent("generation.requested", "{}", generation)
        news = (event_types.conversation_started(None, None), asked)
        claim = Key(idempotency_keys.GENERATION, generation)
        await self.store.append(
            Append(conversation, news, NO_STREAM, Writer(generation, 1, 1), keys=(claim,), category="conversation")
        )

    async def write(self, *news: NewEvent, conversation: str = CONVERSATION) -> None:
        """More events of the conversation."""
        await self.store.append(Append(conversation, news))

    async def end(
        self, new: NewEvent | None = None, generation: str = GENERATION, conversation: str = CONVERSATION
    ) -> None:
        """The generation's terminal event, from outside."""
        end = new or event_types.generation_completed(generation, "stop", {"output_tokens": 3}, 12)
        await self.store.append(Append(conversation, (end,), closes=generation))

    async def register(
        self, url: str = PLAIN_URL, generation: str = GENERATION, events: Sequence[Told] = ENDED_ONLY
    ) -> None:
        """The webhook and then the request, as a command does it; and the webhook is driven."""
        await self.webhooks.register(generation, CONVERSATION, url, events=events)
        await self.request(generation)
        self.webhooks.start(generation)

    async def open_writer(self, name: str = HOOK) -> OpenWriter:
        """The webhook's writer as the sweep finds it. Waits until it does."""
        with trio.fail_after(30):
            while True:
                for found in await self.store.open_writers():
                    if found.name == name:
                        return found
                await trio.sleep(0.05)

    async def has_no_open_hook(self) -> bool:
        """Whether nothing is left for a sweep."""
        return not [one for one in await self.store.open_writers() if one.name.startswith("hook_")]

    async def ended(self, generation: str = GENERATION) -> WebhookSnapshot:
        """The webhook once it has ended."""
        pause = 0.01
        with trio.fail_after(200_000):
            while True:
                found = await self.webhooks.snapshot(generation)
                if found is not None and found.status != "pending":
                    return found
                await trio.sleep(pause)
                pause = min(1.2 * pause, 60)  # hours of virtual time are looked through like seconds of real time

    async def seen(self, there: Callable[[WebhookSnapshot], bool]) -> WebhookSnapshot:
        """The webhook as soon as it is so."""
        pause = 0.01
        with trio.fail_after(200_000):
            while True:
                found = await self.webhooks.snapshot(GENERATION)
                if found is not None and there(found):
                    return found
                await trio.sleep(pause)
                pause = min(1.2 * pause, 60)

    async def told(self, stream: str = HOOK) -> list[str]:
        """The types of the webhook's events."""
        return [event.type for event in (await self.store.read(stream)).events]


def sender(connect: Connect, options: WebhookOptions = OPTIONS, **more: Any) -> Sender:
    """A sender that connects with `connect`."""
    return Sender(allow_private=options.allow_private, timeout=options.timeout, connect=connect, **more)


@asynccontextmanager
async def process(
    log: Backend,
    connect: Connect | None = None,
    options: WebhookOptions = OPTIONS,
    *,
    patience: float = 30.0,
) -> AsyncIterator[Process]:
    """A process that lives as long as the context, then is gone as after a kill."""
    async with (
        EventStore(log, StoreOptions(call_timeout=patience, safety_poll=600.0)).open() as store,
        trio.open_nursery() as nursery,
    ):
        own = sender(connect, options) if connect is not None else None
        yield Process(store, Webhooks(store, nursery, options, sender=own))
        nursery.cancel_scope.cancel()


async def found_by(here: Process) -> OpenWriter:
    """The webhook of a gone process, as recovery finds it."""
    left = await here.open_writer()
    assert is_webhook(left.name)
    assert left.owner != here.store.owner
    return left


def types(log: MemoryBackend, stream: str = HOOK) -> list[str]:
    """The types of the webhook's events."""
    return [event.type for event in events_of(log, stream)]


class FakeResolver(trio.abc.HostnameResolver):
    """The addresses of names in this trio run: each lookup gets the next answer, the last one for ever."""

    def __init__(self, **answers: Iterable[list[str]]) -> None:
        self._answers = {name.replace("_", "."): list(each) for name, each in answers.items()}
        self.asked: list[str] = []
        trio.socket.set_custom_hostname_resolver(self)

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        await trio.lowlevel.checkpoint()
        name = (host or b"").decode()
        self.asked.append(name)
        answers = self._answers.get(name)
        if not answers:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        places = answers.pop(0) if len(answers) > 1 else answers[0]
        found: list[Any] = []
        for place in places:
            if ":" in place:
                found.append((socket.AF_INET6, type, 6, "", (place, port, 0, 0)))
            else:
                found.append((socket.AF_INET, type, 6, "", (place, port)))
        return found

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        raise NotImplementedError
