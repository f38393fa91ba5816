"""How often a client may do what costs this server more than it costs the client: a bucket that fills with time.

Pure: the time is an argument.
"""


class Allowance:
    """`burst` at once, then `rate` a second."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, burst: float, rate: float) -> None:
        self._burst = burst
        self._rate = rate
        self._left = burst
        self._at: float | None = None

    def spend(self, now: float) -> bool:
        """Takes one; False when none is left. `now` is in seconds and never falls."""
        if self._at is not None:
            self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
