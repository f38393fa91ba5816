"""Asking an upstream in a test, and all that one can see of its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr

from server.upstream import (
    AnthropicSettings,
    Chunk,
    Finish,
    Limits,
    Message,
    OpenAISettings,
    Prompt,
    Reasoning,
    RetryPolicy,
    ToolCall,
    Upstream,
    UpstreamError,
)
from server.upstream.anthropic import Anthropic
from server.upstream.openai import OpenAI
from server.upstream.provider import Provider

from .fake_openai import Fake

ONCE = RetryPolicy(attempts=1)


def finish(count: int, reason: str = "stop") -> Finish:
    """The finish that the fake sends after so many tokens."""
    return Finish(reason, {"input_tokens": 7, "output_tokens": count})


def called(provider: str, id: str, name: str, arguments: str) -> ToolCall:
    """A whole call as an adapter tells it."""
    return ToolCall(id, name, arguments, carry={provider: {"id": id}})


def texts_of(chunks: Sequence[Chunk]) -> list[str]:
    return [chunk for chunk in chunks if isinstance(chunk, str)]


def thoughts_of(chunks: Sequence[Chunk]) -> list[str]:
    return [chunk.delta for chunk in chunks if isinstance(chunk, Reasoning)]


def prompt(model: str, *messages: str, **parameters: Any) -> Prompt:
    return Prompt(model, tuple(Message("user", text) for text in messages or ("hello",)), parameters)


def upstream(
    fake: Fake,
    provider: str = "openai",
    key: str | None = "test-key",
    retry: RetryPolicy = ONCE,
    limits: Limits | None = None,
) -> Provider:
    secret, limits = SecretStr(key) if key else None, limits or Limits()
    if provider == "anthropic":
        return Anthropic(AnthropicSettings(base_url=fake.root_url, api_key=secret, retry=retry, limits=limits))
    return OpenAI(OpenAISettings(base_url=fake.base_url, api_key=secret, retry=retry, limits=limits))


@dataclass
class Seen:
    """What a reader saw of an answer: the batches in order, then a finish or an error."""

    batches: list[Sequence[Chunk]] = field(default_factory=list)
    finish: Finish | None = None
    error: UpstreamError | None = None
    repaired: int = 0

    @property
    def texts(self) -> list[str]:
        return [chunk for batch in self.batches for chunk in batch if isinstance(chunk, str)]

    @property
    def beside(self) -> list[Chunk]:
        """What came that is no text."""
        return [chunk for batch in self.batches for chunk in batch if not isinstance(chunk, str)]


async def ask(upstream: Upstream, prompt: Prompt) -> Seen:
    """Read the whole answer. Checks on the way what every answer promises."""
    seen = Seen()
    async with upstream.open(prompt) as answer:
        try:
            while batch := await answer.receive():
                assert answer.finish is None
                seen.batches.append(batch)
        except UpstreamError as error:
            assert answer.finish is None
            seen.error = error
        else:
            assert answer.finish is not None
        seen.finish = answer.finish
        seen.repaired = answer.repaired
    return seen
