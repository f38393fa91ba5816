"""The event types: the fields of each, as the public contract lists them."""

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given

from eventstore import NewEvent
from server import event_types
from tests.conversations.event_builders import STORABLE_TEXT, decided, no_deadline, proposed

G = "gen_1"
SEVEN = hashlib.sha256(b'{"order":7}').hexdigest()


@pytest.mark.parametrize(
    ("new", "kind", "tag", "data"),
    [
        (event_types.conversation_started(None, None), "conversation.started", None, {}),
        (
            event_types.conversation_started("T", {"a": 1}),
            "conversation.started",
            None,
            {"title": "T", "metadata": {"a": 1}},
        ),
        (event_types.conversation_started("T", None, "default"), "conversation.started", None, {"title": "T"}),
        (event_types.conversation_started(None, None, "acme"), "conversation.started", None, {"tenant": "acme"}),
        (
            event_types.message_posted("m", "user", "hi", None, "anonymous"),
            "message.posted",
            None,
            {"message": "m", "role": "user", "content": "hi", "by": "anonymous"},
        ),
        (
            event_types.message_posted("m", "user", "hi", "Ada", "anonymous", "now", G),
            "message.posted",
            None,
            {
                "message": "m",
                "role": "user",
                "content": "hi",
                "author": "Ada",
                "by": "anonymous",
                "deliver": "now",
                "into": G,
            },
        ),
        (event_types.message_applied(G, "m"), "message.applied", G, {"message": "m"}),
        (
            event_types.generation_requested(G, model="demo", parameters={}, by="anonymous"),
            "generation.requested",
            G,
            {"model": "demo", "parameters": {}, "by": "anonymous"},
        ),
        (
            event_types.generation_requested(
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
            event_types.generation_interrupted(G, 2, "worker_lost"),
            "generation.interrupted",
            G,
            {"attempt": 2, "reason": "worker_lost"},
        ),
        (event_types.step_finished(G, "s", None), "step.finished", G, {"step": "s", "result": None}),
        (
            event_types.step_finished(G, "s", 1, {"theirs": [None]}),
            "step.finished",
            G,
            {"step": "s", "result": 1, "carry": {"theirs": [None]}},
        ),
        (event_types.reasoning(G, "hm\n"), "reasoning", G, {"delta": "hm\n"}),
        (event_types.tool_arguments(G, "c", "{"), "tool.arguments", G, {"call": "c", "delta": "{"}),
        (
            event_types.tool_arguments(G, "c", "{", "refund"),
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
        (event_types.tool_started(G, "c"), "tool.started", G, {"call": "c"}),
        (
            event_types.tool_finished(G, "c", {"result": None}),
            "tool.finished",
            G,
            {"call": "c", "result": None},
        ),
        (
            event_types.tool_finished(G, "c", {"error": {"code": "x", "message": "m"}}, "Ada"),
            "tool.finished",
            G,
            {"call": "c", "error": {"code": "x", "message": "m"}, "by": "Ada"},
        ),
        (
            event_types.steering_changed(G, "a", None, "Ada"),
            "steering.changed",
            G,
            {"name": "a", "value": None, "by": "Ada"},
        ),
        (
            event_types.tool_approval(
                G, "call_1", proposed_digest=SEVEN, arguments_digest=SEVEN, remaining=1, by="Ada"
            ),
            "tool.approval",
            G,
            {
                "call": "call_1",
                "proposed_digest": SEVEN,
                "arguments_digest": SEVEN,
                "remaining": 1,
                "by": "Ada",
            },
        ),
        (
            event_types.tool_approval(
                G,
                "call_1",
                proposed_digest=SEVEN,
                arguments_digest="0" * 64,
                remaining=2,
                by="Ada",
                arguments={},
                reason="less",
            ),
            "tool.approval",
            G,
            {
                "call": "call_1",
                "proposed_digest": SEVEN,
                "arguments": {},
                "arguments_digest": "0" * 64,
                "remaining": 2,
                "reason": "less",
                "by": "Ada",
            },
        ),
        (
            event_types.budget_reached(G, "cost", 0.5, 0.75),
            "budget.reached",
            G,
            {"bound": "cost", "limit": 0.5, "used": 0.75},
        ),
        (event_types.budget_raised(G, 9, None, "Ada"), "budget.raised", G, {"tokens": 9, "by": "Ada"}),
        (event_types.budget_raised(G, None, 1.5, "Ada"), "budget.raised", G, {"cost": 1.5, "by": "Ada"}),
        (
            event_types.progress(G, 1, 2.5, "pages", None),
            "progress",
            G,
            {"done": 1, "total": 2.5, "unit": "pages"},
        ),
        (
            event_types.progress(G, 1, 2, "pages", "reading"),
            "progress",
            G,
            {"done": 1, "total": 2, "unit": "pages", "stage": "reading"},
        ),
        (event_types.result(G, None), "result", G, {"value": None}),
        (event_types.generation_started(G, 1, "w"), "generation.started", G, {"attempt": 1, "worker": "w"}),
        (event_types.token(G, "The "), "token", G, {"delta": "The "}),
        (event_types.token(G, ""), "token", G, {"delta": ""}),
        (
            event_types.generation_completed(G, "stop", {"input_tokens": 1}, 0),
            "generation.completed",
            G,
            {"finish_reason": "stop", "usage": {"input_tokens": 1}, "ttft_ms": 0},
        ),
        (
            event_types.generation_completed(G, "stop", None, None),
            "generation.completed",
            G,
            {"finish_reason": "stop", "usage": {}, "ttft_ms": None},
        ),
        (
            event_types.generation_completed(G, "refusal", None, None, "I will not."),
            "generation.completed",
            G,
            {"finish_reason": "refusal", "usage": {}, "ttft_ms": None, "refusal": "I will not."},
        ),
        (
            event_types.generation_failed(G, "c", "m", retryable=True, reference="ref_1"),
            "generation.failed",
            G,
            {"error": {"code": "c", "message": "m", "reference": "ref_1"}, "retryable": True},
        ),
        (
            event_types.generation_failed(G, "c", "m", retryable=False),
            "generation.failed",
            G,
            {"error": {"code": "c", "message": "m"}, "retryable": False},
        ),
        (event_types.generation_cancelled(G, None, "anonymous"), "generation.cancelled", G, {"by": "anonymous"}),
        (
            event_types.generation_cancelled(G, "enough", "anonymous"),
            "generation.cancelled",
            G,
            {"reason": "enough", "by": "anonymous"},
        ),
    ],
)
def test_fields_of_each_event_type(new: NewEvent, kind: str, tag: str | None, data: dict[str, Any]) -> None:
    assert (new.type, new.tag, json.loads(new.data)) == (kind, tag, data)
    assert type(new.type) is str


def test_table_covers_every_event_type() -> None:
    tried = {
        mark.args[1][n][1] for mark in test_fields_of_each_event_type.pytestmark for n in range(len(mark.args[1]))
    }
    assert tried == set(event_types.EventType)


@no_deadline
@given(delta=STORABLE_TEXT)
def test_token_is_one_line_of_json(delta: str) -> None:
    data = event_types.token(G, delta).data
    assert json.loads(data) == {"delta": delta}
    assert not {"\n", "\r"} & set(data)
