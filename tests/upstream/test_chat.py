"""OpenAI's chunks, as bytes in and strings out: no socket here."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.upstream import BadParameters, Finish, UpstreamError
from server.upstream.chat import CHAT, encode_body
from server.upstream.decoder import Decoder
from server.upstream.wording import Quoter

from .asking import prompt
from .fake_wire import chunk, contents, event

CUT = UpstreamError("upstream_cut", "gone")
STOP = event(chunk({}, "stop"))
DONE = event(b"[DONE]")
USAGE = b'{"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 1}}'


def decoded(body: bytes, cuts: list[int] | None = None) -> tuple[list[str], Decoder[Any]]:
    """The texts and the decoder after all of the body; cut off at the end if it wants more."""
    decoder = Decoder(CHAT, Quoter("sk-secret"))
    texts: list[str] = []
    for start, end in pairwise([0, *sorted(cut % (len(body) + 1) for cut in cuts or []), len(body)]):
        texts += decoder.feed(body[start:end])
        if decoder.finish or decoder.failure:
            return texts, decoder
    return texts + decoder.close(CUT), decoder


def failure(body: bytes) -> UpstreamError:
    _, decoder = decoded(body)
    assert decoder.finish is None
    assert decoder.failure is not None
    return decoder.failure


@pytest.mark.parametrize(
    ("body", "texts", "finish"),
    [
        (contents("a", "", "b"), ["a", "", "b"], Finish("stop", None)),
        ([event(chunk({"role": "assistant"})), *contents("a")], ["a"], Finish("stop", None)),
        ([event(chunk({"content": None, "refusal": None, "tool_calls": None}))], [], Finish("stop", None)),
        ([event(b'{"choices": [{"delta": null}]}')], [], Finish("stop", None)),
        ([event(b'{"choices": [], "prompt_filter_results": [1]}')], [], Finish("stop", None)),
        ([event(chunk({"content": "a"}, "length"))], ["a"], Finish("stop", None)),
        (
            [event(chunk({"content": "a"}, usage={"prompt_tokens": 3, "completion_tokens": 1}))],
            ["a"],
            Finish("stop", {"input_tokens": 3, "output_tokens": 1}),
        ),
        ([event(b'{"choices": null, "usage": {"prompt_tokens": 1.5}}')], [], Finish("stop", None)),
        ([event(b'{"usage": "many"}')], [], Finish("stop", None)),
    ],
)
def test_what_a_chunk_gives(body: list[bytes], texts: list[str], finish: Finish) -> None:
    got, decoder = decoded(b"".join(body) + STOP + DONE)
    assert (got, decoder.finish, decoder.failure, decoder.repaired) == (texts, finish, None, 0)


@pytest.mark.parametrize(
    ("end", "finish"),
    [
        (STOP, Finish("stop", None)),  # no [DONE]
        (DONE, Finish("stop", None)),  # no reason
        (STOP + DONE + b"data: junk\n\n" + contents("late")[0], Finish("stop", None)),
        (
            event(chunk({}, "length")) + event(USAGE),
            Finish("length", {"input_tokens": 7, "output_tokens": 1}),
        ),
        (event(chunk({}, "x" * 100)), Finish("x" * 63 + "…", None)),
    ],
)
def test_what_ends_an_answer(end: bytes, finish: Finish) -> None:
    texts, decoder = decoded(contents("a")[0] + end)
    assert (texts, decoder.finish) == (["a"], finish)


def test_an_end_without_reason_and_without_done_is_a_cut() -> None:
    assert failure(contents("a")[0]) is CUT


@pytest.mark.parametrize(
    "data",
    [
        b'{"choices": [',
        b"junk",
        b"[1]",
        b"{}",
        b'{"type": "ping"}',
        b'{"choices": [{"delta": {"content": 3}}]}',
        b'{"choices": [{"delta": {"content": ["a"]}}]}',
        b'{"choices": {"0": 1}}',
        b'{"choices": [{"delta": {"content": "\\ud83d", "x": }}]}',
        b'{"choices": [{"delta": {"\\ud83d": 1, "content": "\\ud83d"}}]}',
        b'{"usage": ' + b"[" * 100_000,
        b'{"usage": "\\ud83d", "x": ' + b"[" * 100_000,
        b"x" * (1 << 21),
    ],
)
def test_what_is_malformed_says_so_after_the_text_before_it(data: bytes) -> None:
    texts, decoder = decoded(contents("a")[0] + event(data) + contents("never")[0])
    assert texts == ["a"]
    assert decoder.failure is not None
    assert (decoder.failure.code, decoder.failure.retryable) == ("upstream_malformed", False)
    assert len(decoder.failure.message) < 500


def test_a_quoted_chunk_shows_neither_the_key_nor_what_the_log_refuses() -> None:
    error = failure(event(b'{"echo": "sk-secret \\ud83d", "\x00": \xed\xa0\xbd}'))
    assert "sk-secret" not in error.message
    assert "[key]" in error.message
    assert "\x00" not in error.message
    error.message.encode()


@pytest.mark.parametrize(
    ("error", "message", "retryable"),
    [
        ({"message": "overloaded", "type": "server_error"}, "overloaded", True),
        ({"message": "bad key sk-secret", "code": 401}, "bad key [key]", False),
        ({"message": "slow down", "code": 429}, "slow down", True),
        ({"message": "no", "type": "invalid_request_error"}, "no", False),
        ({"message": "no money", "code": "insufficient_quota"}, "no money", False),
        ({"half": "\ud83d"}, '{"half": "\\ud83d"}', True),
        ("just words", "just words", True),
        ([1], "[1]", True),
    ],
)
def test_an_error_object(error: Any, message: str, retryable: bool) -> None:
    texts, decoder = decoded(contents("a")[0] + event(json.dumps({"error": error}).encode()))
    assert texts == ["a"]
    assert decoder.failure is not None
    assert decoder.failure.code == "upstream_error"
    assert decoder.failure.message.endswith(f": {message}")
    assert decoder.failure.retryable is retryable


@pytest.mark.parametrize("end", [STOP, STOP + DONE, DONE, b"", event(b"junk")])
def test_half_an_emoji_at_the_end_is_one_more_text(end: bytes) -> None:
    texts, decoder = decoded(b"".join(contents("a", "\ud83d")) + end)
    assert texts == ["a", "", "\ufffd"]
    assert decoder.repaired == 1


def test_broken_utf8_is_replaced_and_counted() -> None:
    body = contents("a?\ufffd")[0].replace(b"?", b"\xff")
    texts, decoder = decoded(body + STOP)
    assert texts == ["a\ufffd\ufffd"]
    assert decoder.repaired == 1


CONTENT = st.text(st.sampled_from('ab"\\\n é😀\x00\ud83d\ude00'), max_size=8)


@given(st.lists(CONTENT, max_size=6), st.lists(st.integers(0, 5_000), max_size=20), st.booleans())
def test_any_cut_of_the_body_gives_the_same_texts(chunks: list[str], cuts: list[int], ascii: bool) -> None:
    body = b"".join(contents(*chunks))
    if not ascii:  # as most servers send it: raw UTF-8
        body = b"".join(
            event(json.dumps({"choices": [{"delta": {"content": c}}]}, ensure_ascii=False).encode())
            if c.isprintable()
            else contents(c)[0]
            for c in chunks
        )
    body += STOP + event(USAGE) + DONE
    texts, decoder = decoded(body)
    assert len(texts) - len(chunks) in (0, 1)
    assert decoder.finish == Finish("stop", {"input_tokens": 7, "output_tokens": 1})
    for these in (cuts, list(range(len(body)))):
        again, other = decoded(body, these)
        assert (again, other.finish, other.repaired) == (texts, decoder.finish, decoder.repaired)


def test_the_body() -> None:
    body = json.loads(encode_body(prompt("gpt-x", "hé", temperature=0.5, n=1, tool_choice={"a": None})))
    assert body == {
        "model": "gpt-x",
        "messages": [{"role": "user", "content": "hé"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "n": 1,
        "tool_choice": {"a": None},
    }


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"stream": False}, "parameters.stream"),
        ({"model": "x"}, "parameters.model"),
        ({"messages": []}, "parameters.messages"),
        ({"stream_options": None}, "parameters.stream_options"),
        ({"tools": []}, "parameters.tools"),
        ({"n": 2}, "parameters.n"),
        ({"n": True}, "parameters.n"),
        ({"n": None}, "parameters.n"),
        ({"stop": "\ud83d"}, "parameters"),
        ({"stop": object()}, "parameters"),
    ],
)
def test_parameters_that_would_break_the_stream_are_refused(parameters: dict[str, Any], field: str) -> None:
    with pytest.raises(BadParameters) as caught:
        encode_body(replace(prompt("gpt-x"), parameters=parameters))
    assert caught.value.field == field
    assert caught.value.message in str(caught.value)


def test_a_prompt_of_nothing_is_refused() -> None:
    """A provider would say 400 after the client was told 202."""
    with pytest.raises(BadParameters) as caught:
        encode_body(replace(prompt("gpt-x"), messages=()))
    assert caught.value.field == "input"
