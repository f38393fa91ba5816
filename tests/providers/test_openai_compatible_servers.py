"""OpenAI-compatible servers: the request body for each row of the table, and the retry after a refused field."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from server.providers import Message, OpenAISettings, Prompt, RetryPolicy, ToolCall
from server.providers.chat_completions import encode_body
from server.providers.openai import OpenAI
from server.providers.openai_compatible_servers import (
    DIALECTS,
    MAX_MODELS,
    LearnedQuirks,
    Quirks,
    dialect_of,
    is_public,
)

from .answer_reader import ONCE, prompt, provider_on, read_answer
from .fake_provider import FakeProvider
from .fake_wire_formats import words

CALL = ToolCall("call_ours", "look", "{}", carry={"openai": {"id": "theirs", "extra_content": {"google": 1}}})
TURN = (
    Message("user", "u"),
    Message("assistant", "", (CALL,), carry={"openai": {"reasoning_content": "so"}}),
    Message("tool", "found", call="call_ours"),
)


def sent(dialect: str, *messages: Message, **parameters: Any) -> dict[str, Any]:
    asked = Prompt("m", messages or TURN, parameters)
    return dict(json.loads(encode_body(asked, DIALECTS[dialect])))


@pytest.mark.parametrize(
    ("host", "dialect"),
    [
        ("api.openai.com", "openai"),
        ("eu.api.openai.com", "openai"),
        ("api.openai.com.evil.example", "generic"),
        ("notapi.openai.com", "generic"),
        ("contoso.openai.azure.com", "azure"),
        ("api.mistral.ai", "mistral"),
        ("generativelanguage.googleapis.com", "gemini"),
        ("europe-west1-aiplatform.googleapis.com", "generic"),
        ("api.deepseek.com.", "deepseek"),
        ("127.0.0.1", "generic"),
        ("::1", "generic"),
    ],
)
def test_dialect_of_each_host(host: str, dialect: str) -> None:
    assert dialect_of(host) == dialect


def test_no_host_is_in_two_rows_and_only_known_ones_are_public() -> None:
    hosts = [host for quirks in DIALECTS.values() for host in quirks.hosts]
    assert len(hosts) == len(set(hosts))
    assert [is_public(host) for host in ("api.openai.com", "api.anthropic.com")] == [True, True]
    assert [is_public(host) for host in ("contoso.openai.azure.com", "llm.internal", "10.0.0.5")] == [False] * 3


@pytest.mark.parametrize("dialect", DIALECTS)
def test_request_body_of_each_dialect(dialect: str) -> None:
    quirks = DIALECTS[dialect]
    body = sent(dialect)
    turn, result = body["messages"][1:]
    assert ("stream_options" in body) is quirks.asks_usage
    assert turn["content"] == (None if quirks.null_content else "")
    assert ("reasoning_content" in turn) is ("reasoning_content" in quirks.takes_back)
    assert ("extra_content" in turn["tool_calls"][0]) is ("extra_content" in quirks.takes_back)
    assert turn["tool_calls"][0]["id"] == result["tool_call_id"]
    if quirks.call_ids == "short":
        assert re.fullmatch("[a-zA-Z0-9]{9}", result["tool_call_id"])
    else:
        assert result["tool_call_id"] == "theirs"
    for given in ("max_tokens", "max_completion_tokens"):
        limits = sent(dialect, **{given: 5}).keys() & {"max_tokens", "max_completion_tokens"}
        assert limits == {quirks.max_tokens or given}
    said = sent(dialect, Message("developer", "d"), Message("assistant", " "), Message("user", "u"))["messages"]
    assert said[0]["role"] == ("developer" if quirks.developer else "system")
    assert len(said) == (3 if quirks.blank_messages else 2)


@pytest.mark.parametrize(
    ("carries", "ids"),
    [
        ((None,), ("call_0",)),
        (({"anthropic": {"id": "toolu"}},), ("call_0",)),
        (({"openai": {"id": ""}},), ("call_0",)),
        (({"openai": "x"},), ("call_0",)),
        (("x",), ("call_0",)),
        (({"openai": {"id": "a"}}, {"openai": {"id": "b"}}), ("a", "b")),
        (({"openai": {"id": "a"}}, {"openai": {"id": "a"}}), ("call_0", "call_1")),  # could not be told apart
    ],
)
def test_call_ids_of_the_provider_are_carried_back(carries: tuple[Any, ...], ids: tuple[str, ...]) -> None:
    calls = tuple(ToolCall(f"call_{n}", "look", "{}", carry) for n, carry in enumerate(carries))
    results = [Message("tool", "r", call=call.id) for call in calls]
    turn, *told = sent("generic", Message("user", "u"), Message("assistant", "", calls), *results)["messages"][1:]
    assert tuple(call["id"] for call in turn["tool_calls"]) == ids
    assert tuple(result["tool_call_id"] for result in told) == ids


def test_derived_short_ids_are_stable() -> None:
    one, other = (replace(CALL, id=id, carry=None) for id in ("call_1", "call_2"))
    turn = Message("assistant", "", (one, other))
    results = [Message("tool", "r", call=call.id) for call in (one, other)]
    asked = [sent("mistral", Message("user", "u"), turn, *results)["messages"][1:] for _ in range(2)]
    assert asked[0] == asked[1]
    ids = [call["id"] for call in asked[0][0]["tool_calls"]]
    assert len(set(ids)) == 2
    assert [result["tool_call_id"] for result in asked[0][1:]] == ids


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"include_usage": True}),
        ({"stream_options": None}, None),
        ({"stream_options": {"include_obfuscation": False}}, {"include_obfuscation": False}),
    ],
)
def test_stream_options_of_the_client(given: dict[str, Any], expected: Any) -> None:
    assert sent("generic", **given).get("stream_options") == expected


# What a server refuses


def history(*more: Message) -> tuple[Message, ...]:
    return (Message("developer", "d"), *TURN, *more)


@pytest.mark.parametrize(
    ("field", "parameters"),
    [
        ("stream_options", {}),
        ("reasoning_content", {}),
        ("max_tokens", {"max_tokens": 5}),
        ("max_completion_tokens", {"max_completion_tokens": 5}),
        ("null_content", {}),
        ("long_ids", {}),
    ],
)
async def test_refused_field_is_left_out_from_then_on(
    fake: FakeProvider, field: str, parameters: dict[str, Any]
) -> None:
    asked = provider_on(fake, retry=ONCE)
    question = Prompt(f"refuses-{field}", history(), parameters)
    for requests in (2, 3, 4):  # two for the first answer, one for each that follows
        seen = await read_answer(asked, question)
        assert (seen.texts, seen.error) == (words(3), None)
        assert len(fake.log) == requests
    if parameters:
        assert 5 in fake.log[-1].body.values()  # the client's own wish is called otherwise, and kept
    # Of this model alone.
    assert (await read_answer(asked, replace(question, model="ok-3"))).error is None
    same = {**fake.log[0].body, "model": "ok-3"}
    assert fake.log[-1].body == same


async def test_unknown_role_is_sent_as_system(fake: FakeProvider) -> None:
    settings = OpenAISettings(base_url=fake.base_url, dialect="litellm", retry=ONCE)
    asked = OpenAI(settings)
    for requests in (2, 3):
        assert (await read_answer(asked, Prompt("refuses-developer", history(), {}))).error is None
        assert len(fake.log) == requests
    assert [record.body["messages"][0]["role"] for record in fake.log] == ["developer", "system", "system"]


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("refuses-temperature", {"temperature": 0.5}),  # the client's own
        ("refuses-stream_options", {"stream_options": {"include_usage": True}}),  # likewise
        ("status-400", {"max_tokens": 5}),  # names nothing
        ("status-422", {}),
    ],
)
async def test_refused_client_value_is_not_retried(
    fake: FakeProvider, model: str, parameters: dict[str, Any]
) -> None:
    seen = await read_answer(provider_on(fake, retry=RetryPolicy()), Prompt(model, history(), parameters))
    assert seen.error is not None
    assert seen.error.code == "upstream_bad_request"
    assert len(fake.log) == 1


def test_too_high_token_limit_is_not_renamed() -> None:
    learned = LearnedQuirks(Quirks())
    asked = Prompt("m", TURN, {"max_tokens": 10**9})
    request = OpenAI(OpenAISettings())._encode_request(asked)
    assert not request.revise(400, b"max_tokens is too large: 1000000000. It supports at most 16384.")
    assert not request.revise(500, b"stream_options is unknown")
    assert learned.for_model("m") == Quirks()


def test_refusal_that_names_both_limits_is_retried_once() -> None:
    """The message of vLLM for a value that is too high."""
    said = b"'max_tokens' or 'max_completion_tokens' is too large: 100000. The context length is 8192 tokens."
    asked = OpenAI(OpenAISettings(base_url="http://127.0.0.1/v1"))
    request = asked._encode_request(Prompt("m", TURN, {"max_tokens": 10**5}))
    assert [request.revise(400, said) for _ in range(3)] == [True, False, False]


def test_number_of_remembered_refused_fields_is_bounded() -> None:
    learned = LearnedQuirks(Quirks())
    other = Quirks(asks_usage=False)
    for number in range(MAX_MODELS + 1):
        learned.remember(f"m{number}", other)
    assert [learned.for_model(model) for model in ("m0", "m1")] == [Quirks(), other]


# Azure


async def test_azure_url_and_key_header(fake: FakeProvider) -> None:
    url = f"{fake.root_url}/openai/deployments/gpt?api-version=2024-10-21"
    settings = OpenAISettings(base_url=url, api_key=SecretStr("k"), dialect="azure")
    assert (await read_answer(OpenAI(settings), prompt("ok-1"))).error is None
    assert fake.log[0].path == "/openai/deployments/gpt/chat/completions?api-version=2024-10-21"
    assert fake.log[0].headers["api-key"] == "k"
    assert fake.log[0].authorization == "absent"
