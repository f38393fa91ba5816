"""What may happen while people decide on tool calls, as values that a test draws and a world carries out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Decide:
    """Somebody decides on the `call`-th call there is by then, having seen what `seen` says; `key` numbers his
    command, 0 for one without a key."""

    slot: int
    call: int
    decision: Literal["approved", "rejected", "modified"]
    seen: Literal["right", "wrong", "another's", "his own"]
    amount: int
    key: int


@dataclass(frozen=True)
class Again:
    """An earlier command comes once more, maybe by another process, as after a reconnect."""

    slot: int
    which: int


@dataclass(frozen=True)
class Crash:
    """A process dies so many steps of any tasks from now; another one takes its place."""

    slot: int
    steps: int


@dataclass(frozen=True)
class Hide:
    """A process lives, but is taken for dead."""

    slot: int


@dataclass(frozen=True)
class Stop:
    """A process is told to stop: it hands its runs over, and ends."""

    slot: int


@dataclass(frozen=True)
class Cancel:
    """Somebody has had enough."""

    slot: int


Act = Decide | Again | Crash | Hide | Stop | Cancel


@dataclass(frozen=True)
class Plan:
    """`turns` are the calls of each turn, (tool, amount) each; `acts` come `pauses` apart."""

    seed: int
    kind: Literal["model", "workflow"]
    turns: Sequence[Sequence[tuple[str, int]]]
    acts: Sequence[tuple[float, Act]]
