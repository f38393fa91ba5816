"""OpenAI's chunks, as bytes in and strings out: no socket here."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.upstream import BadParameters, Chunk, Finish, UpstreamError
from server.upstream.chat import CHAT
from server.upstream.chat_request import encode_body
from server.upstream.decoder import Decoder
from server.upstream.wording import Quoter

from .asking import prompt
from .fake_wire import chunk, contents, event

CUT = UpstreamError("upstream_cut", "gone")
STOP = event(chunk({}, "stop"))
DONE = event(b"[DONE]")
USAGE = b'{"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 1}}'


def decoded(body: bytes, cuts: list[int] | None = None) -> tuple[list[Chunk], Decoder[Any]]:
    """The chunks and the decoder after all of the body; cut off at the end if it wants more."""
    decoder = Decoder(CHAT, Quoter("sk-secret"))
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
        ([event(chunk({"role": "assistant"})), *contents("a")], ["a"], Finish("stop", None)),
        ([event(chunk({"content": None, "refusal": None, "tool_calls": None}))], [], Finish("stop", None)),
        ([event(b'{"choices": [{"delta": null}]}')], [], Finish("stop", None)),
        ([event(b'{"choices": [], "prompt_filter_results": [1]}')], [], Finish("stop", None)),
        ([event(chunk({"content": "a"}, "length"))], ["a"], Finish("length", None)),
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


def test_an_end_without_reason_is_a_cut() -> None:
    assert failure(contents("a")[0]) is CUT
    for before in (b"", contents("a")[0], call_begun()):
        error = failure(before + DONE)
        assert (error.code, error.retryable) == ("upstream_cut", True)
        assert "without saying how" in error.message


def test_one_choice_is_the_answer_s_whatever_its_index() -> None:
    """Some servers count their chunks by it. Of several, those of another index are of an answer of their own."""

    def of(*choices: tuple[int, str]) -> bytes:
        told = [{"index": index, "delta": {"content": text}} for index, text in choices]
        return event(json.dumps({"choices": told}).encode())

    end = event(b'{"choices": [{"index": 3, "delta": {}, "finish_reason": "stop"}]}')
    texts, decoder = decoded(of((0, "a")) + of((1, "b")) + of((0, "c"), (1, "never")) + end)
    assert (texts, decoder.finish) == (["a", "b", "c"], Finish("stop", None))


@pytest.mark.parametrize(
    "word", ["timeout", "ERROR_TOXIC", "server_error", "failed", "function_call_filter: MALFORMED_FUNCTION_CALL"]
)
def test_a_word_for_a_failure_is_no_end_whoever_says_it(word: str) -> None:
    error = failure(contents("a")[0] + event(chunk({}, word)) + DONE)
    assert (error.code, error.retryable) == ("upstream_error", True)
    assert word in error.message


@pytest.mark.parametrize("word", ["null", "None", ""])
def test_a_null_written_as_text_is_no_reason(word: str) -> None:
    begun = event(chunk({"content": "a"}, word))
    assert failure(begun) is CUT
    assert "late" in failure(begun + event(b'{"error": {"message": "late"}}')).message
    texts, decoder = decoded(begun + contents("b")[0] + event(chunk({}, "length")))
    assert (texts, decoder.finish) == (["a", "b"], Finish("length", None))


def test_thoughts_that_nobody_may_read_are_something_of_the_answer() -> None:
    """Asked again, they would be paid for again."""
    _, decoder = decoded(event(chunk({"reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]})))
    assert (decoder.spoke, decoder.failure) == (True, CUT)


def call_begun() -> bytes:
    return event(chunk({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "x", "arguments": "{}"}}]}))


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
def test_what_is_malformed_says_so_after_the_text_before_it(data: bytes) -> None:
    texts, decoder = decoded(contents("a")[0] + event(data) + contents("never")[0])
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
def test_what_is_not_known_is_counted_and_passed_by(data: bytes, unknown: int) -> None:
    """Before the end and after it, where an error changes nothing, either."""
    error = event(b'{"error": {"message": "late"}}')
    late = event(data) + event(b'{"choices": [') + error + b"event: error\ndata: x\n\n"
    body = contents("a")[0] + event(data) + contents("b")[0] + STOP
    for end, more in ((DONE, 0), (late + DONE, unknown + 3)):
        texts, decoder = decoded(body + end)
        assert (texts, decoder.finish, decoder.failure) == (["a", "b"], Finish("stop", None), None)
        assert decoder.unknown == unknown + more


def test_the_known_parts_of_a_chunk_with_an_odd_part_are_kept() -> None:
    choices = b'[{"delta": "x", "finish_reason": "length"}, 3]'
    odd = b'{"choices": %b, "usage": {"prompt_tokens": 1, "completion_tokens": 2}}' % choices
    _, decoder = decoded(event(odd) + DONE)
    assert decoder.finish == Finish("length", {"input_tokens": 1, "output_tokens": 2})


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


@pytest.mark.parametrize("end", [STOP, STOP + DONE, DONE, b"", event(b"{junk")])
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


def test_a_prompt_of_nothing_is_refused() -> None:
    """A provider would say 400 after the client was told 202."""
    with pytest.raises(BadParameters) as caught:
        encode_body(replace(prompt("gpt-x"), messages=()))
    assert caught.value.field == "input"
