"""OpenAI's stream and its request body as pure functions, without a socket."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.providers import BadParameters, Chunk, Finish, UpstreamError
from server.providers.chat_completions import CHAT_COMPLETIONS, encode_body
from server.providers.decoding.answer_decoder import AnswerDecoder
from server.providers.decoding.redaction import Redactor

from .answer_reader import prompt
from .fake_wire_formats import contents, openai_chunk, sse_event

CUT = UpstreamError("upstream_cut", "gone")
STOP = sse_event(openai_chunk({}, "stop"))
DONE = sse_event(b"[DONE]")
USAGE = b'{"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 1}}'


def decoded(body: bytes, cuts: list[int] | None = None) -> tuple[list[Chunk], AnswerDecoder[Any]]:
    """The chunks and the decoder after all of the body; cut off at the end if it wants more."""
    decoder = AnswerDecoder(CHAT_COMPLETIONS, Redactor("sk-secret"))
    chunks: list[Chunk] = []
    for start, end in pairwise([0, *sorted(cut % (len(body) + 1) for cut in cuts or []), len(body)]):
        chunks += decoder.feed(body[start:end])
        if decoder.finish or decoder.failure:
            return chunks, decoder
    return chunks + decoder.close(CUT), decoder


def failure(body: bytes) -> UpstreamError:
    _, decoder = decoded(body)
    assert decoder.finish is None
    assert decoder.failure is not None
    return decoder.failure


@pytest.mark.parametrize(
    ("body", "texts", "finish"),
    [
        (contents("a", "", "b"), ["a", "", "b"], Finish("stop", None)),
        ([sse_event(openai_chunk({"role": "assistant"})), *contents("a")], ["a"], Finish("stop", None)),
        (
            [sse_event(openai_chunk({"content": None, "refusal": None, "tool_calls": None}))],
            [],
            Finish("stop", None),
        ),
        ([sse_event(b'{"choices": [{"delta": null}]}')], [], Finish("stop", None)),
        ([sse_event(b'{"choices": [], "prompt_filter_results": [1]}')], [], Finish("stop", None)),
        ([sse_event(openai_chunk({"content": "a"}, "length"))], ["a"], Finish("length", None)),
        (
            [sse_event(openai_chunk({"content": "a"}, usage={"prompt_tokens": 3, "completion_tokens": 1}))],
            ["a"],
            Finish("stop", {"input_tokens": 3, "output_tokens": 1}),
        ),
        ([sse_event(b'{"choices": null, "usage": {"prompt_tokens": 1.5}}')], [], Finish("stop", None)),
        ([sse_event(b'{"usage": "many"}')], [], Finish("stop", None)),
    ],
)
def test_texts_of_a_chunk(body: list[bytes], texts: list[str], finish: Finish) -> None:
    got, decoder = decoded(b"".join(body) + STOP + DONE)
    assert (got, decoder.finish, decoder.failure, decoder.repaired) == (texts, finish, None, 0)


@pytest.mark.parametrize(
    ("end", "finish"),
    [
        (STOP, Finish("stop", None)),  # no [DONE]
        (STOP + DONE + b"data: junk\n\n" + contents("late")[0], Finish("stop", None)),
        (
            sse_event(openai_chunk({}, "length")) + sse_event(USAGE),
            Finish("length", {"input_tokens": 7, "output_tokens": 1}),
        ),
        (sse_event(openai_chunk({}, "x" * 100)), Finish("x" * 63 + "…", None)),
    ],
)
def test_ends_of_an_answer(end: bytes, finish: Finish) -> None:
    texts, decoder = decoded(contents("a")[0] + end)
    assert (texts, decoder.finish) == (["a"], finish)


def test_end_without_a_finish_reason_is_a_cut() -> None:
    assert failure(contents("a")[0]) is CUT
    for before in (b"", contents("a")[0], call_begun()):
        error = failure(before + DONE)
        assert (error.code, error.retryable) == ("upstream_cut", True)
        assert "without saying how" in error.message


def test_single_choice_is_read_whatever_its_index() -> None:
    """Some servers count chunks by the index. Of several choices only those with the answer's index are read."""

    def of(*choices: tuple[int, str]) -> bytes:
        told = [{"index": index, "delta": {"content": text}} for index, text in choices]
        return sse_event(json.dumps({"choices": told}).encode())

    end = sse_event(b'{"choices": [{"index": 3, "delta": {}, "finish_reason": "stop"}]}')
    texts, decoder = decoded(of((0, "a")) + of((1, "b")) + of((0, "c"), (1, "never")) + end)
    assert (texts, decoder.finish) == (["a", "b", "c"], Finish("stop", None))


@pytest.mark.parametrize(
    "word", ["timeout", "ERROR_TOXIC", "server_error", "failed", "function_call_filter: MALFORMED_FUNCTION_CALL"]
)
def test_failure_finish_reason_is_an_error(word: str) -> None:
    error = failure(contents("a")[0] + sse_event(openai_chunk({}, word)) + DONE)
    assert (error.code, error.retryable) == ("upstream_error", True)
    assert word in error.message


@pytest.mark.parametrize("word", ["null", "None", ""])
def test_null_as_text_is_no_finish_reason(word: str) -> None:
    begun = sse_event(openai_chunk({"content": "a"}, word))
    assert failure(begun) is CUT
    assert "late" in failure(begun + sse_event(b'{"error": {"message": "late"}}')).message
    texts, decoder = decoded(begun + contents("b")[0] + sse_event(openai_chunk({}, "length")))
    assert (texts, decoder.finish) == (["a", "b"], Finish("length", None))


def test_hidden_reasoning_starts_the_answer() -> None:
    """A retry after it would be charged again."""
    _, decoder = decoded(
        sse_event(openai_chunk({"reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]}))
    )
    assert (decoder.started, decoder.failure) == (True, CUT)


def call_begun() -> bytes:
    return sse_event(
        openai_chunk({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "x", "arguments": "{}"}}]})
    )


@pytest.mark.parametrize(
    "data",
    [
        b'{"choices": [',
        b'[{"choices"',
        b'{"choices": [{"delta": {"content": "\\ud83d", "x": }}]}',
        b'{"usage": ' + b"[" * 100_000,
        b'{"usage": "\\ud83d", "x": ' + b"[" * 100_000,
        b"x" * (1 << 21),
    ],
)
def test_malformed_chunk_fails_after_the_text_before_it(data: bytes) -> None:
    texts, decoder = decoded(contents("a")[0] + sse_event(data) + contents("never")[0])
    assert texts == ["a"]
    assert decoder.failure is not None
    assert (decoder.failure.code, decoder.failure.retryable) == ("upstream_malformed", False)
    assert len(decoder.failure.message) < 500


@pytest.mark.parametrize(
    ("data", "unknown"),
    [
        (b"junk", 1),
        (b"[1]", 1),
        (b"{}", 1),
        (b"3", 1),
        (b'{"type": "ping"}', 1),
        (b'{"hook_results": {}}', 1),
        (b'{"choices": null}', 1),
        (b'{"choices": {"0": 1}}', 1),
        (b'{"choices": ["x"]}', 1),
        (b'{"choices": [{"delta": "x"}]}', 1),
        (b'{"choices": [{"delta": {"content": 3}}]}', 0),
        (b'{"error": null, "error_type": null, "choices": null}', 1),
        (b"", 0),
        (b"  ", 0),
    ],
)
def test_unknown_messages_are_counted_and_skipped(data: bytes, unknown: int) -> None:
    """Both before the end and after it. After it even an error changes nothing."""
    error = sse_event(b'{"error": {"message": "late"}}')
    late = sse_event(data) + sse_event(b'{"choices": [') + error + b"event: error\ndata: x\n\n"
    body = contents("a")[0] + sse_event(data) + contents("b")[0] + STOP
    for end, more in ((DONE, 0), (late + DONE, unknown + 3)):
        texts, decoder = decoded(body + end)
        assert (texts, decoder.finish, decoder.failure) == (["a", "b"], Finish("stop", None), None)
        assert decoder.unknown == unknown + more


def test_known_fields_of_an_odd_chunk_are_kept() -> None:
    choices = b'[{"delta": "x", "finish_reason": "length"}, 3]'
    odd = b'{"choices": %b, "usage": {"prompt_tokens": 1, "completion_tokens": 2}}' % choices
    _, decoder = decoded(sse_event(odd) + DONE)
    assert decoder.finish == Finish("length", {"input_tokens": 1, "output_tokens": 2})


def test_quoted_chunk_is_redacted_and_storable() -> None:
    error = failure(sse_event(b'{"echo": "sk-secret \\ud83d", "\x00": \xed\xa0\xbd}'))
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
def test_error_object(error: Any, message: str, retryable: bool) -> None:
    texts, decoder = decoded(contents("a")[0] + sse_event(json.dumps({"error": error}).encode()))
    assert texts == ["a"]
    assert decoder.failure is not None
    assert decoder.failure.code == "upstream_error"
    assert decoder.failure.message.endswith(f": {message}")
    assert decoder.failure.retryable is retryable


@pytest.mark.parametrize("end", [STOP, STOP + DONE, DONE, b"", sse_event(b"{junk")])
def test_surrogate_half_at_the_end_is_replaced(end: bytes) -> None:
    texts, decoder = decoded(b"".join(contents("a", "\ud83d")) + end)
    assert texts == ["a", "", "\ufffd"]
    assert decoder.repaired == 1


def test_invalid_utf8_is_replaced_and_counted() -> None:
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
            sse_event(json.dumps({"choices": [{"delta": {"content": c}}]}, ensure_ascii=False).encode())
            if c.isprintable()
            else contents(c)[0]
            for c in chunks
        )
    body += STOP + sse_event(USAGE) + DONE
    texts, decoder = decoded(body)
    assert len(texts) - len(chunks) in (0, 1)
    assert decoder.finish == Finish("stop", {"input_tokens": 7, "output_tokens": 1})
    for these in (cuts, list(range(len(body)))):
        again, other = decoded(body, these)
        assert (again, other.finish, other.repaired) == (texts, decoder.finish, decoder.repaired)


def test_request_body() -> None:
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
        ({"stream_options": True}, "parameters.stream_options"),
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


def test_empty_prompt_is_refused() -> None:
    """Otherwise the provider would answer 400 after our client was told 202."""
    with pytest.raises(BadParameters) as caught:
        encode_body(replace(prompt("gpt-x"), messages=()))
    assert caught.value.field == "input"
