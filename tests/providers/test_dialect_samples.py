"""Every dialect sample decoded: its answer however the bytes are cut, and the fields carried back in the
next request.
"""

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
LINE_END = re.compile(rb"\r?\n")
BACK = [name for name in NAMES if "second" in dialect(name).expected]


every_cut = pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.soak)], ids=["sample", "all"])


def cuts(body: bytes, step: int) -> list[int]:
    """Each `step`th place to cut an answer at, and all places around line ends and the reason for its end."""
    marks = [match.end() for mark in (REASON, LINE_END) for match in mark.finditer(body)]
    around = {mark + offset for mark in marks for offset in (-2, -1, 0, 1)}
    return sorted(at for at in around | {*range(0, len(body), step)} if 0 <= at < len(body))


def test_every_server_has_samples() -> None:
    assert {name.split("-")[0] for name in NAMES} >= SERVERS


@pytest.mark.parametrize("name", NAMES)
def test_answer_of_each_sample(name: str) -> None:
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


@every_cut
@pytest.mark.parametrize("name", NAMES)
def test_any_two_pieces_give_the_same_answer(name: str, step: int) -> None:
    file = dialect(name)
    whole = file.decoded(file.body)
    assert file.decoded(*(bytes([byte]) for byte in file.body)) == whole
    for at in cuts(file.body, step):
        assert file.decoded(file.body[:at], file.body[at:]) == whole, at


@every_cut
@pytest.mark.parametrize("name", NAMES)
def test_truncated_answer_is_incomplete(name: str, step: int) -> None:
    """It is complete only once the provider said that it ended, and then with all of its text."""
    file = dialect(name)
    whole = file.decoded(file.body)
    words = [match.end() for match in REASON.finditer(file.body)]
    for at in cuts(file.body, step):
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
def test_carried_fields_of_each_sample(name: str) -> None:
    file = dialect(name)
    seen = file.decoded(file.body)
    assert seen.finish is not None
    assert file.next_messages(seen.chunks, seen.finish) == file.expected["second"]


@pytest.mark.parametrize("name", BACK)
def test_carried_numbers_keep_every_digit(name: str) -> None:
    file = dialect(name)
    seen = file.decoded(file.body)
    assert seen.finish is not None
    written = " ".join(call.arguments for call in seen.finish.tool_calls)
    sent = json.dumps(file.next_messages(seen.chunks, seen.finish))
    for number in re.findall(r"\d{16,}", written):
        assert number in sent
