"""Checks that events have the form the API contract demands: fields, times, positions, order of a tool call."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from tests.clients.api import TERMINAL, Event

AT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
FIELDS = {
    "conversation.started": set[str](),
    "message.posted": {"message", "role", "content", "by"},
    "message.applied": {"generation", "message"},
    "generation.requested": {"generation", "parameters", "by"},
    "generation.started": {"generation", "attempt", "worker"},
    "generation.interrupted": {"generation", "attempt", "reason"},
    "token": {"generation", "delta"},
    "step.finished": {"generation", "step", "result"},
    "tool.proposed": {"generation", "call", "name", "arguments", "arguments_digest", "needs_approval"},
    "tool.decided": {
        *("generation", "call", "decision", "proposed_digest", "arguments", "arguments_digest", "by"),
    },
    "tool.started": {"generation", "call"},
    "tool.finished": {"generation", "call"},
    "steering.changed": {"generation", "name", "value", "by"},
    "progress": {"generation", "done", "total", "unit"},
    "result": {"generation", "value"},
    "generation.completed": {"generation", "finish_reason", "usage", "ttft_ms"},
    "generation.cancelled": {"generation", "by"},
    "generation.failed": {"generation", "error", "retryable"},
}


def check_log(log: Sequence[Event]) -> None:
    """Checks a whole conversation: positions without a gap from 1, times that never go back, the required
    fields, and exactly one end for each run.
    """
    assert [event["position"] for event in log] == list(range(1, len(log) + 1))
    assert log[0]["type"] == "conversation.started"
    assert all(earlier["at"] <= later["at"] for earlier, later in pairwise(log))
    for event in log:
        assert AT.fullmatch(event["at"]), event
        assert event.keys() >= FIELDS[event["type"]], event
        assert event.get("by", "anonymous") == "anonymous"
        if event["type"] == "generation.requested":
            assert ("model" in event) != ("workflow" in event), event
        if event["type"] == "tool.finished":
            assert ("result" in event) != ("error" in event), event
    for generation in {event["generation"] for event in log if "generation" in event}:
        mine = [event["type"] for event in log if event.get("generation") == generation]
        assert mine[0] == "generation.requested"
        assert [kind for kind in mine if kind in TERMINAL] == mine[-1:]
        if mine[-1] == "generation.completed":
            [end] = [event for event in log if event["type"] == mine[-1] and event["generation"] == generation]
            assert (end["ttft_ms"] is not None) == ("token" in mine), end
        check_calls([event for event in log if event.get("generation") == generation])


def check_calls(log: Sequence[Event]) -> None:
    """Checks that each tool call is proposed once, decided if needed, and only then started and finished."""
    for call in {event["call"] for event in log if "call" in event}:
        proposed, *mine = [event for event in log if event.get("call") == call]
        assert proposed["type"] == "tool.proposed"
        kinds = [event["type"].removeprefix("tool.") for event in mine]
        if proposed["needs_approval"] and kinds:
            assert kinds.pop(0) == "decided"
            assert mine[0]["proposed_digest"] == proposed["arguments_digest"]
        assert kinds in ([], ["started"], ["started", "finished"], ["finished"]), kinds
