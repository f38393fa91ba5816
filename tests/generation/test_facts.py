"""The facts and their names: each event's fields as the public contract lists them, and ids."""

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given

from eventstore import NewEvent
from server import events, ids

from .rows import CLEAN, decided, patient, proposed

G = "gen_1"
SEVEN = hashlib.sha256(b'{"order":7}').hexdigest()


@pytest.mark.parametrize(
    ("new", "kind", "tag", "data"),
    [
        (events.conversation_started(None, None), "conversation.started", None, {}),
        (
            events.conversation_started("T", {"a": 1}),
            "conversation.started",
            None,
            {"title": "T", "metadata": {"a": 1}},
        ),
        (
            events.message_posted("m", "user", "hi", None, "anonymous"),
            "message.posted",
            None,
            {"message": "m", "role": "user", "content": "hi", "by": "anonymous"},
        ),
        (
            events.generation_requested(G, model="demo", parameters={}, by="anonymous"),
            "generation.requested",
            G,
            {"model": "demo", "parameters": {}, "by": "anonymous"},
        ),
        (
            events.generation_requested(
                G,
                workflow="w",
                input=[1],
                parameters={"t": 1},
                tools=("refund", {"name": "ship"}),
                steering={"a": 1},
                on_crash="restart",
                if_running="queue",
                ephemeral=True,
                by="anonymous",
            ),
            "generation.requested",
            G,
            {
                "workflow": "w",
                "input": [1],
                "parameters": {"t": 1},
                "tools": ["refund", {"name": "ship"}],
                "steering": {"a": 1},
                "on_crash": "restart",
                "if_running": "queue",
                "ephemeral": True,
                "by": "anonymous",
            },
        ),
        (
            events.generation_interrupted(G, 2, "worker_lost"),
            "generation.interrupted",
            G,
            {"attempt": 2, "reason": "worker_lost"},
        ),
        (events.step_finished(G, "s", None), "step.finished", G, {"step": "s", "result": None}),
        (
            events.step_finished(G, "s", 1, {"theirs": [None]}),
            "step.finished",
            G,
            {"step": "s", "result": 1, "carry": {"theirs": [None]}},
        ),
        (events.reasoning(G, "hm\n"), "reasoning", G, {"delta": "hm\n"}),
        (events.tool_arguments(G, "c", "{"), "tool.arguments", G, {"call": "c", "delta": "{"}),
        (
            events.tool_arguments(G, "c", "{", "refund"),
            "tool.arguments",
            G,
            {"call": "c", "delta": "{", "name": "refund"},
        ),
        (
            proposed(G, asks=True, expires_at=datetime(2026, 11, 22, 10, tzinfo=UTC)),
            "tool.proposed",
            G,
            {
                "call": "call_1",
                "name": "refund",
                "arguments": {"order": 7},
                "arguments_digest": SEVEN,
                "needs_approval": True,
                "expires_at": "2026-11-22T10:00:00Z",
                "step": "answer/1",
            },
        ),
        (
            proposed(G, client=True),
            "tool.proposed",
            G,
            {
                "call": "call_1",
                "name": "refund",
                "arguments": {"order": 7},
                "arguments_digest": SEVEN,
                "needs_approval": False,
                "client": True,
                "step": "answer/1",
            },
        ),
        (
            decided(G, reason="fine", by="Ada"),
            "tool.decided",
            G,
            {
                "call": "call_1",
                "decision": "approved",
                "proposed_digest": SEVEN,
                "arguments": {"order": 7},
                "arguments_digest": SEVEN,
                "reason": "fine",
                "by": "Ada",
            },
        ),
        (events.tool_started(G, "c"), "tool.started", G, {"call": "c"}),
        (
            events.tool_finished(G, "c", {"result": None}),
            "tool.finished",
            G,
            {"call": "c", "result": None},
        ),
        (
            events.tool_finished(G, "c", {"error": {"code": "x", "message": "m"}}, "Ada"),
            "tool.finished",
            G,
            {"call": "c", "error": {"code": "x", "message": "m"}, "by": "Ada"},
        ),
        (
            events.steering_changed(G, "a", None, "Ada"),
            "steering.changed",
            G,
            {"name": "a", "value": None, "by": "Ada"},
        ),
        (
            events.progress(G, 1, 2.5, "pages", None),
            "progress",
            G,
            {"done": 1, "total": 2.5, "unit": "pages"},
        ),
        (
            events.progress(G, 1, 2, "pages", "reading"),
            "progress",
            G,
            {"done": 1, "total": 2, "unit": "pages", "stage": "reading"},
        ),
        (events.result(G, None), "result", G, {"value": None}),
        (events.generation_started(G, 1, "w"), "generation.started", G, {"attempt": 1, "worker": "w"}),
        (events.token(G, "The "), "token", G, {"delta": "The "}),
        (events.token(G, ""), "token", G, {"delta": ""}),
        (
            events.generation_completed(G, "stop", {"input_tokens": 1}, 0),
            "generation.completed",
            G,
            {"finish_reason": "stop", "usage": {"input_tokens": 1}, "ttft_ms": 0},
        ),
        (
            events.generation_completed(G, "stop", None, None),
            "generation.completed",
            G,
            {"finish_reason": "stop", "usage": {}, "ttft_ms": None},
        ),
        (
            events.generation_completed(G, "refusal", None, None, "I will not."),
            "generation.completed",
            G,
            {"finish_reason": "refusal", "usage": {}, "ttft_ms": None, "refusal": "I will not."},
        ),
        (
            events.generation_failed(G, "c", "m", retryable=True, reference="ref_1"),
            "generation.failed",
            G,
            {"error": {"code": "c", "message": "m", "reference": "ref_1"}, "retryable": True},
        ),
        (
            events.generation_failed(G, "c", "m", retryable=False),
            "generation.failed",
            G,
            {"error": {"code": "c", "message": "m"}, "retryable": False},
        ),
        (events.generation_cancelled(G, None, "anonymous"), "generation.cancelled", G, {"by": "anonymous"}),
        (
            events.generation_cancelled(G, "enough", "anonymous"),
            "generation.cancelled",
            G,
            {"reason": "enough", "by": "anonymous"},
        ),
    ],
)
def test_the_fields_of_each_type(new: NewEvent, kind: str, tag: str | None, data: dict[str, Any]) -> None:
    assert (new.type, new.tag, json.loads(new.data)) == (kind, tag, data)
    assert type(new.type) is str


def test_every_type_is_tried_here() -> None:
    tried = {
        mark.args[1][n][1] for mark in test_the_fields_of_each_type.pytestmark for n in range(len(mark.args[1]))
    }
    assert tried == set(events.Type)


@patient
@given(delta=CLEAN)
def test_a_token_is_one_line_of_json(delta: str) -> None:
    data = events.token(G, delta).data
    assert json.loads(data) == {"delta": delta}
    assert not {"\n", "\r"} & set(data)


def test_ids_say_what_they_are_and_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for milliseconds in (0, 1, 31, 32, 1_800_000_000_000, 2**48 - 1):
        monkeypatch.setattr("server.ids.time.time_ns", lambda now=milliseconds: now * 1_000_000 + 999_999)
        made.append(ids.new("conv"))
    assert made == sorted(made)
    assert all(ids.looks_right(name, "conv") for name in made)
    assert made[0].startswith("conv_0000000000")
    assert made[-1].startswith("conv_7ZZZZZZZZZ")


def test_ids_do_not_come_twice() -> None:
    assert len({ids.new("gen") for _ in range(10_000)}) == 10_000


GOOD = "gen_01K9ZV3R8QJ4M5N6P7S8T9VWXY"


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (GOOD, True),
        (GOOD.replace("gen", "conv"), False),
        (GOOD.replace("gen", "xyz"), False),
        (GOOD.lower(), False),
        (GOOD[:-1], False),
        (GOOD + "0", False),
        (GOOD + "\n", False),
        (GOOD[:-1] + "\0", False),
        (GOOD[:-1] + "U", False),
        (GOOD[:-1] + "٣", False),
        ("", False),
    ],
)
def test_what_cannot_be_an_id(text: str, right: bool) -> None:
    assert ids.looks_right(text, "gen") is right
