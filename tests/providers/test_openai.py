"""OpenAI's request: what arrives at the provider."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from pydantic import SecretStr

from server.providers import BadParameters, OpenAISettings, ProviderRegistry
from server.providers.openai import OpenAI

from .answer_reader import prompt, provider_on, read_answer
from .fake_provider import FakeProvider
from .fake_wire_formats import words


async def test_request(fake: FakeProvider) -> None:
    await read_answer(provider_on(fake), prompt("ok-1", "é", temperature=0))
    record = fake.log[0]
    assert record.path == "/v1/chat/completions"
    assert record.authorization == "right"
    assert record.body == {
        "model": "ok-1",
        "messages": [{"role": "user", "content": "é"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
    }
    assert record.headers["accept-encoding"] == "identity"
    assert record.headers["accept"] == "text/event-stream"
    assert record.headers["host"] == f"127.0.0.1:{fake.port}"


async def test_request_without_a_key(fake: FakeProvider) -> None:
    assert (await read_answer(provider_on(fake, key=None), prompt("ok-1"))).error is None
    assert fake.log[0].authorization == "absent"


async def test_messages_arrive_unchanged(fake: FakeProvider) -> None:
    seen = await read_answer(provider_on(fake), prompt("echo-history", "a", "😀"))
    sent = [{"role": "user", "content": "a"}, {"role": "user", "content": "😀"}]
    assert json.loads("".join(seen.texts)) == sent


async def test_bad_parameters_open_no_connection(fake: FakeProvider) -> None:
    asked = prompt("ok-1", stream=False)
    with pytest.raises(BadParameters):
        provider_on(fake).check(asked)
    with pytest.raises(BadParameters):
        async with provider_on(fake).open(asked):
            pytest.fail("opened")
    provider_on(fake).check(prompt("ok-1", temperature=1))
    assert fake.accepted == 0


async def test_model_resolved_by_the_registry(fake: FakeProvider) -> None:
    found, name = ProviderRegistry(openai=OpenAISettings(base_url=fake.base_url)).resolve("openai/ok-3")
    assert (await read_answer(found, prompt(name))).texts == words(3)


def test_repr_of_the_settings_hides_the_key() -> None:
    settings = OpenAISettings(api_key=SecretStr("hunter2"))
    assert "hunter2" not in repr(settings) + str(settings) + settings.model_dump_json()


def test_prompt_is_not_changed() -> None:
    asked = prompt("ok-1", temperature=1)
    before = replace(asked)
    OpenAI(OpenAISettings()).check(asked)
    assert asked == before
