"""Dialect files over a connection: how often each is asked for, and agents' second turns."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from server.upstream import Limits, Message, OpenAISettings, Prompt, RetryPolicy, UpstreamError
from server.upstream.anthropic import Anthropic, AnthropicSettings
from server.upstream.openai import OpenAI
from server.upstream.provider import Provider

from .asking import ask, prompt, upstream
from .dialects import ASKED, NAMES, chunk, dialect, shown
from .fake_openai import Fake
from .fake_wire import words

BACK = [name for name in NAMES if "second" in dialect(name).expected]


def provider_of(fake: Fake, name: str, retry: RetryPolicy | None = None) -> Provider:
    retry, limits = retry or RetryPolicy(attempts=1), Limits(tail=0.2)
    if dialect(name).wire == "anthropic":
        return Anthropic(AnthropicSettings(base_url=fake.root_url, retry=retry, limits=limits))
    known = str(dialect(name).expected.get("dialect", ""))
    return OpenAI(OpenAISettings(base_url=fake.base_url, dialect=known, retry=retry, limits=limits))


def asked(name: str, *more: Message) -> Prompt:
    return replace(ASKED, model=f"dialect-{name}", messages=(*ASKED.messages, *more))


async def test_every_file_comes_to_the_same_over_a_connection(fake: Fake) -> None:
    for name in NAMES:
        expected = dialect(name).expected
        provider = provider_of(fake, name)
        seen = await ask(provider, asked(name))
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
async def test_how_many_requests_it_costs(fake: Fake, clock: MockClock, name: str, requests: int) -> None:
    seen = await ask(provider_of(fake, name, RetryPolicy()), asked(name))
    assert seen.error is not None
    assert len(fake.log) == requests


@pytest.mark.parametrize("name", BACK)
async def test_the_second_turn_brings_back_what_the_first_one_sent(fake: Fake, name: str) -> None:
    """The fake compares, and says 400 to anything else; also after what is kept has been written and read."""
    first = await ask(provider_of(fake, name), asked(name))
    assert first.finish is not None
    carried: Any = json.loads(json.dumps([first.finish.carry, *(call.carry for call in first.finish.tool_calls)]))
    calls = tuple(
        replace(call, id=f"call_of_ours_{number}", carry=carry)
        for number, (call, carry) in enumerate(zip(first.finish.tool_calls, carried[1:], strict=True))
    )
    turn = Message("assistant", "".join(first.texts), calls, carry=carried[0])
    results = [Message("tool", "found", call=call.id) for call in calls]
    second = await ask(provider_of(fake, name), asked(name, turn, *results))
    assert (second.texts, second.error) == (words(1), None)

    plain = replace(turn, calls=tuple(replace(call, carry=None) for call in calls), carry=None)
    refused = await ask(provider_of(fake, name), asked(name, plain, *results))
    assert refused.error is not None, "the fake is not strict"


async def test_nothing_is_kept_where_nobody_can_ask_for_it(fake: Fake) -> None:
    """Without tools there is no second request: reasoning is told and forgotten."""
    for name in ("deepseek-tools", "anthropic-thinking"):
        seen = await ask(provider_of(fake, name), replace(asked(name), tools=()))
        assert seen.finish is not None
        assert seen.finish.carry is None
    for name in ("vllm-reasoning", "ollama-thinking"):  # and without a call neither
        seen = await ask(provider_of(fake, name), asked(name))
        assert seen.finish is not None
        assert seen.finish.carry is None


# Silence


@pytest.mark.parametrize("model", ["ok-3-0.002", "head-after-500"])
async def test_a_model_may_think_for_minutes_without_a_word(
    fake: Fake, provider: str, clock: MockClock, model: str
) -> None:
    start = trio.current_time()
    seen = await ask(upstream(fake, provider, retry=RetryPolicy()), prompt(model))
    assert (seen.texts, seen.error) == (words(3), None)
    assert len(fake.log) == 1
    assert trio.current_time() - start >= 500
