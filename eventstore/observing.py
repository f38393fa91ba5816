"""What a store tells whoever watches it: a few moments as they happen, and figures when they are asked for.

`Observer` is told of what is rare: a commit (not an event), the database going away and coming back. All else
is plain numbers, counted where it happens and read when somebody looks (`EventStore.figures`), so that an event
costs nothing. It knows no metrics library, no log lines and no backend.
"""

from typing import Final

import trio

MAINTENANCE: Final = frozenset({"trim", "erase_streams", "expire_keys", "save_snapshot"})
"""The calls that keep the log tidy. That one of them fails says nothing of the log's readers and writers: it
may run as another role, on another address, or wait for a lock that only it needs."""

FORGET_SECONDS = 8.0
"""A kind of call that failed and was not made again for so long, longer than one try takes, counts no more as
failing: whoever asked has gone, and others are answered."""


class Observer:
    """Told by the store, in its own tasks: be quick and raise nothing. This one heeds nothing; subclass it."""

    def committed(self, appends: int, events: int, seconds: float) -> None:
        """A batch is durable; `seconds` from when it was sent, tries that failed included."""

    def away(self, why: str) -> None:
        """The database does not answer any more. Said once, then `back`."""

    def back(self, seconds: float, failures: int) -> None:
        """It answers again, after so many seconds and failed calls."""

    def neglected(self, call: str, why: str) -> None:
        """A call of `MAINTENANCE` fails. Said once, until it succeeds; the rest of the store may be well."""

    def rewound(self, stream: str, seen: int, head: int) -> None:
        """A stream ends at `head`, though `seen` was in it. Said at each look that meets it."""

    def moved(self, why: str) -> None:
        """The database is another one now, or has gone on from an earlier state: what was held of it is
        forgotten."""


class Health:
    """Whether the database answers, by the kind of call: one that fails is not made good by another's answer."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._failing: dict[str, float] = {}
        self._neglected: set[str] = set()
        self._away_since = 0.0
        self._away_before = 0.0
        self._failed_now = 0
        self._answered_at: float | None = None
        self.outages = 0
        self.failures: dict[str, int] = {}
        self.retries: dict[str, int] = {}
        self.repeated = 0

    @property
    def up(self) -> bool:
        """Whether nothing fails."""
        return not self._failing

    @property
    def away_seconds(self) -> float:
        """All outages together, with the one under way."""
        return self._away_before + (trio.current_time() - self._away_since if self._failing else 0.0)

    @property
    def quiet_seconds(self) -> float:
        """Since the last answer; 0 before the first."""
        return 0.0 if self._answered_at is None else trio.current_time() - self._answered_at

    def failed(self, call: str, kind: str, why: str) -> None:
        """A call was not answered."""
        self.failures[kind] = self.failures.get(kind, 0) + 1
        if call in MAINTENANCE:
            if call not in self._neglected:
                self._neglected.add(call)
                self._observer.neglected(call, why)
            return
        now = trio.current_time()
        first = not self._failing
        self._failing[call] = now
        if first:
            self._away_since, self._failed_now = now, 0
            self.outages += 1
            self._observer.away(why)
        self._failed_now += 1

    def put_off(self, call: str, kind: str) -> None:
        """One of a batch was not answered, and is asked again; the database is there, for the others were."""
        self.failures[kind] = self.failures.get(kind, 0) + 1
        self.retries[call] = self.retries.get(call, 0) + 1

    def answered(self, call: str) -> None:
        """A call was answered, be it with a refusal."""
        if call in MAINTENANCE:
            self._neglected.discard(call)
            return
        self._answered_at = now = trio.current_time()
        if not self._failing:
            return
        self._failing.pop(call, None)
        for other, at in list(self._failing.items()):
            if now - at > FORGET_SECONDS:
                del self._failing[other]
        if not self._failing:
            seconds = now - self._away_since
            self._away_before += seconds
            self._observer.back(seconds, self._failed_now)
