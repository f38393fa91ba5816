"""The states of a generation and the events that move it between them: one table.

Everything that affects the state stands here. An event that is not in the row of the present state is a
fault of whoever appended it, and one lookup finds it.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from server.events import TERMINAL, Type


class Status(StrEnum):
    """What a client is told."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


_ENDS: Final[Mapping[Type, Status]] = {
    Type.GENERATION_COMPLETED: Status.COMPLETED,
    Type.GENERATION_FAILED: Status.FAILED,
    Type.GENERATION_CANCELLED: Status.CANCELLED,
}

MOVES: Final[Mapping[Status, Mapping[Type, Status]]] = {
    Status.QUEUED: {
        Type.GENERATION_STARTED: Status.RUNNING,
        Type.GENERATION_FAILED: Status.FAILED,
        Type.GENERATION_CANCELLED: Status.CANCELLED,
    },
    Status.RUNNING: {Type.GENERATION_STARTED: Status.RUNNING, Type.TOKEN: Status.RUNNING, **_ENDS},
    Status.COMPLETED: {},
    Status.FAILED: {},
    Status.CANCELLED: {},
}

ENDED: Final = frozenset(status for status, moves in MOVES.items() if not moves)
"""The states nothing leads out of."""

assert set(_ENDS) == TERMINAL


class ImpossibleMove(Exception):
    """The log holds an event that the generation's state does not allow. A bug in a writer."""


def move(status: Status, event: Type) -> Status:
    """The state after the event. Raises `ImpossibleMove`."""
    after = MOVES[status].get(event)
    if after is None:
        raise ImpossibleMove(f"{event} cannot happen to a generation that is {status}")
    return after
