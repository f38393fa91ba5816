"""Events as text for a terminal, and the status line of a running answer; without a server."""

from typing import Any

import pytest

from server.cli.terminal.event_format import StatusLine, content_text, describe, format_event, summary

CALL = "call_" + "0" * 26
PROPOSED = {
    "type": "tool.proposed",
    "call": CALL,
    "name": "refund",
    "arguments": {"order": 17},
    "arguments_digest": "0" * 64,
    "needs_approval": True,
    "expires_at": "2026-11-22T11:00:00Z",
    "step": "answer",
}
DECIDED = {
    "type": "tool.decided",
    "call": CALL,
    "decision": "modified",
    "proposed_digest": "0" * 64,
    "arguments": {"order": 18},
    "arguments_digest": "1" * 64,
    "reason": "typo",
    "by": "anonymous",
}


APPROVAL = {
    "type": "tool.approval",
    "call": CALL,
    "proposed_digest": "0" * 64,
    "arguments_digest": "0" * 64,
    "remaining": 2,
    "by": "Ada",
}


HIDDEN = "  ! HIDDEN CHARACTERS, shown as \\u…"


@pytest.mark.parametrize(
    "character", ["\u202e", "\u2066", "\u200b", "\u200d", "\ufeff", "\u00ad", "\ufe0f", "\x9b", "\U000e0041"]
)
def test_tool_call_with_invisible_characters_is_marked(character: str) -> None:
    """In names, values and nested names, whether proposed or modified."""
    for arguments in ({"to": f"a{character}b"}, {f"a{character}b": 1}, {"x": [{"y": character}]}):
        for event in (
            {**PROPOSED, "arguments": arguments},
            {**DECIDED, "arguments": arguments},
            {**APPROVAL, "arguments": arguments},
        ):
            words = describe(event) or ""
            assert words.endswith(HIDDEN)
            assert character not in words
            assert character not in format_event({**event, "position": 1}).plain
    assert (describe({**PROPOSED, "name": f"re{character}fund"}) or "").endswith(HIDDEN)


@pytest.mark.parametrize("text", ["café", "日本", "שלום", "line\nbreak", "tab\t", "\\u202e"])
def test_readable_tool_call_is_not_marked(text: str) -> None:
    assert HIDDEN not in (describe({**PROPOSED, "arguments": {"to": text}}) or "")


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ({"type": "generation.started", "attempt": 1, "worker": "w"}, None),
        (
            {"type": "generation.started", "attempt": 2, "worker": "w"},
            "attempt 2: the answer starts again; decisions and finished work are kept",
        ),
        (
            {"type": "generation.interrupted", "attempt": 1, "reason": "worker_lost"},
            "worker_lost; it will be resumed",
        ),
        ({"type": "message.applied", "message": "msg_1"}, "from here on the answer knows msg_1"),
        (PROPOSED, 'refund {"order":17} waits for a decision until 2026-11-22T11:00:00Z'),
        ({**PROPOSED, "needs_approval": False}, 'refund {"order":17}'),
        (
            {**PROPOSED, "approvers": 2},
            'refund {"order":17} waits for a decision of 2 people until 2026-11-22T11:00:00Z',
        ),
        (APPROVAL, "approved by Ada; 2 more to approve"),
        ({**APPROVAL, "arguments": {"order": 18}}, 'approved with {"order":18} instead by Ada; 2 more to approve'),
        (
            {"type": "budget.reached", "bound": "tokens", "limit": 100, "used": 103},
            "103 of 100 tokens; it waits until the budget is raised",
        ),
        (DECIDED, 'modified to {"order":18} by anonymous: typo'),
        (
            {**DECIDED, "decision": "rejected", "reason": "expired", "by": "tokentape"},
            "rejected by tokentape: expired",
        ),
        ({**DECIDED, "decision": "approved", "reason": None}, "approved by anonymous"),
        ({"type": "tool.started", "call": CALL}, f"{CALL} runs"),
        ({"type": "tool.finished", "call": CALL, "result": [1, None]}, f"{CALL} → [1,null]"),
        ({"type": "tool.finished", "call": CALL, "result": None}, f"{CALL} → null"),
        (
            {
                "type": "tool.finished",
                "call": CALL,
                "error": {"code": "outcome_unknown", "message": "Nobody knows."},
            },
            f"{CALL} failed: outcome_unknown: Nobody knows.",
        ),
        ({"type": "steering.changed", "name": "s", "value": 0.8, "by": "anonymous"}, "s = 0.8 by anonymous"),
        ({"type": "progress", "done": 12, "total": 47, "unit": "pages"}, "12 of 47 pages"),
        ({"type": "progress", "done": 0.5, "total": 1, "unit": "", "stage": "b"}, "0.5 of 1  · b"),
        ({"type": "result", "value": {"a": 1}}, '{"a":1}'),
        ({"type": "step.finished", "step": "look 1", "result": "x" * 9_999}, "look 1"),
        ({"type": "from.the.future", "x": 1}, None),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
def test_description_of_each_event_type(event: dict[str, Any], words: str | None) -> None:
    assert describe(event) == words


def test_line_shows_position_call_and_deadline_of_a_decision() -> None:
    assert format_event({"position": 7, **PROPOSED}).plain == (
        f'     7  tool.proposed  refund {{"order":17}} waits for a decision until 2026-11-22T11:00:00Z  {CALL}'
    )
    future = {"position": 8, "type": "from.the.future", "at": "…", "generation": "gen_x", "x": [1]}
    assert format_event(future).plain == "     8  from.the.future  x=[1]"


IMAGE = {"type": "image", "file": "a" * 64, "media_type": "image/png", "size": 12_345}
FILE = {"type": "file", "file": "b" * 64, "media_type": "application/pdf", "size": 3, "name": "a.pdf"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("plain\x1b[2J", "plain␛[2J"),
        ([{"type": "text", "text": "see"}, IMAGE], "see [image image/png 12 KB]"),
        ([FILE, {"type": "text", "text": "\x07"}], "[file a.pdf application/pdf 3 bytes] ␇"),
        ([{**FILE, "name": "a\nb\x1b[2J", "size": 2_500_000}], "[file a␊b␛[2J application/pdf 2.5 MB]"),
        ([{"type": "hologram", "x": 1}], "[hologram]"),
        ([], ""),
        (None, "[a long text, which was left out]"),
    ],
)
def test_content_of_a_message_is_shown_with_its_files(content: Any, words: str) -> None:
    assert content_text(content) == words
    posted = {"position": 2, "type": "message.posted", "role": "user", "content": content}
    assert format_event(posted).plain == f"     2  message.posted  user: {words}"


def test_line_of_a_request_shows_its_fields() -> None:
    asked = {
        "position": 2,
        "type": "generation.requested",
        "model": "demo",
        "parameters": {"tokens": 5},
        "tools": ["look", {"name": "refund", "description": "Pays."}],
        "if_running": "queue",
        "by": "anonymous",
    }
    assert (
        format_event(asked).plain
        == "     2  generation.requested  demo  tokens=5  tools=look, refund  if_running=queue"
    )
    played = {
        "workflow": "grading",
        "input": {"pages": 3},
        "parameters": {},
        "on_crash": "restart",
        "ephemeral": True,
    }
    assert format_event({"position": 2, "type": "generation.requested", **played}).plain == (
        '     2  generation.requested  grading  input={"pages":3}  on_crash=restart  ephemeral'
    )


def test_control_characters_in_events_are_escaped() -> None:
    rude = "a\x1b[2J\nb"
    for event in (
        {**PROPOSED, "name": rude, "arguments": {rude: rude}},
        {**DECIDED, "reason": rude},
        {"type": "tool.finished", "call": CALL, "result": rude},
        {"type": "tool.finished", "call": rude, "error": {"code": rude, "message": rude}},
        {"type": "steering.changed", "name": rude, "value": rude, "by": rude},
        {"type": "progress", "done": 1, "total": 2, "unit": rude, "stage": rude},
        {"type": "generation.requested", "workflow": rude, "input": rude, "parameters": {}, "tools": [rude]},
    ):
        line = format_event({"position": 1, **event}).plain
        assert "\x1b" not in line
        assert "\n" not in line


def test_status_line_follows_tool_calls_and_attempts() -> None:
    """A second attempt counts anew."""
    status = StatusLine()
    said = [status.text(1)]
    for event in (
        {"type": "generation.started", "attempt": 1},
        {"type": "token", "delta": "a"},
        {**PROPOSED, "client": True},
        DECIDED,
        {"type": "tool.started", "call": CALL},
        {"type": "tool.finished", "call": CALL, "result": 1},
        {"type": "progress", "done": 1, "total": 2, "unit": "pages"},
        {"type": "generation.interrupted", "attempt": 1, "reason": "server_stopped"},
        {"type": "generation.started", "attempt": 2},
    ):
        status.add(event)
        said.append(status.text(1))
    assert said == [
        "waits for its turn · 1 s",
        "0 tokens · 1.0 s",
        "1 token · 1.0 s",
        "waits for a decision on refund",
        "1 token · 1.0 s",
        "waits for a client's refund",
        "1 token · 1.0 s",
        "1 of 2 pages · 1 token · 1.0 s",
        "waits for its turn · 1 s",
        "0 tokens · 1.0 s",
    ]


@pytest.mark.parametrize(("number", "words"), [(0, "0 tokens in"), (1, "1 token in"), (2, "2 tokens in")])
def test_plural_of_tokens(number: int, words: str) -> None:
    assert summary({"type": "generation.completed", "usage": {"input_tokens": number}}) == words


@pytest.mark.parametrize(
    ("more", "end"),
    [
        ({}, "user: hi"),
        ({"deliver": "now", "into": "gen_1"}, "user: hi  → gen_1"),
        ({"deliver": "now"}, "user: hi  → the next answer: none ran that takes messages"),
    ],
)
def test_a_message_says_where_it_goes(more: dict[str, str], end: str) -> None:
    event = {"position": 3, "type": "message.posted", "message": "msg_1", "role": "user", "content": "hi", **more}
    assert format_event(event).plain.endswith(end)
