"""The steps of a simulation in which people decide on tool calls. Hypothesis draws them, decision_simulation runs
them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Decide:
    """A client decides on the `call`-th call proposed so far, having seen what `seen` says.

    `key` numbers its idempotency key, 0: none.
    """

    slot: int
    call: int
    decision: Literal["approved", "rejected", "modified"]
    seen: Literal["right", "wrong", "another's", "his own"]
    amount: int
    key: int


@dataclass(frozen=True)
class RepeatCommand:
    """A client sends an earlier command again, maybe to another process, as after a reconnect."""

    slot: int
    which: int


@dataclass(frozen=True)
class Crash:
    """A process dies after this number of steps of any task; another process takes its place."""

    slot: int
    steps: int


@dataclass(frozen=True)
class AppearDead:
    """A process lives on, but the others can no longer see that it does."""

    slot: int


@dataclass(frozen=True)
class Stop:
    """A process is told to stop: it hands its runs over and ends."""

    slot: int


@dataclass(frozen=True)
class Cancel:
    """A client cancels the run."""

    slot: int


Act = Decide | RepeatCommand | Crash | AppearDead | Stop | Cancel


@dataclass(frozen=True)
class Plan:
    """`turns` are the calls of each model turn as (tool, amount); the `acts` are `pauses` apart."""

    seed: int
    kind: Literal["model", "workflow"]
    turns: Sequence[Sequence[tuple[str, int]]]
    acts: Sequence[tuple[float, Act]]
