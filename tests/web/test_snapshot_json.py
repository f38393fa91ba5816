"""Snapshots as clients see them: how soon to ask again, and that no field of a call or of progress gets lost."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from server.conversations.conversation_state import Conversation, Generation, Progress, ToolCall
from server.conversations.state_machine import CallStatus, Status
from server.web.snapshots import snapshot_json as views
from server.web.snapshots.snapshot_json import MAX_RETRY, MIN_RETRY, WAITING_RETRY

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RUN = Generation("gen_x", "conv_x", Status.RUNNING, "demo", {}, 2, 3, NOW)
CALL = ToolCall(
    call="call_x",
    name="refund",
    status=CallStatus.PROPOSED,
    needs_approval=True,
    client=False,
    arguments={"amount": 5},
    arguments_digest="b" * 64,
    proposed_digest="a" * 64,
    position=9,
    step="answer/1",
    expires_at=NOW + timedelta(hours=1),
)


def paced(pace: float | None) -> Progress:
    """Progress whose last news came so many seconds after those before."""
    return Progress(3, 10, "pages", "reading", NOW, pace)


@pytest.mark.parametrize(
    ("pace", "seconds"),
    [
        (None, MIN_RETRY),
        (0.0, MIN_RETRY),
        (0.2, 1),
        (1.0, 1),
        (1.01, 2),
        (7.5, 8),
        (29.1, MAX_RETRY),
        (3_600.0, MAX_RETRY),
    ],
)
def test_retry_after_follows_the_pace(pace: float | None, seconds: int) -> None:
    assert views.retry_after(replace(RUN, progress=paced(pace))) == seconds


def test_retry_after_without_progress_and_while_a_person_is_asked() -> None:
    assert views.retry_after(RUN) == MIN_RETRY
    assert views.retry_after(replace(RUN, status=Status.QUEUED)) == MIN_RETRY
    for pace in (0.1, 25.0):
        assert views.retry_after(replace(RUN, status=Status.WAITING, progress=paced(pace))) == WAITING_RETRY


def test_progress_is_shown_without_what_it_is_reckoned_from() -> None:
    shown = decoded(replace(RUN, progress=paced(7.5)))
    assert shown["progress"] == {"done": 3, "total": 10, "unit": "pages", "stage": "reading"}
    assert decoded(RUN)["progress"] is None


def test_a_call_is_shown_with_both_digests_and_without_its_step() -> None:
    [shown] = decoded(replace(RUN, tool_calls=(CALL,)))["tool_calls"]
    assert shown["proposed_digest"] == "a" * 64
    assert shown["arguments_digest"] == "b" * 64
    assert shown["expires_at"] == "2026-01-01T01:00:00Z"
    assert shown.keys() == (set(ToolCall.__struct_fields__) - {"step", "modified_from"}) | {"hidden_characters"}
    assert [shown[name] for name in ("decision", "reason", "by", "result", "error")] == [None] * 5


def test_a_calls_hidden_characters_are_named() -> None:
    """Of its name and of the arguments that run, each once."""
    call = replace(CALL, name="re\u200bfund", arguments={"to": "a\u202eb\u202e", "\U000e0041": ["é"]})
    [shown] = decoded(replace(RUN, tool_calls=(call,)))["tool_calls"]
    assert shown["hidden_characters"] == ["U+200B", "U+202E", "U+E0041"]
    assert decoded(replace(RUN, tool_calls=(CALL,)))["tool_calls"][0]["hidden_characters"] == []


def test_what_was_said_of_a_run_is_in_its_snapshot() -> None:
    found = replace(
        RUN,
        workflow="grading",
        model=None,
        input={"pages": 3},
        tools=("refund", {"name": "ship"}),
        on_crash="restart",
        ephemeral=True,
        steering={"strictness": 3},
        result={"mark": None},
    )
    shown = decoded(found)
    for name in ("workflow", "model", "input", "on_crash", "ephemeral", "steering", "result"):
        assert shown[name] == getattr(found, name)
    assert shown["tools"] == ["refund", {"name": "ship"}]


def test_a_cancelled_one_says_besides_whether_its_upstream_is_closed() -> None:
    shown = msgspec.json.decode(views.encode(views.cancelled(RUN, upstream_closed=False)))
    assert shown == {**decoded(RUN), "upstream_closed": False}


def test_a_conversation_holds_the_snapshots_of_its_generations() -> None:
    state = Conversation.from_parts(
        "conv_x", position=9, generations=(RUN, replace(RUN, id="gen_y", tool_calls=(CALL,)))
    )
    shown = msgspec.json.decode(views.conversation(state))
    assert shown["generations"] == [decoded(found) for found in state.generations]


def decoded(found: Generation) -> dict[str, Any]:
    """The JSON of its snapshot."""
    shown: dict[str, Any] = msgspec.json.decode(views.encode(views.generation(found)))
    return shown
