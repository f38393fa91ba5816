"""How long a run waits between two looks at its upstream: not at all, unless the process runs short of CPU.

What a token costs is mostly the going round: read, append, wake, send. A process that is nearly busy lets a few
tokens of a run come together and takes them round in one go, each still an event of its own; so the answers that
are under way slow each other down by some milliseconds, where they would else fall behind without a bound. The
first token never waits. It knows no upstream and no log.
"""

import time
from collections.abc import Callable

import trio

EVERY = 0.1
"""Seconds between two looks at the clock of the CPU."""
BUSY, AT_EASE = 0.86, 0.72
"""Shares of one core: from there on pauses grow, below that they shrink. Python runs on one."""
LEAST, MOST = 0.004, 0.050
"""Seconds. Below the least there is no pause; above the most, people see it."""
GROW, SHRINK = 1.25, 0.9
MEMORY = 0.5
"""How much of what was seen before counts in the next figure."""


class Pace:
    """One process's. `pause` is in seconds, 0 for none; `busy` the share of a core it used lately."""

    def __init__(self, cpu: Callable[[], float] = time.process_time) -> None:
        self.pause = 0.0
        self.busy = 0.0
        self._cpu = cpu

    async def run(self) -> None:
        """Looks, for ever."""
        now, spent = trio.current_time(), self._cpu()
        while True:
            await trio.sleep(EVERY)
            before, spent_before = now, spent
            now, spent = trio.current_time(), self._cpu()
            self.look((spent - spent_before) / (now - before))

    def look(self, share: float) -> None:
        """So much of a core was used since the last look. Changes `pause`."""
        self.busy = MEMORY * self.busy + (1 - MEMORY) * share
        if self.busy > BUSY:
            self.pause = min(MOST, max(LEAST, self.pause * GROW))
        elif self.busy < AT_EASE:
            self.pause *= SHRINK
            if self.pause < LEAST:
                self.pause = 0.0

    async def rest(self, since: float) -> None:
        """Waits until the pause since then (on trio's clock) is over. No checkpoint where there is no pause."""
        if self.pause:
            await trio.sleep_until(since + self.pause)
