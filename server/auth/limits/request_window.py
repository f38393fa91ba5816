"""A moving window: so many requests within any span of so many seconds, and never one more.

The window is kept as at most `PIECES + 2` counts, each with the time of its last request, so it takes the same
memory for twenty requests a second as for a million a minute. A count leaves the window when its last request
does; so up to a tenth of the requests are held against a caller a little longer than they would have to be, and
none for a shorter time. Pure: times are handed in, in seconds on one clock.

(A library would do, but the one for the purpose starts a thread for each request that it counts in memory, reads
the wall clock, and keeps the time of each request.)
"""

from collections import deque
from typing import Final

PIECES: Final = 10


class RequestWindow:
    """One caller's requests. `limit` of them may come within `seconds`."""

    __slots__ = ("_counts", "_taken", "limit", "seconds")

    def __init__(self, limit: int, seconds: float) -> None:
        self.limit = limit
        self.seconds = seconds
        self._taken = 0
        self._counts: deque[list[float]] = deque()  # first request, last request, how many

    def wait(self, now: float) -> float:
        """Seconds until another request may come; 0 for now."""
        self._forget(now)
        if self._taken < self.limit:
            return 0.0
        return self._counts[0][1] + self.seconds - now

    def take(self, now: float) -> None:
        """Counts a request, for which `wait` has said 0."""
        self._taken += 1
        if self._counts and now < self._counts[-1][0] + self.seconds / PIECES:
            self._counts[-1][1] = now
            self._counts[-1][2] += 1
        else:
            self._counts.append([now, now, 1])

    def state(self, now: float) -> tuple[int, float]:
        """How many more may come now, and the seconds until more may than that; 0 if all may."""
        self._forget(now)
        counts = self._counts
        return self.limit - self._taken, counts[0][1] + self.seconds - now if counts else 0.0

    def _forget(self, now: float) -> None:
        counts = self._counts
        # The sum that `wait` and `state` have, too: rounded otherwise, a full window would say "wait 0 seconds".
        while counts and counts[0][1] + self.seconds <= now:
            self._taken -= int(counts.popleft()[2])
