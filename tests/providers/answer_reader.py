"""Reads a whole answer of a provider, and keeps everything that can be seen of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr

from server.providers import (
    AnthropicSettings,
    Chunk,
    Finish,
    Message,
    OpenAISettings,
    Prompt,
    Provider,
    Reasoning,
    RetryPolicy,
    Timeouts,
    ToolCall,
    UpstreamError,
)
from server.providers.anthropic import Anthropic
from server.providers.http_provider import HttpProvider
from server.providers.openai import OpenAI

from .fake_provider import FakeProvider

ONCE = RetryPolicy(attempts=1)


def finish(count: int, reason: str = "stop") -> Finish:
    """The finish that the fake sends after this number of tokens."""
    return Finish(reason, {"input_tokens": 7, "output_tokens": count})


def whole_call(provider: str, id: str, name: str, arguments: str) -> ToolCall:
    """A complete call as an adapter returns it."""
    return ToolCall(id, name, arguments, carry={provider: {"id": id}})


def texts_in(chunks: Sequence[Chunk]) -> list[str]:
    return [chunk for chunk in chunks if isinstance(chunk, str)]


def reasoning_in(chunks: Sequence[Chunk]) -> list[str]:
    return [chunk.delta for chunk in chunks if isinstance(chunk, Reasoning)]


def prompt(model: str, *messages: str, **parameters: Any) -> Prompt:
    """A prompt of users' messages."""
    return Prompt(model, tuple(Message("user", text) for text in messages or ("hello",)), parameters)


def provider_on(
    fake: FakeProvider,
    provider: str = "openai",
    key: str | None = "test-key",
    retry: RetryPolicy = ONCE,
    timeouts: Timeouts | None = None,
) -> HttpProvider:
    """The provider of that name, with the fake as its server."""
    secret, timeouts = SecretStr(key) if key else None, timeouts or Timeouts()
    if provider == "anthropic":
        return Anthropic(AnthropicSettings(base_url=fake.root_url, api_key=secret, retry=retry, timeouts=timeouts))
    return OpenAI(OpenAISettings(base_url=fake.base_url, api_key=secret, retry=retry, timeouts=timeouts))


@dataclass
class ReadAnswer:
    """What a reader got of an answer: the batches in order, then a finish or an error."""

    batches: list[Sequence[Chunk]] = field(default_factory=list)
    finish: Finish | None = None
    error: UpstreamError | None = None
    repaired: int = 0

    @property
    def texts(self) -> list[str]:
        return [chunk for batch in self.batches for chunk in batch if isinstance(chunk, str)]

    @property
    def non_text_chunks(self) -> list[Chunk]:
        """The chunks that are no text."""
        return [chunk for batch in self.batches for chunk in batch if not isinstance(chunk, str)]


async def read_answer(provider: Provider, prompt: Prompt) -> ReadAnswer:
    """Read the whole answer, and check what every answer promises: a finish at the end, none before."""
    result = ReadAnswer()
    async with provider.open(prompt) as answer:
        try:
            while batch := await answer.receive():
                assert answer.finish is None
                result.batches.append(batch)
        except UpstreamError as error:
            assert answer.finish is None
            result.error = error
        else:
            assert answer.finish is not None
        result.finish = answer.finish
        result.repaired = answer.repaired
    return result
