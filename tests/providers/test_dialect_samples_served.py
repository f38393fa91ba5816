"""The dialect samples over a connection: the number of requests, and the second request after tool calls."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from server.providers import Message, OpenAISettings, Prompt, RetryPolicy, Timeouts, UpstreamError
from server.providers.anthropic import Anthropic, AnthropicSettings
from server.providers.http_provider import HttpProvider
from server.providers.openai import OpenAI

from .answer_reader import prompt, provider_on, read_answer
from .dialect_samples import NAMES, PROMPT, chunk, dialect, shown
from .fake_provider import FakeProvider
from .fake_wire_formats import words

BACK = [name for name in NAMES if "second" in dialect(name).expected]


def provider_of(fake: FakeProvider, name: str, retry: RetryPolicy | None = None) -> HttpProvider:
    retry, timeouts = retry or RetryPolicy(attempts=1), Timeouts(tail=0.2)
    if dialect(name).wire == "anthropic":
        return Anthropic(AnthropicSettings(base_url=fake.root_url, retry=retry, timeouts=timeouts))
    known = str(dialect(name).expected.get("dialect", ""))
    return OpenAI(OpenAISettings(base_url=fake.base_url, dialect=known, retry=retry, timeouts=timeouts))


def asked(name: str, *more: Message) -> Prompt:
    return replace(PROMPT, model=f"dialect-{name}", messages=(*PROMPT.messages, *more))


async def test_served_sample_gives_the_same_answer(fake: FakeProvider) -> None:
    for name in NAMES:
        expected = dialect(name).expected
        provider = provider_of(fake, name)
        seen = await read_answer(provider, asked(name))
        chunks = [each for batch in seen.batches for each in batch]
        assert chunks == [chunk(told) for told in expected["chunks"]], name
        if "finish" in expected:
            assert seen.finish is not None, (name, seen.error)
            assert shown(seen.finish) == expected["finish"], name
        else:
            assert isinstance(seen.error, UpstreamError)
            assert seen.error.code == expected["failure"]["code"], name
            assert expected["failure"]["says"] in seen.error.message, name
        assert provider.unknown == expected.get("unknown", 0), name


@pytest.mark.parametrize(
    ("name", "requests"),
    [
        ("llamacpp-error-field", 1),
        ("llamacpp-bare-json", 1),
        ("gateway-quota", 1),
        ("gateway-503", 4),
        ("gateway-page", 1),
        ("dashscope-throttled", 4),
        ("vllm-error-type", 1),
        ("vllm-only-done", 4),
        ("gateway-half", 1),  # something of it came
        ("openrouter-error-final", 1),
        ("anthropic-overloaded", 1),
        ("anthropic-body-error", 4),
        ("anthropic-invalid", 1),
    ],
)
async def test_number_of_requests_of_a_failing_sample(
    fake: FakeProvider, clock: MockClock, name: str, requests: int
) -> None:
    seen = await read_answer(provider_of(fake, name, RetryPolicy()), asked(name))
    assert seen.error is not None
    assert len(fake.log) == requests


@pytest.mark.parametrize("name", BACK)
async def test_second_turn_carries_the_fields_back(fake: FakeProvider, name: str) -> None:
    """The fake answers 400 to any other request. The carried fields have passed through the log's JSON."""
    first = await read_answer(provider_of(fake, name), asked(name))
    assert first.finish is not None
    carried: Any = json.loads(json.dumps([first.finish.carry, *(call.carry for call in first.finish.tool_calls)]))
    calls = tuple(
        replace(call, id=f"call_of_ours_{number}", carry=carry)
        for number, (call, carry) in enumerate(zip(first.finish.tool_calls, carried[1:], strict=True))
    )
    turn = Message("assistant", "".join(first.texts), calls, carry=carried[0])
    results = [Message("tool", "found", call=call.id) for call in calls]
    second = await read_answer(provider_of(fake, name), asked(name, turn, *results))
    assert (second.texts, second.error) == (words(1), None)

    plain = replace(turn, calls=tuple(replace(call, carry=None) for call in calls), carry=None)
    refused = await read_answer(provider_of(fake, name), asked(name, plain, *results))
    assert refused.error is not None, "the fake is not strict"


async def test_answer_without_tools_carries_nothing(fake: FakeProvider) -> None:
    """There is no second request, so reasoning is shown and forgotten."""
    for name in ("deepseek-tools", "anthropic-thinking"):
        seen = await read_answer(provider_of(fake, name), replace(asked(name), tools=()))
        assert seen.finish is not None
        assert seen.finish.carry is None
    for name in ("vllm-reasoning", "ollama-thinking"):  # and without a call neither
        seen = await read_answer(provider_of(fake, name), asked(name))
        assert seen.finish is not None
        assert seen.finish.carry is None


# Silence


@pytest.mark.parametrize("model", ["ok-3-0.002", "head-after-500"])
async def test_model_may_reason_for_minutes_without_text(
    fake: FakeProvider, provider: str, clock: MockClock, model: str
) -> None:
    start = trio.current_time()
    seen = await read_answer(provider_on(fake, provider, retry=RetryPolicy()), prompt(model))
    assert (seen.texts, seen.error) == (words(3), None)
    assert len(fake.log) == 1
    assert trio.current_time() - start >= 500
