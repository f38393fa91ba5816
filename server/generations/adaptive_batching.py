"""How long a run waits before it reads its provider again: not at all, unless this process runs short of CPU.

Most of what a token costs is its round: read, append, wake the readers, send. When the process is nearly busy, a
pause before each read lets a few tokens of a run come together and go round at once; each stays an event of its
own. All answers then slow down by some milliseconds, where they would otherwise fall behind without a bound. The
first token of an answer never waits. Must not know a provider or the log.
"""

import time
from collections.abc import Callable

import trio

SAMPLE_SECONDS = 0.1
"""Between two readings of the CPU clock."""
HIGH_LOAD, LOW_LOAD = 0.86, 0.72
"""Shares of one core: above the first the pause grows, below the second it shrinks. Python runs on one core."""
MIN_PAUSE, MAX_PAUSE = 0.004, 0.050
"""Seconds. A shorter pause would gain nothing; people would see a longer one."""
GROWTH, DECAY = 1.25, 0.9
SMOOTHING = 0.5
"""The weight of earlier samples in the smoothed load."""


class AdaptiveBatching:
    """The pause of one process. `pause` is in seconds, 0 for none; `load` the share of a core it used lately."""

    def __init__(self, cpu: Callable[[], float] = time.process_time) -> None:
        self.pause = 0.0
        self.load = 0.0
        self._cpu = cpu

    async def run(self) -> None:
        """Samples the CPU clock every `SAMPLE_SECONDS`, for ever."""
        now, spent = trio.current_time(), self._cpu()
        while True:
            await trio.sleep(SAMPLE_SECONDS)
            before, spent_before = now, spent
            now, spent = trio.current_time(), self._cpu()
            self.update((spent - spent_before) / (now - before))

    def update(self, share: float) -> None:
        """Takes one sample, the share of a core used since the one before, and adapts `pause`."""
        self.load = SMOOTHING * self.load + (1 - SMOOTHING) * share
        if self.load > HIGH_LOAD:
            self.pause = min(MAX_PAUSE, max(MIN_PAUSE, self.pause * GROWTH))
        elif self.load < LOW_LOAD:
            self.pause *= DECAY
            if self.pause < MIN_PAUSE:
                self.pause = 0.0

    async def wait(self, since: float) -> None:
        """Waits until `pause` seconds after `since`, a time of trio's clock.

        No checkpoint where there is no pause.
        """
        if self.pause:
            await trio.sleep_until(since + self.pause)
