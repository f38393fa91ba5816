"""Tools in requests: the exact bodies in both wire formats, and the two requests of an agent."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from server.providers import (
    TOOL_NAME,
    BadParameters,
    Finish,
    Message,
    Prompt,
    ToolCall,
    ToolSpec,
    anthropic,
    chat_completions,
)

from .answer_reader import prompt, provider_on, read_answer, whole_call
from .fake_behaviours import CITY
from .fake_provider import FakeProvider

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = ToolSpec("weather", "The weather in a city.", SCHEMA)
NOW = ToolSpec("now", "", {"type": "object"})
CALL_A = ToolCall("call_a", "weather", CITY)
CALL_B = ToolCall("call_b", "now", "{}")


def result(call: str | None, content: str) -> Message:
    return Message("tool", content, call=call)


def function(call: ToolCall, arguments: str | None = None) -> dict[str, Any]:
    arguments = call.arguments if arguments is None else arguments
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def use(call: ToolCall, input: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": input}


def returned(call: str, **content: str) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call, **content}


def text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


USER = {"role": "user", "content": "u"}


@pytest.mark.parametrize(
    ("turns", "openai", "messages"),
    [
        (  # one call, no text beside it
            [Message("assistant", "", (CALL_A,)), result("call_a", "sunny")],
            [
                {"role": "assistant", "content": None, "tool_calls": [function(CALL_A)]},
                {"role": "tool", "tool_call_id": "call_a", "content": "sunny"},
            ],
            [
                {"role": "assistant", "content": [use(CALL_A, {"city": "Zürich 😀"})]},
                {"role": "user", "content": [returned("call_a", content="sunny")]},
            ],
        ),
        (  # two calls with text, results in another order, one of them of nothing, then somebody speaks
            [
                Message("assistant", "See.", (CALL_A, CALL_B)),
                result("call_b", ""),
                Message("user", "hurry"),
                result("call_a", "sunny"),
            ],
            [
                {"role": "assistant", "content": "See.", "tool_calls": [function(CALL_A), function(CALL_B)]},
                {"role": "tool", "tool_call_id": "call_b", "content": ""},
                {"role": "tool", "tool_call_id": "call_a", "content": "sunny"},
                {"role": "user", "content": "hurry"},
            ],
            [
                {
                    "role": "assistant",
                    "content": [text("See."), use(CALL_A, {"city": "Zürich 😀"}), use(CALL_B, {})],
                },
                {
                    "role": "user",
                    "content": [returned("call_b"), returned("call_a", content="sunny"), text("hurry")],
                },
            ],
        ),
        (  # arguments that are no JSON object
            [Message("assistant", " ", (replace(CALL_A, arguments='{"city'),)), result("call_a", "what?")],
            [
                {"role": "assistant", "content": " ", "tool_calls": [function(CALL_A, "{}")]},
                {"role": "tool", "tool_call_id": "call_a", "content": "what?"},
            ],
            [
                {"role": "assistant", "content": [use(CALL_A, {})]},
                {"role": "user", "content": [returned("call_a", content="what?")]},
            ],
        ),
        (  # a provider that gave no id
            [Message("assistant", "", (replace(CALL_B, id=""),)), result("", "noon")],
            [
                {"role": "assistant", "content": None, "tool_calls": [function(replace(CALL_B, id=""))]},
                {"role": "tool", "tool_call_id": "", "content": "noon"},
            ],
            [
                {"role": "assistant", "content": [use(replace(CALL_B, id=""), {})]},
                {"role": "user", "content": [returned("", content="noon")]},
            ],
        ),
    ],
)
def test_messages_with_tool_calls(turns: list[Message], openai: list[Any], messages: list[Any]) -> None:
    asked = Prompt("m", (Message("user", "u"), *turns), {})
    assert json.loads(chat_completions.encode_body(asked))["messages"] == [USER, *openai]
    assert json.loads(anthropic.encode_body(asked, 1))["messages"] == [USER, *messages]


def test_posted_tool_message_is_sent_as_a_user_message() -> None:
    asked = Prompt("m", (Message("assistant", "a"), result(None, "t"), Message("user", "u")), {})
    assert json.loads(chat_completions.encode_body(asked))["messages"] == [
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "t"},
        USER,
    ]
    assert json.loads(anthropic.encode_body(asked, 1))["messages"] == [
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": [text("t"), text("u")]},
    ]


def test_tools_and_parameters() -> None:
    asked = replace(prompt("m", "u", tool_choice="auto", parallel_tool_calls=False), tools=(WEATHER, NOW))
    assert json.loads(chat_completions.encode_body(asked)) == {
        "model": "m",
        "messages": [USER],
        "stream": True,
        "stream_options": {"include_usage": True},
        "tools": [
            {
                "type": "function",
                "function": {"name": "weather", "description": "The weather in a city.", "parameters": SCHEMA},
            },
            {"type": "function", "function": {"name": "now", "description": "", "parameters": {"type": "object"}}},
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
    }
    asked = replace(prompt("m", "u", tool_choice={"type": "any"}), tools=(WEATHER, NOW))
    assert json.loads(anthropic.encode_body(asked, 9)) == {
        "model": "m",
        "max_tokens": 9,
        "stream": True,
        "messages": [USER],
        "tools": [
            {"name": "weather", "description": "The weather in a city.", "input_schema": SCHEMA},
            {"name": "now", "description": "", "input_schema": {"type": "object"}},
        ],
        "tool_choice": {"type": "any"},
    }


def test_no_tools_are_left_out() -> None:
    """Providers refuse an empty list with a 400."""
    assert "tools" not in json.loads(chat_completions.encode_body(prompt("m")))
    assert "tools" not in json.loads(anthropic.encode_body(prompt("m"), 1))


@pytest.mark.parametrize("tools", [[], [{"type": "function"}], None])
async def test_tools_as_a_parameter_are_refused(fake: FakeProvider, provider: str, tools: Any) -> None:
    with pytest.raises(BadParameters, match="beside `parameters`") as caught:
        provider_on(fake, provider).check(prompt("m", tools=tools))
    assert caught.value.field == "parameters.tools"


@pytest.mark.parametrize("name", ["a", "get_weather-2", "x" * 64])
def test_valid_tool_names(name: str) -> None:
    assert re.fullmatch(TOOL_NAME, name)


@pytest.mark.parametrize("name", ["", "x" * 65, "a.b", "a b", "é", "a\n"])
def test_invalid_tool_names(name: str) -> None:
    assert not re.fullmatch(TOOL_NAME, name)


async def test_two_turns_of_an_agent(fake: FakeProvider, provider: str) -> None:
    asked = replace(prompt("agent", "What's up?"), tools=(WEATHER, NOW))
    first = await read_answer(provider_on(fake, provider), asked)
    assert first.texts == ["Let me see. "]
    calls = tuple(whole_call(provider, call.id, call.name, call.arguments) for call in (CALL_A, CALL_B))
    assert first.finish == Finish("tool_calls", {"input_tokens": 7, "output_tokens": 1}, calls)

    told = (Message("assistant", "".join(first.texts), first.finish.tool_calls), result("call_b", "noon"))
    meanwhile = (Message("user", "and hurry"), result("call_a", "sunny"))
    second = await read_answer(
        provider_on(fake, provider), replace(asked, messages=asked.messages + told + meanwhile)
    )
    assert (second.error, second.texts) == (None, ["noon ", "sunny "])
    assert second.finish == Finish("stop", {"input_tokens": 7, "output_tokens": 2})
    assert fake.log[0].body["tools"] == fake.log[1].body["tools"]


async def test_call_without_its_result_is_refused(fake: FakeProvider, provider: str) -> None:
    asked = prompt("agent")
    asked = replace(asked, messages=(*asked.messages, Message("assistant", "", (CALL_B,))))
    seen = await read_answer(provider_on(fake, provider), asked)
    assert seen.error is not None
    assert (seen.error.code, seen.texts) == ("upstream_bad_request", [])


async def test_calls_without_ids_and_arguments(fake: FakeProvider, provider: str) -> None:
    asked = replace(prompt("tools-bare"), tools=(NOW,))
    seen = await read_answer(provider_on(fake, provider), asked)
    assert seen.texts == []
    assert seen.finish is not None
    assert seen.finish.reason == "tool_calls"
    bare = ToolCall("", "now", {"openai": "", "anthropic": "{}"}[provider])
    assert seen.finish.tool_calls == (bare, bare)

    calls = tuple(replace(call, id=f"mine_{n}") for n, call in enumerate(seen.finish.tool_calls))
    told = (Message("assistant", "", calls), result("mine_0", "noon"), result("mine_1", "later"))
    again = await read_answer(
        provider_on(fake, provider), replace(asked, model="agent", messages=asked.messages + told)
    )
    assert (again.error, again.texts) == (None, ["noon ", "later "])
