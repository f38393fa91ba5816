"""What every event object has to look like, by the contract's table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from tests.clients.api import TERMINAL, Event

AT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
FIELDS = {
    "conversation.started": set[str](),
    "message.posted": {"message", "role", "content", "by"},
    "generation.requested": {"generation", "model", "parameters"},
    "generation.started": {"generation", "attempt", "worker"},
    "token": {"generation", "delta"},
    "generation.completed": {"generation", "finish_reason", "usage", "ttft_ms"},
    "generation.cancelled": {"generation", "by"},
    "generation.failed": {"generation", "error", "retryable"},
}


def check_log(log: Sequence[Event]) -> None:
    """A whole conversation: gapless from 1, times that never fall, the table's fields, one end for each run."""
    assert [event["position"] for event in log] == list(range(1, len(log) + 1))
    assert log[0]["type"] == "conversation.started"
    assert all(earlier["at"] <= later["at"] for earlier, later in pairwise(log))
    for event in log:
        assert AT.fullmatch(event["at"]), event
        assert event.keys() >= FIELDS[event["type"]], event
        assert event.get("by", "anonymous") == "anonymous"
    for generation in {event["generation"] for event in log if "generation" in event}:
        mine = [event["type"] for event in log if event.get("generation") == generation]
        assert mine[0] == "generation.requested"
        assert [kind for kind in mine if kind in TERMINAL] == mine[-1:]
