"""Anthropic's events, as bytes in and strings out: no socket here."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.upstream import Finish, ToolCall, UpstreamError
from server.upstream.decoder import Decoder
from server.upstream.messages import MESSAGES, REASONS
from server.upstream.wording import Quoter

from .fake_anthropic import AnthropicWire, block, delta, happening

WIRE = AnthropicWire()
CUT = UpstreamError("upstream_cut", "gone")
END = happening("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 2})
STOP = happening("message_stop")
TOLD = {"input_tokens": 7, "output_tokens": 2}


def decoded(body: bytes, cuts: list[int] | None = None) -> tuple[list[str], Decoder[Any]]:
    """The texts and the decoder after all of the body; cut off at the end if it wants more."""
    decoder = Decoder(MESSAGES, Quoter("sk-secret"))
    texts: list[str] = []
    for start, end in pairwise([0, *sorted(cut % (len(body) + 1) for cut in cuts or []), len(body)]):
        texts += decoder.feed(body[start:end])
        if decoder.finish or decoder.failure:
            return texts, decoder
    return texts + decoder.close(CUT), decoder


@pytest.mark.parametrize(
    ("body", "texts", "more"),
    [
        (WIRE.content("a") + WIRE.content("") + WIRE.content("b"), ["a", "", "b"], {}),
        (block(0, "text", text="a") + block(1, "text", text=""), ["a"], {}),
        (delta(0, "text_delta"), [""], {}),
        (
            block(1, "thinking", thinking="so ") + delta(1, "thinking_delta", thinking="be it"),
            [],
            {"reasoning": "so be it"},
        ),
        (block(1, "redacted_thinking", data="x") + delta(1, "signature_delta", signature="x"), [], {}),
        (delta(0, "citations_delta", citation={"type": "x"}) + WIRE.content("a"), ["a"], {}),
        (happening("ping") + happening("news", message="x", delta=[1], index="y") + WIRE.content("a"), ["a"], {}),
        (
            block(3, "server_tool_use", id="s", name="web", input={})
            + delta(3, "input_json_delta", partial_json="{"),
            [],
            {},
        ),
        (
            block(1, "tool_use", id="a", name="x", input={})
            + block(2, "tool_use", id="b", name="y", input={"k": [1]}),
            [],
            {"tool_calls": (ToolCall("a", "x", "{}"), ToolCall("b", "y", '{"k":[1]}'))},
        ),
    ],
)
def test_what_an_event_gives(body: bytes, texts: list[str], more: dict[str, Any]) -> None:
    got, decoder = decoded(WIRE.role() + body + END + STOP)
    assert (got, decoder.finish, decoder.failure) == (texts, Finish("stop", TOLD, **more), None)
    assert decoder.repaired == 0


@pytest.mark.parametrize(
    ("word", "reason"), [*REASONS.items(), ("pause_turn", "pause_turn"), ("x" * 99, "x" * 63 + "…")]
)
def test_why_it_ended(word: str, reason: str) -> None:
    _, decoder = decoded(happening("message_delta", delta={"stop_reason": word}) + STOP)
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
    last = happening("message_delta", delta={"stop_reason": "end_turn"}, usage=end)
    _, decoder = decoded(happening("message_start", message={"usage": start}) + last + STOP)
    assert decoder.finish is not None
    assert decoder.finish.usage == usage


@pytest.mark.parametrize(
    ("end", "finish"),
    [
        (END, Finish("stop", None)),  # the body ends without message_stop
        (STOP, Finish("stop", None)),  # no reason
        (happening("message_delta", delta={"stop_reason": None}) + STOP, Finish("stop", None)),
        (b"data: [DONE]\n\n", Finish("stop", None)),  # as some gateways end every stream
        (END + STOP + b"data: junk\n\n" + WIRE.content("late"), Finish("stop", None)),
    ],
)
def test_what_ends_an_answer(end: bytes, finish: Finish) -> None:
    texts, decoder = decoded(WIRE.content("a") + end)
    assert (texts, decoder.finish) == (["a"], finish)


def test_an_end_without_reason_and_without_stop_is_a_cut() -> None:
    texts, decoder = decoded(WIRE.role() + WIRE.content("a"))
    assert (texts, decoder.finish, decoder.failure) == (["a"], None, CUT)


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
        '{"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a"}}',
        '{"type": "content_block_start", "index": true, "content_block": {"type": "text"}}',
        '{"type": "content_block_start", "index": 0, "content_block": {}}',
        '{"type": "message_start"}',
        '{"type": "message_delta"}',
    ],
)
def test_what_is_malformed_says_so_after_the_text_before_it(data: str) -> None:
    texts, decoder = decoded(WIRE.content("a") + f"data: {data}\n\n".encode() + WIRE.content("never"))
    assert texts == ["a"]
    assert decoder.failure is not None
    assert (decoder.failure.code, decoder.failure.retryable) == ("upstream_malformed", False)


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
def test_an_error_event(kind: str, retryable: bool) -> None:
    texts, decoder = decoded(WIRE.content("a") + WIRE.error("no, sk-secret", kind))
    assert texts == ["a"]
    assert decoder.failure is not None
    assert (decoder.failure.code, decoder.failure.retryable) == ("upstream_error", retryable)
    assert decoder.failure.message.endswith(": no, [key]")


@pytest.mark.parametrize("error", ["just words", {"code": {}, "type": []}, None])
def test_an_error_of_another_shape(error: Any) -> None:
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
    body += END + STOP
    texts, decoder = decoded(body)
    assert len(texts) - sum(what == "content" for what, _ in pieces) in (0, 1)
    assert decoder.finish is not None
    whole = {what: "".join(text for kind, text in pieces if kind == what) for what in ("thought", "arguments")}
    assert decoder.finish.reasoning == as_utf16(whole["thought"])
    assert decoder.finish.tool_calls[0].arguments == (as_utf16(whole["arguments"]) or "{}")
    for these in (cuts, list(range(len(body)))):
        again, other = decoded(body, these)
        assert (again, other.finish, other.repaired) == (texts, decoder.finish, decoder.repaired)


def as_utf16(text: str) -> str:
    """Python's own decoder as the judge of what is a pair."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").replace("\x00", "\ufffd")
