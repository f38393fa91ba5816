"""One attempt at a generation, as its process has it: what to play, and what came of it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from server.generation.figures import Figures
from server.generation.scripts import Script
from server.generation.state import Generation

EPOCH = 1
"""That of the request, which is also the first attempt's."""


async def at_once() -> None:
    """The turn of one that waits for nobody."""
    await trio.lowlevel.checkpoint()


@dataclass(eq=False, slots=True)
class Attempt:
    """`found` is the generation as it was requested or taken over. `turn` returns when it may start.

    `epoch` and `position` are those of its writer's last append: its request's, or the one with which it was
    taken over. `begun`: its `generation.started` is in the log. `in_line`: it waits for its turn.
    """

    found: Generation
    script: Script
    turn: Callable[[], Awaitable[None]] = at_once
    number: int = 1
    epoch: int = EPOCH
    position: int = 0
    begun: bool = False
    in_line: bool = False
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    done: trio.Event = field(default_factory=trio.Event)
    figures: Figures = field(default_factory=Figures)
    stopped_by: str | None = None

    @property
    def generation(self) -> str:
        """Its id."""
        return self.found.id

    @property
    def conversation(self) -> str:
        """Its stream."""
        return self.found.conversation

    @property
    def waits(self) -> bool:
        """Whether nothing is done for it just now: it waits for people, or for its turn."""
        return self.in_line or self.figures.only_waits

    @property
    def resumable(self) -> bool:
        """Whether another attempt may follow this one."""
        return self.found.may_follow(self.number if self.begun else self.number - 1)
