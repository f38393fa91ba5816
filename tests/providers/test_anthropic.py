"""Anthropic's requests: the body as a pure function, and what arrives at the provider."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from server.providers import AnthropicSettings, BadParameters, Message, Prompt, ProviderRegistry
from server.providers.anthropic import Anthropic, encode_body

from .answer_reader import prompt, provider_on, read_answer
from .fake_provider import FakeProvider
from .fake_wire_formats import words


def said(*turns: tuple[str, str], **parameters: Any) -> Prompt:
    return Prompt("claude-x", tuple(Message(role, text) for role, text in turns), parameters)


def body(prompt: Prompt) -> dict[str, Any]:
    return dict(json.loads(encode_body(prompt, 4096)))


def blocks(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


async def test_request(fake: FakeProvider) -> None:
    await read_answer(provider_on(fake, "anthropic"), prompt("ok-1", "é", temperature=0))
    record = fake.log[0]
    assert record.path == "/v1/messages"
    assert record.authorization == "right"
    assert record.body == {
        "model": "ok-1",
        "max_tokens": 4096,
        "stream": True,
        "messages": [{"role": "user", "content": "é"}],
        "temperature": 0,
    }
    assert record.headers["anthropic-version"] == "2023-06-01"
    assert record.headers["accept"] == "text/event-stream"
    assert "authorization" not in record.headers


async def test_request_without_a_key(fake: FakeProvider) -> None:
    assert (await read_answer(provider_on(fake, "anthropic", key=None), prompt("ok-1"))).error is None
    assert fake.log[0].authorization == "absent"


async def test_settings_are_in_the_request(fake: FakeProvider) -> None:
    settings = AnthropicSettings(base_url=fake.root_url + "/", version="2030-01-01", max_tokens=7)
    assert (await read_answer(Anthropic(settings), prompt("ok-1"))).error is None
    assert fake.log[0].headers["anthropic-version"] == "2030-01-01"
    assert fake.log[0].body["max_tokens"] == 7


async def test_model_resolved_by_the_registry(fake: FakeProvider) -> None:
    found, name = ProviderRegistry(anthropic=AnthropicSettings(base_url=fake.root_url)).resolve("anthropic/ok-3")
    assert (await read_answer(found, prompt(name))).texts == words(3)


async def test_bad_parameters_open_no_connection(fake: FakeProvider) -> None:
    asked = prompt("ok-1", system="x")
    with pytest.raises(BadParameters):
        provider_on(fake, "anthropic").check(asked)
    with pytest.raises(BadParameters):
        async with provider_on(fake, "anthropic").open(asked):
            pytest.fail("opened")
    assert fake.accepted == 0


def test_repr_of_the_settings_hides_the_key() -> None:
    settings = AnthropicSettings(api_key=SecretStr("hunter2"))
    assert "hunter2" not in repr(settings) + str(settings) + settings.model_dump_json()


@pytest.mark.parametrize(
    ("turns", "system", "messages"),
    [
        ([("user", "a")], None, [{"role": "user", "content": "a"}]),
        ([("system", "s"), ("user", "a")], "s", [{"role": "user", "content": "a"}]),
        (
            [("system", "s"), ("user", "a"), ("developer", "d"), ("assistant", "b"), ("system", "e")],
            "s\n\nd\n\ne",
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        ),
        # Turns of one role become one turn of several blocks, whatever stood between them.
        (
            [("user", "a"), ("tool", "b"), ("system", "s"), ("user", "c"), ("assistant", "d"), ("assistant", "e")],
            "s",
            [
                {"role": "user", "content": blocks("a", "b", "c")},
                {"role": "assistant", "content": blocks("d", "e")},
            ],
        ),
        # The provider refuses blank texts, wherever they are.
        (
            [("system", " "), ("user", "a"), ("assistant", "\n"), ("user", ""), ("user", "b")],
            None,
            [{"role": "user", "content": blocks("a", "b")}],
        ),
    ],
)
def test_messages_and_system(turns: list[tuple[str, str]], system: str | None, messages: list[Any]) -> None:
    encoded = body(said(*turns))
    assert (encoded.get("system"), encoded["messages"]) == (system, messages)


def test_parameters_are_passed_on() -> None:
    encoded = body(said(("user", "a"), max_tokens=5, thinking={"type": "enabled", "budget_tokens": 1024}))
    assert encoded["max_tokens"] == 5
    assert encoded["thinking"] == {"type": "enabled", "budget_tokens": 1024}


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"stream": False}, "parameters.stream"),
        ({"model": "x"}, "parameters.model"),
        ({"messages": []}, "parameters.messages"),
        ({"system": "x"}, "parameters.system"),
        ({"tools": []}, "parameters.tools"),
        ({"stop_sequences": "\ud83d"}, "parameters"),
    ],
)
def test_parameters_that_would_break_the_stream_are_refused(parameters: dict[str, Any], field: str) -> None:
    with pytest.raises(BadParameters) as caught:
        encode_body(replace(prompt("claude-x"), parameters=parameters), 1)
    assert caught.value.field == field


@pytest.mark.parametrize("turns", [[], [("system", "s")], [("user", " ")]])
def test_empty_prompt_is_refused(turns: list[tuple[str, str]]) -> None:
    with pytest.raises(BadParameters) as caught:
        encode_body(said(*turns), 1)
    assert caught.value.field == "input"
