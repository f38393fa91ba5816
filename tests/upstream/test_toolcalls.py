"""Tool calls from pieces, as servers differ; and what else of OpenAI's deltas stands beside the text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.upstream import Finish, ToolCall, draft
from server.upstream.toolcalls import ToolCalls

from .fake_wire import chunk, event
from .test_chat import DONE, STOP, decoded, failure

Piece = tuple[int | None, str, str, str]


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
        ([(None, "", "x", "1"), (None, "", "x", "2")], [("", "x", "1"), ("", "x", "2")]),
        ([(5, "", "", "1")], [("", "", "1")]),
    ],
)
def test_whose_a_piece_is(pieces: list[Piece], calls: list[tuple[str, str, str]]) -> None:
    found = ToolCalls()
    for piece in pieces:
        found.add(*piece)
    assert found.finished() == tuple(ToolCall(*call) for call in calls)


def test_more_arguments_are_only_for_a_call_that_began() -> None:
    found = ToolCalls()
    found.add(1, "a", "x", "", default="{}")
    assert found.finished() == (ToolCall("a", "x", "{}"),)
    assert found.extend(1, "[1]")
    assert not found.extend(2, "[2]")
    assert not found.extend(None, "[3]")
    assert found.finished() == (ToolCall("a", "x", "[1]"),)


@given(st.lists(st.tuples(st.integers(0, 3), st.text("ab", max_size=3)), max_size=30))
def test_no_piece_is_lost_or_mixed(pieces: list[tuple[int, str]]) -> None:
    found = ToolCalls()
    for index, text in pieces:
        found.add(index, f"id{index}", "x", text)
    assert {call.id: call.arguments for call in found.finished()} == {
        f"id{index}": "".join(text for i, text in pieces if i == index) for index, _ in pieces
    }


def delta(**fields: Any) -> bytes:
    return event(chunk(fields))


def call(**fields: Any) -> bytes:
    return delta(tool_calls=[fields])


@pytest.mark.parametrize(
    ("body", "texts", "finish"),
    [
        (
            delta(reasoning_content="a") + delta(reasoning_content="b", content=None),
            [],
            Finish("stop", None, (), "ab"),
        ),
        (delta(reasoning="a", reasoning_content="a"), [], Finish("stop", None, (), "a")),
        (delta(reasoning="a", content="b"), ["b"], Finish("stop", None, (), "a")),
        (delta(reasoning={"effort": 1}, refusal=3), [], Finish("stop", None)),
        (delta(refusal="I ") + delta(refusal="won't"), [], Finish("refusal", None, (), "", "I won't")),
        (
            delta(content=[{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
            ["ab"],
            Finish("stop", None),
        ),
        (delta(content=[{"type": "image_url"}]) + delta(content=[]), [], Finish("stop", None)),
        (
            delta(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "a"}]}])
            + delta(content=[{"type": "thinking", "thinking": "b"}, {"type": "text", "text": "c"}]),
            ["c"],
            Finish("stop", None, (), "ab"),
        ),
        (call(index=0), [], Finish("stop", None, (ToolCall("", "", ""),))),
        (
            call(id="a", function={"name": "x", "arguments": {"k": 1}}),
            [],
            Finish("stop", None, (ToolCall("a", "x", '{"k": 1}'),)),
        ),
    ],
)
def test_what_stands_beside_the_text(body: bytes, texts: list[str], finish: Finish) -> None:
    got, decoder = decoded(body + STOP + DONE)
    assert (got, decoder.finish, decoder.failure) == (texts, finish, None)


@pytest.mark.parametrize(
    "body",
    [
        delta(content=["a"]),
        delta(content=[{"type": "thinking", "thinking": 3}]),
        delta(content={"text": "a"}),
        call(index="0"),
        call(index=0, function="x"),
        delta(tool_calls={"0": 1}),
    ],
)
def test_what_is_malformed(body: bytes) -> None:
    assert failure(body + STOP).code == "upstream_malformed"


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
    _, decoder = decoded(event(json.dumps({"choices": [], "usage": counts}).encode()) + DONE)
    assert decoder.finish == Finish("stop", {"input_tokens": 7, "output_tokens": 5, **usage})


def test_what_is_kept_is_fit_for_the_log_and_what_was_repaired_is_counted() -> None:
    half = {"id": "\x00", "function": {"name": "\ud83d", "arguments": "\ud83d"}}
    other = {"index": 0, "function": {"arguments": "\ude00"}}
    body = (
        delta(reasoning="\ud83d")
        + delta(reasoning="\ude00\x00")
        + call(index=0, **half)
        + delta(tool_calls=[other])
    )
    _, decoder = decoded(body + delta(refusal="\ude00") + STOP + DONE)
    assert decoder.finish == Finish("refusal", None, (ToolCall("\ufffd", "\ufffd", "😀"),), "😀\ufffd", "\ufffd")
    assert decoder.repaired == 4


@pytest.mark.parametrize("piece", [delta(reasoning="12345"), delta(refusal="12345"), call(index=0, id="12345")])
def test_what_is_held_is_bounded(piece: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draft, "MAX_HELD", 14)
    _, decoder = decoded(piece * 2 + DONE)
    assert decoder.finish is not None
    assert "more than 14 characters" in failure(piece * 3 + DONE).message
