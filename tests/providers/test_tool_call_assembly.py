"""Tool calls assembled from the pieces of different servers; and OpenAI's other deltas beside the text."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.providers import ArgumentsDelta, Chunk, Finish, Reasoning, ToolCall
from server.providers.anthropic import ANTHROPIC_MESSAGES
from server.providers.chat_completions import CHAT_COMPLETIONS
from server.providers.decoding import answer_accumulator
from server.providers.decoding.answer_decoder import AnswerDecoder
from server.providers.decoding.redaction import Redactor
from server.providers.decoding.tool_call_assembly import ToolCallAssembler

from .fake_wire_formats import openai_chunk, sse_event
from .test_chat_completions import DONE, STOP, decoded, failure

Piece = tuple[int | None, str, str, str]


def calls_of(found: ToolCallAssembler) -> list[ToolCall]:
    return [call for call, _ in found.finished()]


@pytest.mark.parametrize(
    ("pieces", "calls"),
    [
        ([], []),
        ([(0, "a", "x", ""), (0, "", "", "{"), (0, "", "", "}")], [("a", "x", "{}")]),
        # Two calls side by side.
        ([(0, "a", "x", "1"), (1, "b", "y", "2"), (0, "", "", "3")], [("a", "x", "13"), ("b", "y", "2")]),
        # Id and name in every piece.
        ([(0, "a", "x", "1"), (0, "a", "x", "2")], [("a", "x", "12")]),
        # The name after the id.
        ([(0, "a", "", ""), (0, "", "x", "1")], [("a", "x", "1")]),
        # Every call at index 0, told apart by id.
        ([(0, "a", "x", "1"), (0, "b", "y", "2"), (0, "", "", "3")], [("a", "x", "1"), ("b", "y", "23")]),
        # No index at all: by id, else by a second name.
        ([(None, "a", "x", "1"), (None, "", "", "2"), (None, "b", "y", "3")], [("a", "x", "12"), ("b", "y", "3")]),
        ([(None, "", "x", "{}"), (None, "", "x", "{1}")], [("", "x", "{}"), ("", "x", "{1}")]),
        ([(None, "", "x", '{"q"'), (None, "", "x", ":1}")], [("", "x", '{"q":1}')]),
        (
            [(None, "a", "x", "{"), (None, "b", "y", "{"), (None, "a", "", "}")],
            [("a", "x", "{}"), ("b", "y", "{")],
        ),
        ([(5, "", "", "1")], [("", "", "1")]),
        # Another id with each piece, the name in the first alone, in each, empty in the others.
        ([(0, "a", "x", ""), (0, "b", "", "{"), (0, "c", "", "}")], [("a", "x", "{}")]),
        ([(0, "a", "x", ""), (0, "b", "x", "{"), (0, "c", "x", "}")], [("a", "x", "{}")]),
        # Every call at index 0, of one tool, whole or without arguments.
        ([(0, "a", "x", "{}"), (0, "b", "x", "{}")], [("a", "x", "{}"), ("b", "x", "{}")]),
        ([(0, "", "x", "{}"), (0, "", "x", "{}")], [("", "x", "{}"), ("", "x", "{}")]),
        ([(0, "a", "x", ""), (0, "b", "x", "")], [("a", "x", ""), ("b", "x", "")]),
        # The name repeated without an id, or before there is one: nothing says that it is another call.
        ([(0, "a", "x", ""), (0, "", "x", ""), (0, "", "", "{}")], [("a", "x", "{}")]),
        ([(0, "", "x", ""), (0, "a", "x", ""), (0, "", "x", "{}")], [("a", "x", "{}")]),
        ([(0, "", "x", "{}"), (0, "", "y", "{}")], [("", "x", "{}"), ("", "y", "{}")]),
        # In doubt it is one call: what comes of it is no JSON, and does not run.
        ([(0, "a", "x", "{}"), (0, "b", "", "{}")], [("a", "x", "{}{}")]),
    ],
)
def test_pieces_are_assigned_to_calls(pieces: list[Piece], calls: list[tuple[str, str, str]]) -> None:
    found = ToolCallAssembler()
    for piece in pieces:
        found.add(*piece)
    found.close_all()
    assert calls_of(found) == [ToolCall(*call) for call in calls]


def test_arguments_need_a_call_that_began() -> None:
    found = ToolCallAssembler()
    found.add(1, "a", "x", "", default="{}")
    assert calls_of(found) == [ToolCall("a", "x", "", whole=False)]  # nobody knows what it would have been
    found.close(1)
    assert calls_of(found) == [ToolCall("a", "x", "{}")]
    assert found.extend(1, "[1]") == ArgumentsDelta(0, "x", "[1]")
    assert found.extend(2, "[2]") is None
    assert found.extend(None, "[3]") is None
    assert calls_of(found) == [ToolCall("a", "x", "[1]")]


@given(st.lists(st.tuples(st.integers(0, 3), st.text("ab", max_size=3)), max_size=30))
def test_no_piece_is_lost_or_mixed(pieces: list[tuple[int, str]]) -> None:
    found = ToolCallAssembler()
    for index, text in pieces:
        found.add(index, f"id{index}", "x", text)
    assert {call.id: call.arguments for call in calls_of(found)} == {
        f"id{index}": "".join(text for i, text in pieces if i == index) for index, _ in pieces
    }


def delta(**fields: Any) -> bytes:
    return sse_event(openai_chunk(fields))


def call(**fields: Any) -> bytes:
    return delta(tool_calls=[fields])


@pytest.mark.parametrize(
    ("body", "chunks", "finish"),
    [
        (
            delta(reasoning_content="a") + delta(reasoning_content="b", content=None),
            [Reasoning("a"), Reasoning("b")],
            Finish("stop", None),
        ),
        (delta(reasoning="a", reasoning_content="a"), [Reasoning("a")], Finish("stop", None)),
        (delta(reasoning="a", content="b"), [Reasoning("a"), "b"], Finish("stop", None)),
        (delta(reasoning="", content="b"), ["b"], Finish("stop", None)),
        (delta(reasoning={"effort": 1}, refusal=3), [], Finish("stop", None)),
        (delta(refusal="I ") + delta(refusal="won't"), [], Finish("refusal", None, (), "I won't")),
        (
            delta(content=[{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
            ["ab"],
            Finish("stop", None),
        ),
        (delta(content=[{"type": "image_url"}]) + delta(content=[]), [], Finish("stop", None)),
        (
            delta(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "a"}]}])
            + delta(content=[{"type": "thinking", "thinking": "b"}, {"type": "text", "text": "c"}]),
            [Reasoning("a"), Reasoning("b"), "c"],
            Finish("stop", None),
        ),
        (call(index=0), [], Finish("stop", None, (ToolCall("", "", ""),))),
        (call(index="0") + call(index=0), [], Finish("stop", None, (ToolCall("", "", ""),))),
        (call(index=0, function="x"), [], Finish("stop", None, (ToolCall("", "", "", whole=False),))),
        (
            call(index=0, function={"name": 1, "arguments": 2}),
            [],
            Finish("stop", None, (ToolCall("", "", "", whole=False),)),
        ),
        (delta(tool_calls={"0": 1}, content="a"), ["a"], Finish("stop", None)),
        (delta(tool_calls=[None, 1], content="a"), ["a"], Finish("stop", None)),
        (delta(content=["a", "b"]), ["ab"], Finish("stop", None)),
        (delta(content={"type": "text", "text": "a"}), ["a"], Finish("stop", None)),
        (delta(content=3), [], Finish("stop", None)),
        (
            delta(content=[{"type": "thinking", "thinking": 3}, {"type": "text", "text": "a"}]),
            ["a"],
            Finish("stop", None),
        ),
        (
            call(id="a", function={"name": "x", "arguments": {"k": 1}}),
            [ArgumentsDelta(0, "x", '{"k": 1}')],
            Finish("stop", None, (ToolCall("a", "x", '{"k": 1}', carry={"openai": {"id": "a"}}),)),
        ),
    ],
)
def test_chunks_beside_the_text(body: bytes, chunks: list[Chunk], finish: Finish) -> None:
    got, decoder = decoded(body + STOP + DONE)
    assert (got, decoder.finish, decoder.failure) == (chunks, finish, None)


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        ({"prompt_tokens_details": None, "completion_tokens_details": {}}, {}),
        (
            {"prompt_tokens_details": {"cached_tokens": 0}, "completion_tokens_details": {"reasoning_tokens": 4}},
            {"cached_input_tokens": 0, "reasoning_tokens": 4},
        ),
    ],
)
def test_details_of_usage(told: dict[str, Any], usage: dict[str, int]) -> None:
    counts = {"prompt_tokens": 7, "completion_tokens": 5, **told}
    _, decoder = decoded(STOP + sse_event(json.dumps({"choices": [], "usage": counts}).encode()) + DONE)
    assert decoder.finish == Finish("stop", {"input_tokens": 7, "output_tokens": 5, **usage})


def test_carried_texts_are_repaired_and_counted() -> None:
    half = {"id": "\x00", "function": {"name": "\ud83d", "arguments": "\ud83d"}}
    other = {"index": 0, "function": {"arguments": "\ude00"}}
    body = (
        delta(reasoning="\ud83d")
        + delta(reasoning="\ude00\x00")
        + call(index=0, **half)
        + delta(tool_calls=[other])
    )
    chunks, decoder = decoded(body + delta(refusal="\ude00") + STOP + DONE)
    assert decoder.finish == Finish(
        "refusal", None, (ToolCall("\ufffd", "\ufffd", "😀", {"openai": {"id": "\ufffd"}}, whole=False),), "\ufffd"
    )
    assert chunks == [Reasoning("😀\ufffd"), ArgumentsDelta(0, "\ufffd", "😀")]
    assert decoder.repaired == 4


def test_number_of_calls_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call without any text takes memory, too."""
    monkeypatch.setattr(answer_accumulator, "MAX_CALLS", 3)
    body = b"".join(call(index=index) for index in range(4))
    assert "more than 3 tool calls" in failure(body + STOP + DONE).message
    _, decoder = decoded(call(index=0) * 4 + STOP + DONE)
    assert decoder.finish is not None


BEGUN = call(index=0, id="a", function={"name": "x", "arguments": '{"q":"a'})
LOST = [
    call(index=0, function='b"'),
    call(index=0, function={"arguments": 3}),
    delta(tool_calls={"index": 0, "function": {"arguments": "b"}}),
    delta(tool_calls=["b"]),
    sse_event(b'{"choices": [{"index": 0, "delta": "b"}]}'),
    sse_event(b'{"choices": ["b"]}'),
    sse_event(b'{"choices": {"0": {"delta": {"tool_calls": []}}}}'),
]
"""Pieces of a call in unreadable shapes."""


@pytest.mark.parametrize("lost", LOST)
@pytest.mark.parametrize("before", [BEGUN, BEGUN.replace(b'{\\"q\\":\\"a', b"")])
def test_call_with_a_lost_piece_is_incomplete(before: bytes, lost: bytes) -> None:
    """The rest may be valid JSON with other arguments, or none."""
    after = call(index=0, function={"arguments": '"}' if before is BEGUN else ""})
    for odd, whole in ((lost, False), (sse_event(b'{"type": "ping"}'), True)):
        _, decoder = decoded(before + odd + after + STOP + DONE)
        assert decoder.finish is not None
        (found,) = decoder.finish.tool_calls
        assert (found.arguments, found.whole) == ('{"q":"a"}' if before is BEGUN else "", whole)


@pytest.mark.parametrize("piece", [delta(refusal="12345"), call(index=0, id="12345")])
def test_bytes_kept_until_the_end_are_bounded(piece: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_accumulator, "MAX_KEPT", 14)
    _, decoder = decoded(piece * 2 + STOP + DONE)
    assert decoder.finish is not None
    assert "more than 14 characters" in failure(piece * 3 + DONE).message


@pytest.mark.parametrize(
    ("piece", "whole"),
    [
        (call(index=0, function={"name": "x", "arguments": '{"q":"\ufffd"}'}), True),  # the model's own
        (call(index=0, function={"name": "x", "arguments": '{"q":"a\x00"}'}), False),
        (call(index=0, function={"name": "x", "arguments": '{"q":"\ud83d"}'}), False),
        (call(index=0, function={"name": "x", "arguments": '{"q":"?"}'}).replace(b"?", b"\xff"), False),
    ],
)
def test_repaired_call_is_incomplete(piece: bytes, whole: bool) -> None:
    _, decoder = decoded(piece + STOP + DONE)
    assert decoder.finish is not None
    assert [one.whole for one in decoder.finish.tool_calls] == [whole]
    assert (decoder.repaired == 0) is whole


WORD = st.sampled_from(["", "a", "0", "stop", "error", "\ud83d", "thinking", "text", "tool_use", "x" * 300])
NAME = st.sampled_from(
    [
        *("choices", "delta", "message", "index", "finish_reason", "content", "reasoning", "reasoning_content"),
        *("reasoning_details", "tool_calls", "id", "function", "name", "arguments", "extra_content", "usage"),
        *("error", "type", "text", "data", "signature", "base_resp", "x_groq", "code", "status", "detail", "loc"),
        *("content_block", "input", "partial_json", "thinking", "stop_reason", "refusal", "prompt_tokens"),
    ]
)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 10**20) | st.floats(allow_nan=False) | WORD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAME, inner, max_size=5),
    max_leaves=12,
)
KINDS = [
    "message_start",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "news",
]
PIECES = st.lists(st.dictionaries(NAME, ANY_JSON, max_size=6) | ANY_JSON, max_size=5)


@settings(max_examples=settings().max_examples * 2)
@given(PIECES, st.sampled_from(KINDS), st.sampled_from([CHAT_COMPLETIONS, ANTHROPIC_MESSAGES]))
def test_any_json_value_is_handled(pieces: list[Any], kind: str, wire: Any) -> None:
    """It is counted, read, or fails the answer with an error; what is kept can be stored in the log."""
    decoder: AnswerDecoder[Any] = AnswerDecoder(wire, Redactor("sk"), collect_carry=True)
    for piece in pieces:
        told = {"type": kind, **piece} if isinstance(piece, dict) else piece
        if decoder.failure is None and decoder.finish is None:
            decoder.feed(sse_event(json.dumps(told).encode()))
    if decoder.failure is None and decoder.finish is None:
        decoder.complete("text/event-stream")
    assert (decoder.failure is None) is not (decoder.finish is None)
    if decoder.finish is not None:
        msgspec.json.encode(decoder.finish)


@pytest.mark.parametrize("wire", [CHAT_COMPLETIONS, ANTHROPIC_MESSAGES])
@pytest.mark.parametrize(
    "data",
    [
        b'"\\ud83d"',
        b'{"\\ud83d": 1}',
        b'{"choices": "\\ud83d"}',
        b'{"choices": ["\\ud83d"]}',
        b'{"choices": [{"\\ud83d": 1}]}',
        b'{"choices": [{"delta": "\\ud83d"}]}',
    ],
)
def test_unpaired_surrogates_are_handled(data: bytes, wire: Any) -> None:
    """The conversion to a chunk cannot encode it; the message is skipped or read without it."""
    decoder: AnswerDecoder[Any] = AnswerDecoder(wire, Redactor("sk"))
    assert decoder.feed(sse_event(data)) == []
    assert (decoder.failure, decoder.finish) == (None, None)


@pytest.mark.parametrize("wire", [CHAT_COMPLETIONS, ANTHROPIC_MESSAGES])
@pytest.mark.parametrize(
    "place", ["error", "usage", "extra_content", "reasoning_details", "content_block", "message"]
)
def test_deep_nesting_is_handled(place: str, wire: Any) -> None:
    for depth in (40, 400, 900, 100_000):
        nested = "[" * depth + "]" * depth
        for data in (f'{{"{place}": {nested}}}', f'{{"choices": [{{"delta": {{"{place}": {nested}}}}}]}}'):
            decoder: AnswerDecoder[Any] = AnswerDecoder(wire, Redactor("sk"), collect_carry=True)
            decoder.feed(sse_event(data.encode()) + call(index=0, id="a", function={"name": "x"}) + STOP + DONE)
            assert decoder.finish is not None or decoder.failure is not None or wire is ANTHROPIC_MESSAGES
            if decoder.finish is not None:
                msgspec.json.encode(decoder.finish)
