"""The states of a generation and of a tool call, and the events that lead from one to the next: two tables.

Everything that affects a state stands here. An event that is not in the row of the present state is a bug of the
writer that appended it, and one lookup finds it: `InvalidTransition`.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from server.event_types import TERMINAL, EventType


class Status(StrEnum):
    """What a client is told of a generation. `waiting`: for a person's decision on a call, or a larger budget."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class CallStatus(StrEnum):
    """And of a tool call."""

    PROPOSED = "proposed"
    APPROVED = "approved"
    REJECTED = "rejected"
    MODIFIED = "modified"
    STARTED = "started"
    FINISHED = "finished"


Transitions = Mapping[EventType, Status]

_TO_AN_END: Final[Transitions] = {
    EventType.GENERATION_COMPLETED: Status.COMPLETED,
    EventType.GENERATION_FAILED: Status.FAILED,
    EventType.GENERATION_CANCELLED: Status.CANCELLED,
}
_BY_CLIENTS = (
    *(EventType.TOOL_APPROVAL, EventType.TOOL_DECIDED),
    *(EventType.TOOL_FINISHED, EventType.STEERING_CHANGED, EventType.BUDGET_RAISED),
)
"""Events that clients' commands append, whether a worker runs the generation at that moment or not."""
_STREAMED = (EventType.TOKEN, EventType.REASONING, EventType.TOOL_ARGUMENTS)
_STEPS = (EventType.GENERATION_STARTED, EventType.STEP_FINISHED, EventType.TOOL_PROPOSED, EventType.TOOL_STARTED)
_REPORTS = (EventType.PROGRESS, EventType.RESULT, EventType.BUDGET_REACHED, EventType.MESSAGE_APPLIED)
_WHILE_RUNNING: Final[Transitions] = {
    **dict.fromkeys((*_STREAMED, *_STEPS, *_REPORTS, *_BY_CLIENTS), Status.RUNNING),
    EventType.GENERATION_INTERRUPTED: Status.QUEUED,
    **_TO_AN_END,
}

TRANSITIONS: Final[Mapping[Status, Transitions]] = {
    Status.QUEUED: {
        **dict.fromkeys((*_BY_CLIENTS, EventType.GENERATION_INTERRUPTED), Status.QUEUED),
        EventType.GENERATION_STARTED: Status.RUNNING,
        EventType.GENERATION_FAILED: Status.FAILED,
        EventType.GENERATION_CANCELLED: Status.CANCELLED,
    },
    Status.RUNNING: _WHILE_RUNNING,
    Status.WAITING: _WHILE_RUNNING,
    Status.COMPLETED: {},
    Status.FAILED: {},
    Status.CANCELLED: {},
}
"""`running` here stands for two: `next_status` makes it `waiting` where a call, or the run, waits for a person."""

ENDED: Final = frozenset(status for status, moves in TRANSITIONS.items() if not moves)
"""The states that no event leads out of."""

assert set(_TO_AN_END) == TERMINAL

DECISIONS: Final[Mapping[str, CallStatus]] = {
    "approved": CallStatus.APPROVED,
    "rejected": CallStatus.REJECTED,
    "modified": CallStatus.MODIFIED,
}

CALL_TRANSITIONS: Final[Mapping[CallStatus, frozenset[CallStatus]]] = {
    # FINISHED at once, without STARTED: the tool is unknown, or the arguments do not fit.
    CallStatus.PROPOSED: frozenset({*DECISIONS.values(), CallStatus.STARTED, CallStatus.FINISHED}),
    # FINISHED at once: the server that runs the next attempt has no such tool any more.
    CallStatus.APPROVED: frozenset({CallStatus.STARTED, CallStatus.FINISHED}),
    CallStatus.MODIFIED: frozenset({CallStatus.STARTED, CallStatus.FINISHED}),
    CallStatus.STARTED: frozenset({CallStatus.FINISHED}),
    CallStatus.REJECTED: frozenset(),
    CallStatus.FINISHED: frozenset(),
}


class InvalidTransition(Exception):
    """The log holds an event that the state of the generation or the call does not allow. A bug in a writer."""


def next_status(status: Status, event: EventType, *, waits: bool = False) -> Status:
    """The status after an event. `waits`: a person has to act before it can go on. Raises `InvalidTransition`."""
    after = TRANSITIONS[status].get(event)
    if after is None:
        raise InvalidTransition(f"{event} cannot happen to a generation that is {status}")
    return Status.WAITING if waits and after is Status.RUNNING else after


def next_call_status(status: CallStatus, after: CallStatus) -> CallStatus:
    """The call's status, once it may become `after`. Raises `InvalidTransition`."""
    if after not in CALL_TRANSITIONS[status]:
        raise InvalidTransition(f"a call that is {status} cannot be {after}")
    return after
