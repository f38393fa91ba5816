"""Every dialect sample decoded: its answer however the bytes are cut, and the fields that go back to it."""

from __future__ import annotations

import json
import re

import pytest

from .answer_reader import texts_in
from .dialect_samples import NAMES, chunk, dialect, shown

SERVERS = {
    *("openai", "azure", "vllm", "ollama", "llamacpp", "litellm", "openrouter", "deepseek", "kimi", "glm"),
    *("mistral", "gemini", "groq", "lmstudio", "dashscope", "koboldcpp", "anthropic"),
}
REASON = re.compile(rb'"(?:finish|stop)_reason":\s?"[^"]+"')
BACK = [name for name in NAMES if "second" in dialect(name).expected]


def test_every_server_is_there() -> None:
    assert {name.split("-")[0] for name in NAMES} >= SERVERS


@pytest.mark.parametrize("name", NAMES)
def test_the_answer_of_each_file(name: str) -> None:
    file = dialect(name)
    seen = file.decoded(file.body)
    assert list(seen.chunks) == [chunk(told) for told in file.expected["chunks"]]
    if "finish" in file.expected:
        assert seen.finish is not None, seen.failure
        assert shown(seen.finish) == file.expected["finish"]
    else:
        failure = file.expected["failure"]
        assert seen.failure is not None
        assert seen.failure[:2] == (failure["code"], failure["retryable"])
        assert failure["says"] in seen.failure[2]
    assert seen.unknown == file.expected.get("unknown", 0)


@pytest.mark.parametrize("name", NAMES)
def test_any_cut_into_two_changes_nothing(name: str) -> None:
    file = dialect(name)
    whole = file.decoded(file.body)
    assert file.decoded(*(bytes([byte]) for byte in file.body)) == whole
    for at in range(1, len(file.body)):
        assert file.decoded(file.body[:at], file.body[at:]) == whole, at


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_that_breaks_off_is_never_complete(name: str) -> None:
    """It is once the provider's word for its end has come, and then with all of its text."""
    file = dialect(name)
    whole = file.decoded(file.body)
    words = [match.end() for match in REASON.finditer(file.body)]
    for at in range(len(file.body)):
        seen = file.decoded(file.body[:at], complete=at % 2 == 0)
        if seen.finish is None:
            assert seen.failure is not None, at
            continue
        assert whole.finish is not None, at
        assert at >= words[0], at
        if len(words) == 1:
            texts = ["".join(texts_in(each.chunks)) for each in (seen, whole)]
            assert texts[0] == texts[1], at
            assert (seen.finish.reason, seen.finish.tool_calls) == (
                whole.finish.reason,
                whole.finish.tool_calls,
            ), at


@pytest.mark.parametrize("name", BACK)
def test_the_fields_that_go_back_to_the_server(name: str) -> None:
    file = dialect(name)
    seen = file.decoded(file.body)
    assert seen.finish is not None
    assert file.next_messages(seen.chunks, seen.finish) == file.expected["second"]


@pytest.mark.parametrize("name", BACK)
def test_numbers_go_back_with_every_digit(name: str) -> None:
    file = dialect(name)
    seen = file.decoded(file.body)
    assert seen.finish is not None
    written = " ".join(call.arguments for call in seen.finish.tool_calls)
    sent = json.dumps(file.next_messages(seen.chunks, seen.finish))
    for number in re.findall(r"\d{16,}", written):
        assert number in sent
