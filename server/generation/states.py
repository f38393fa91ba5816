"""The states of a generation, and of a tool call in it, and the events that move them: two tables.

Everything that affects a state stands here. An event that is not in the row of the present state is a fault of
whoever appended it, and one lookup finds it.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from server.events import TERMINAL, Type


class Status(StrEnum):
    """What a client is told of a generation. `waiting`: for a person's decision on a call."""

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


Moves = Mapping[Type, Status]

_ENDS: Final[Moves] = {
    Type.GENERATION_COMPLETED: Status.COMPLETED,
    Type.GENERATION_FAILED: Status.FAILED,
    Type.GENERATION_CANCELLED: Status.CANCELLED,
}
_TOLD = (Type.TOOL_DECIDED, Type.TOOL_FINISHED, Type.STEERING_CHANGED)
"""What others tell a generation, whether a worker drives it just then or not."""
_SAID = (Type.TOKEN, Type.REASONING, Type.TOOL_ARGUMENTS)
_DONE = (Type.GENERATION_STARTED, Type.STEP_FINISHED, Type.TOOL_PROPOSED, Type.TOOL_STARTED)
_SHOWN = (Type.PROGRESS, Type.RESULT)
_DRIVEN: Final[Moves] = {
    **dict.fromkeys((*_SAID, *_DONE, *_SHOWN, *_TOLD), Status.RUNNING),
    Type.GENERATION_INTERRUPTED: Status.QUEUED,
    **_ENDS,
}

MOVES: Final[Mapping[Status, Moves]] = {
    Status.QUEUED: {
        **dict.fromkeys((*_TOLD, Type.GENERATION_INTERRUPTED), Status.QUEUED),
        Type.GENERATION_STARTED: Status.RUNNING,
        Type.GENERATION_FAILED: Status.FAILED,
        Type.GENERATION_CANCELLED: Status.CANCELLED,
    },
    Status.RUNNING: _DRIVEN,
    Status.WAITING: _DRIVEN,
    Status.COMPLETED: {},
    Status.FAILED: {},
    Status.CANCELLED: {},
}
"""`running` here is one of two: it is `waiting` where a call waits for its decision (`move` tells them apart)."""

ENDED: Final = frozenset(status for status, moves in MOVES.items() if not moves)
"""The states nothing leads out of."""

assert set(_ENDS) == TERMINAL

DECISIONS: Final[Mapping[str, CallStatus]] = {
    "approved": CallStatus.APPROVED,
    "rejected": CallStatus.REJECTED,
    "modified": CallStatus.MODIFIED,
}

CALL_MOVES: Final[Mapping[CallStatus, frozenset[CallStatus]]] = {
    # To "finished" at once where nothing could be run: an unknown tool, arguments that do not fit.
    CallStatus.PROPOSED: frozenset({*DECISIONS.values(), CallStatus.STARTED, CallStatus.FINISHED}),
    # And here where the attempt that would run it has no such tool any more.
    CallStatus.APPROVED: frozenset({CallStatus.STARTED, CallStatus.FINISHED}),
    CallStatus.MODIFIED: frozenset({CallStatus.STARTED, CallStatus.FINISHED}),
    CallStatus.STARTED: frozenset({CallStatus.FINISHED}),
    CallStatus.REJECTED: frozenset(),
    CallStatus.FINISHED: frozenset(),
}


class ImpossibleMove(Exception):
    """The log holds an event that the generation's state does not allow. A bug in a writer."""


def move(status: Status, event: Type, *, waits: bool = False) -> Status:
    """The state after the event; `waits`: a call waits for its decision then. Raises `ImpossibleMove`."""
    after = MOVES[status].get(event)
    if after is None:
        raise ImpossibleMove(f"{event} cannot happen to a generation that is {status}")
    return Status.WAITING if waits and after is Status.RUNNING else after


def move_call(status: CallStatus, after: CallStatus) -> CallStatus:
    """The call's state after the move. Raises `ImpossibleMove`."""
    if after not in CALL_MOVES[status]:
        raise ImpossibleMove(f"a call that is {status} cannot be {after}")
    return after
