"""Anthropic's stream: bytes in, chunks and a finish out, without a socket."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.providers import ArgumentsDelta, Chunk, Finish, Message, Prompt, Reasoning, UpstreamError
from server.providers.anthropic import ANTHROPIC_MESSAGES, encode_body
from server.providers.decoding.answer_decoder import AnswerDecoder
from server.providers.decoding.finish_reasons import FINISH_REASONS
from server.providers.decoding.redaction import Redactor

from .answer_reader import reasoning_in, texts_in, whole_call
from .fake_wire_formats import AnthropicFormat, anthropic_event, block_delta, block_start

WIRE = AnthropicFormat()
CUT = UpstreamError("upstream_cut", "gone")
END = anthropic_event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 2})
STOP = anthropic_event("message_stop")
TOLD = {"input_tokens": 7, "output_tokens": 2}


def decoded(body: bytes, cuts: list[int] | None = None) -> tuple[list[Chunk], AnswerDecoder[Any]]:
    """The chunks and the decoder after all of the body; cut off at the end if it wants more."""
    decoder = AnswerDecoder(ANTHROPIC_MESSAGES, Redactor("sk-secret"))
    chunks: list[Chunk] = []
    for start, end in pairwise([0, *sorted(cut % (len(body) + 1) for cut in cuts or []), len(body)]):
        chunks += decoder.feed(body[start:end])
        if decoder.finish or decoder.failure:
            return chunks, decoder
    return chunks + decoder.close(CUT), decoder


@pytest.mark.parametrize(
    ("body", "chunks", "more"),
    [
        (WIRE.content("a") + WIRE.content("") + WIRE.content("b"), ["a", "", "b"], {}),
        (block_start(0, "text", text="a") + block_start(1, "text", text=""), ["a"], {}),
        (block_delta(0, "text_delta"), [""], {}),
        (
            block_start(1, "thinking", thinking="so ") + block_delta(1, "thinking_delta", thinking="be it"),
            [Reasoning("so "), Reasoning("be it")],
            {},
        ),
        (block_start(1, "redacted_thinking", data="x") + block_delta(1, "signature_delta", signature="x"), [], {}),
        (block_delta(0, "citations_delta", citation={"type": "x"}) + WIRE.content("a"), ["a"], {}),
        (
            anthropic_event("ping")
            + anthropic_event("news", message="x", delta=[1], index="y")
            + WIRE.content("a"),
            ["a"],
            {},
        ),
        (
            block_start(3, "server_tool_use", id="s", name="web", input={})
            + block_delta(3, "input_json_delta", partial_json="{"),
            [],
            {},
        ),
        (
            block_start(1, "tool_use", id="a", name="x", input={})
            + anthropic_event("content_block_stop", index=1)
            + block_start(2, "tool_use", id="b", name="y", input={"k": [1]})
            + anthropic_event("content_block_stop", index=2),
            [],
            {
                "tool_calls": (
                    whole_call("anthropic", "a", "x", "{}"),
                    whole_call("anthropic", "b", "y", '{"k":[1]}'),
                )
            },
        ),
        (  # never closed: nobody knows what its arguments would have been
            block_start(1, "tool_use", id="a", name="x", input={}),
            [],
            {"tool_calls": (replace(whole_call("anthropic", "a", "x", ""), whole=False),)},
        ),
    ],
)
def test_chunks_of_an_event(body: bytes, chunks: list[Chunk], more: dict[str, Any]) -> None:
    got, decoder = decoded(WIRE.role() + body + END + STOP)
    assert (got, decoder.finish, decoder.failure) == (chunks, Finish("stop", TOLD, **more), None)
    assert decoder.repaired == 0


@pytest.mark.parametrize(
    ("word", "reason"), [*FINISH_REASONS.items(), ("pause_turn", "pause_turn"), ("x" * 99, "x" * 63 + "…")]
)
def test_finish_reasons(word: str, reason: str) -> None:
    _, decoder = decoded(anthropic_event("message_delta", delta={"stop_reason": word}) + STOP)
    assert decoder.finish == Finish(reason, None)


@pytest.mark.parametrize(
    ("start", "end", "usage"),
    [
        ({"input_tokens": 7, "output_tokens": 1}, {"output_tokens": 5}, {"input_tokens": 7, "output_tokens": 5}),
        (None, {"output_tokens": 5}, None),
        ({"input_tokens": 7, "output_tokens": 1}, None, {"input_tokens": 7, "output_tokens": 1}),
        ("many", {"input_tokens": "7", "output_tokens": -1}, None),
        (
            {
                "input_tokens": 7,
                "cache_read_input_tokens": 20,
                "cache_creation_input_tokens": 100,
                "output_tokens": 1,
            },
            {"output_tokens": 5, "output_tokens_details": {"thinking_tokens": 3}},
            {"input_tokens": 127, "output_tokens": 5, "cached_input_tokens": 20, "reasoning_tokens": 3},
        ),
        (
            {"input_tokens": 0, "output_tokens": 0},
            {"input_tokens": 9, "cache_read_input_tokens": None, "output_tokens": 5},
            {"input_tokens": 9, "output_tokens": 5},
        ),
    ],
)
def test_usage(start: Any, end: Any, usage: dict[str, int] | None) -> None:
    last = anthropic_event("message_delta", delta={"stop_reason": "end_turn"}, usage=end)
    _, decoder = decoded(anthropic_event("message_start", message={"usage": start}) + last + STOP)
    assert decoder.finish is not None
    assert decoder.finish.usage == usage


@pytest.mark.parametrize(
    ("end", "finish"),
    [
        (END, Finish("stop", None)),  # the body ends without message_stop
        (END + b"data: [DONE]\n\n", Finish("stop", None)),  # as some gateways end every stream
        (END + STOP + b"data: junk\n\n" + WIRE.content("late"), Finish("stop", None)),
    ],
)
def test_ends_of_an_answer(end: bytes, finish: Finish) -> None:
    texts, decoder = decoded(WIRE.content("a") + end)
    assert (texts, decoder.finish) == (["a"], finish)


def test_end_without_a_finish_reason_is_a_cut() -> None:
    texts, decoder = decoded(WIRE.role() + WIRE.content("a"))
    assert (texts, decoder.finish, decoder.failure) == (["a"], None, CUT)
    unsaid = anthropic_event("message_delta", delta={"stop_reason": None})
    for end in (STOP, unsaid + STOP, b"data: [DONE]\n\n"):
        texts, decoder = decoded(WIRE.role() + WIRE.content("a") + end)
        assert (texts, decoder.finish) == (["a"], None)
        assert decoder.failure is not None
        assert (decoder.failure.code, decoder.failure.retryable) == ("upstream_cut", True)


@pytest.mark.parametrize(
    "data",
    [
        "junk",
        "[1]",
        "{}",
        '{"choices": []}',
        '{"type": 3}',
        '{"type": "content_block_delta", "index": 0}',
        '{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": 3}}',
        '{"type": "content_block_start", "index": 0, "content_block": {}}',
        '{"type": "content_block_delta", "index": 0, "delta": "x"}',
        '{"type": "news", "index": 0}',
    ],
)
def test_unknown_messages_are_counted_and_skipped(data: str) -> None:
    texts, decoder = decoded(WIRE.content("a") + f"data: {data}\n\n".encode() + WIRE.content("b") + END + STOP)
    assert (texts, decoder.finish, decoder.unknown) == (["a", "b"], Finish("stop", None), 1)


@pytest.mark.parametrize(
    ("data", "more"),
    [
        ('{"type": "message_start"}', []),
        ('{"type": "message_start", "message": 3}', []),
        ('{"type": "message_delta"}', []),
        ('{"type": "message_delta", "delta": null, "usage": {"input_tokens": null}}', []),
        ('{"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": null}}', []),
        ('{"type": "content_block_start", "index": true, "content_block": {"type": "text"}}', []),
        ('{"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x"}}', ["x"]),
        ('{"type": "content_block_delta", "index": 7, "delta": {"type": "news_delta"}}', []),
        ('{"type": "content_block_stop"}', []),
    ],
)
def test_missing_field_loses_no_other_field(data: str, more: list[str]) -> None:
    texts, decoder = decoded(WIRE.content("a") + f"data: {data}\n\n".encode() + WIRE.content("b") + END + STOP)
    assert (texts, decoder.finish, decoder.unknown) == (["a", *more, "b"], Finish("stop", None), 0)


@pytest.mark.parametrize(
    ("kind", "retryable"),
    [
        ("overloaded_error", True),
        ("rate_limit_error", True),
        ("api_error", True),
        ("timeout_error", True),
        ("news_error", True),
        ("invalid_request_error", False),
        ("authentication_error", False),
        ("billing_error", False),
        ("permission_error", False),
        ("not_found_error", False),
        ("request_too_large", False),
    ],
)
def test_error_event(kind: str, retryable: bool) -> None:
    texts, decoder = decoded(WIRE.content("a") + WIRE.error("no, sk-secret", kind))
    assert texts == ["a"]
    assert decoder.failure is not None
    assert (decoder.failure.code, decoder.failure.retryable) == ("upstream_error", retryable)
    assert decoder.failure.message.endswith(": no, [key]")


@pytest.mark.parametrize("error", ["just words", {"code": {}, "type": []}, None])
def test_error_of_another_shape(error: Any) -> None:
    for kind in ({"type": "error"}, {}) if error else ({"type": "error"},):
        _, decoder = decoded(f"data: {json.dumps({**kind, 'error': error})}\n\n".encode())
        assert decoder.failure is not None
        assert (decoder.failure.code, decoder.failure.retryable) == ("upstream_error", True)


CONTENT = st.text(st.sampled_from('ab"\\\n é😀\x00\ud83d\ude00'), max_size=8)
PIECE = st.tuples(st.sampled_from(["content", "thought", "arguments"]), CONTENT)


@given(st.lists(PIECE, max_size=8), st.lists(st.integers(0, 5_000), max_size=20))
def test_any_cut_of_the_body_gives_the_same_answer(pieces: list[tuple[str, str]], cuts: list[int]) -> None:
    body = WIRE.role() + WIRE.call(0, "call_a", "x")
    for what, text in pieces:
        body += WIRE.arguments(0, text) if what == "arguments" else getattr(WIRE, what)(text)
    body += anthropic_event("content_block_stop", index=200) + END + STOP
    chunks, decoder = decoded(body)
    assert len(texts_in(chunks)) - sum(what == "content" for what, _ in pieces) in (0, 1)
    assert decoder.finish is not None
    whole = {what: "".join(text for kind, text in pieces if kind == what) for what in ("thought", "arguments")}
    assert "".join(reasoning_in(chunks)) == as_utf16(whole["thought"])
    assert decoder.finish.tool_calls[0].arguments == (as_utf16(whole["arguments"]) or "{}")
    told = [chunk for chunk in chunks if isinstance(chunk, ArgumentsDelta)]
    assert "".join(chunk.delta for chunk in told) == as_utf16(whole["arguments"])
    assert all((chunk.index, chunk.name) == (0, "x") and chunk.delta for chunk in told)
    for these in (cuts, list(range(len(body)))):
        again, other = decoded(body, these)
        assert (again, other.finish, other.repaired) == (chunks, decoder.finish, decoder.repaired)


def as_utf16(text: str) -> str:
    """The text as Python's own UTF-16 decoder pairs its surrogates."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").replace("\x00", "\ufffd")


@pytest.mark.parametrize(
    "lost",
    [
        block_delta(1, "input_json_delta", partial_json={"q": "b"}),
        anthropic_event("content_block_delta", delta={"type": "input_json_delta", "partial_json": "b"}),
        anthropic_event("content_block_delta", index=1, delta={"partial_json": "b"}),
        anthropic_event("content_block_delta", index=1, delta=None),
    ],
)
@pytest.mark.parametrize("pieces", [('{"q":"a', '"}'), ("", "")])
def test_call_with_a_lost_piece_is_incomplete(pieces: tuple[str, str], lost: bytes) -> None:
    """The rest may be valid JSON with other arguments, or none. A ping is no piece."""
    before, after = (block_delta(1, "input_json_delta", partial_json=piece) for piece in pieces)
    body = block_start(1, "tool_use", id="a", name="x", input={}) + before
    for odd, whole in ((lost, False), (anthropic_event("ping"), True)):
        _, decoder = decoded(body + odd + after + anthropic_event("content_block_stop", index=1) + END + STOP)
        assert decoder.finish is not None
        (found,) = decoder.finish.tool_calls
        assert (found.arguments, found.whole) == ("".join(pieces) or "{}", whole)


def test_call_with_a_non_object_input_is_incomplete() -> None:
    call = {"type": "tool_use", "id": "a", "name": "x", "input": '{"q":"a"}'}
    body = anthropic_event("content_block_start", index="1", content_block=call)
    _, decoder = decoded(body + anthropic_event("content_block_stop", index="1") + END + STOP)
    assert decoder.finish is not None
    assert [found.whole for found in decoder.finish.tool_calls] == [False]


@pytest.mark.parametrize(
    ("body", "spoke"),
    [
        (block_start(0, "text", text=""), False),
        (block_start(0, "thinking", thinking="", signature=""), False),
        (block_start(0, "redacted_thinking", data="x"), True),
        (block_delta(0, "signature_delta", signature="x"), True),
    ],
)
def test_hidden_reasoning_starts_the_answer(body: bytes, spoke: bool) -> None:
    """A retry after it would be charged again."""
    _, decoder = decoded(body)
    assert (decoder.started, decoder.failure) == (spoke, CUT)


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (("so ", "it is"), "so it is"),
        (("so \ud83d", "", "\ude00!"), "so 😀!"),
        (("\ud83d", "\ud83d\x00", "\ude00"), "\ufffd\ufffd\ufffd\ufffd"),
    ],
)
def test_signed_reasoning_keeps_its_place(pieces: tuple[str, ...], text: str) -> None:
    """If it moved, the provider would regard it as changed and refuse the next request."""
    body = b""
    for index in (0, 2):
        body += block_start(index, "thinking", thinking=f"t{index}", signature="x")
        body += anthropic_event("content_block_stop", index=index)
        if not index:
            body += block_start(1, "text", text="") + b"".join(
                block_delta(1, "text_delta", text=piece) for piece in pieces
            )
            body += anthropic_event("content_block_stop", index=1)
    body += block_start(3, "tool_use", id="theirs", name="x", input={}) + anthropic_event(
        "content_block_stop", index=3
    )
    decoder = AnswerDecoder(ANTHROPIC_MESSAGES, Redactor(), collect_carry=True)
    said = "".join(texts_in(decoder.feed(body + END + STOP)))
    assert said == text
    assert decoder.finish is not None
    calls = tuple(replace(each, id="ours") for each in decoder.finish.tool_calls)
    turns = (
        Message("user", "u"),
        Message("assistant", said, calls, carry=decoder.finish.carry),
        Message("tool", "r", call="ours"),
    )
    sent = json.loads(encode_body(Prompt("m", turns, {}), 1))["messages"][1]["content"]
    assert [each["type"] for each in sent] == ["thinking", "text", "thinking", "tool_use"]
    assert (sent[1]["text"], sent[3]["id"]) == (text, "theirs")


@pytest.mark.parametrize(("closed", "kinds"), [(True, ["thinking", "tool_use"]), (False, ["tool_use"])])
def test_reasoning_that_was_cut_off_is_not_sent_back(closed: bool, kinds: list[str]) -> None:
    """Its signature is incomplete: the provider would refuse the next request, and each one after it."""
    body = block_start(0, "thinking", thinking="t", signature="half")
    body += anthropic_event("content_block_stop", index=0) if closed else b""
    body += block_start(1, "tool_use", id="a", name="x", input={}) + anthropic_event("content_block_stop", index=1)
    decoder = AnswerDecoder(ANTHROPIC_MESSAGES, Redactor(), collect_carry=True)
    decoder.feed(body + END + STOP)
    assert decoder.finish is not None
    asked = Message("assistant", "", decoder.finish.tool_calls, carry=decoder.finish.carry)
    turns = (Message("user", "u"), asked, Message("tool", "r", call=asked.calls[0].id))
    sent = json.loads(encode_body(Prompt("m", turns, {}), 1))["messages"][1]["content"]
    assert [each["type"] for each in sent] == kinds
