"""Agents against servers that refuse a second turn which does not carry back what they sent in the first: from the
bytes of a sample through the log to the wire again.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from eventstore.memory_backend import MemoryBackend
from server.providers import Answer, AnthropicSettings, OpenAISettings, Prompt, Provider
from server.providers.anthropic import Anthropic
from server.providers.openai import OpenAI
from server.workflows import Tool, tool
from tests.generations.run_owner import fields
from tests.providers.dialect_samples import NAMES, dialect
from tests.providers.fake_provider import FakeProvider

from .run_commands import ended, events, play
from .runtime_process import app, process

BACK = [name for name in NAMES if "second" in dialect(name).expected]


class FixedModelProvider:
    """A provider that always requests one model, whatever name the client used."""

    def __init__(self, inner: Provider, model: str) -> None:
        self._inner = inner
        self._model = model

    def check(self, prompt: Prompt) -> None:
        self._inner.check(prompt)

    @asynccontextmanager
    async def open(self, prompt: Prompt) -> AsyncIterator[Answer]:
        async with self._inner.open(replace(prompt, model=self._model)) as answer:
            yield answer


@tool(approval="never")
async def look(q: str) -> str:
    """Looks up."""
    return f"found {q}"


@tool(approval="never")
async def now() -> str:
    """The time."""
    return "noon"


@tool(approval="never")
async def pay(account: int, cents: float) -> str:
    """Pays."""
    return f"{account} {cents}"


TOOLS: tuple[Tool, ...] = (look, now, pay)


def server_of(fake: FakeProvider, name: str) -> Provider:
    if dialect(name).wire == "anthropic":
        return FixedModelProvider(Anthropic(AnthropicSettings(base_url=fake.root_url)), f"dialect-{name}")
    known = str(dialect(name).expected["dialect"])
    return FixedModelProvider(OpenAI(OpenAISettings(base_url=fake.base_url, dialect=known)), f"dialect-{name}")


@pytest.mark.parametrize("name", BACK)
async def test_server_accepts_the_second_turn(name: str, nursery: trio.Nursery) -> None:
    fake = await FakeProvider.listen()
    nursery.start_soon(fake.serve)
    log = MemoryBackend()
    async with process(log.process(), server_of(fake, name), registry=app(*TOOLS)) as here:
        run = await play(here, model="fake", said="hi", tools=tuple(one.name for one in TOOLS))
        await ended(here, run)
    failed = [fields(event) for event in events(log, run, "generation.failed")]
    assert not failed
    assert len(events(log, run, "generation.completed")) == 1
    assert len(fake.log) == 2
