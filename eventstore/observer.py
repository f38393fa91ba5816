"""What the store reports: events to an `Observer`, as they happen, and numbers in `StoreStats`, when asked.

`Observer` is told only of what is rare: a commit (not each event), the database going away and coming back. All
other numbers are plain attributes that are counted where something happens, so that an event costs nothing more.
`Health` decides from the results of the calls whether the database is available.

This file knows no metrics library, no log lines and no backend.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import trio

from eventstore.tail_cache import TailCache

MAINTENANCE: Final = frozenset({"trim", "erase_streams", "expire_keys", "save_snapshot"})
"""The calls that maintain the log. If one of them fails, readers and writers may still be well: it may run as
another role, at another address, or wait for a lock that only it needs."""

FORGET_SECONDS: Final = 8.0
"""A call that failed this long ago and was not made again no longer counts as failing: its caller has gone, and
other calls are answered. It is longer than one try takes."""


class Observer:
    """Base class of observers; this one ignores everything.

    The store calls the methods from its own tasks. They must return at once and raise nothing.
    """

    def committed(self, appends: int, events: int, seconds: float) -> None:
        """A batch was committed, `seconds` after it was first sent."""

    def unavailable(self, why: str) -> None:
        """The database has stopped answering. Called once for an outage; `available` ends it."""

    def available(self, seconds: float, failures: int) -> None:
        """The database answers again, after an outage of `seconds` in which `failures` calls failed."""

    def maintenance_failed(self, call: str, why: str) -> None:
        """A call of `MAINTENANCE` fails. Called once until that call succeeds again."""

    def rewound(self, stream: str, seen: int, head: int) -> None:
        """A stream ends at `head`, though the position `seen` was in it. Called at each read that finds it so."""

    def history_changed(self, why: str) -> None:
        """The database is another one, or continues from an earlier state. What was cached of it is dropped."""


class Health:
    """Whether the database answers, by the name of the call.

    A call that fails counts as failing until a call of that name succeeds: an answered read does not mean that
    appends are possible.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._failing: dict[str, float] = {}
        self._failing_maintenance: set[str] = set()
        self._outage_began = 0.0
        self._outage_failures = 0
        self._past_outages = 0.0
        self._answered_at: float | None = None
        self.outages = 0
        self.failures: dict[str, int] = {}
        self.retries: dict[str, int] = {}
        self.repeated = 0

    @property
    def up(self) -> bool:
        """Whether no call fails."""
        return not self._failing

    @property
    def away_seconds(self) -> float:
        """How long all outages took together, the current one included."""
        return self._past_outages + (trio.current_time() - self._outage_began if self._failing else 0.0)

    @property
    def quiet_seconds(self) -> float:
        """Seconds since the last answer; 0 before the first."""
        return 0.0 if self._answered_at is None else trio.current_time() - self._answered_at

    def failed(self, call: str, kind: str, why: str) -> None:
        """The database did not answer the call. `kind`: as `StoreUnavailable.kind`."""
        self.failures[kind] = self.failures.get(kind, 0) + 1
        if call in MAINTENANCE:
            if call not in self._failing_maintenance:
                self._failing_maintenance.add(call)
                self._observer.maintenance_failed(call, why)
            return
        now = trio.current_time()
        first = not self._failing
        self._failing[call] = now
        if first:
            self._outage_began, self._outage_failures = now, 0
            self.outages += 1
            self._observer.unavailable(why)
        self._outage_failures += 1

    def element_failed(self, call: str, kind: str) -> None:
        """One element of a batch was not answered and will be sent again. The others were, so there is no
        outage."""
        self.failures[kind] = self.failures.get(kind, 0) + 1
        self.retries[call] = self.retries.get(call, 0) + 1

    def answered(self, call: str) -> None:
        """The database answered the call, if only with a refusal."""
        if call in MAINTENANCE:
            self._failing_maintenance.discard(call)
            return
        self._answered_at = now = trio.current_time()
        if not self._failing:
            return
        self._failing.pop(call, None)
        for other, at in list(self._failing.items()):
            if now - at > FORGET_SECONDS:
                del self._failing[other]
        if not self._failing:
            seconds = now - self._outage_began
            self._past_outages += seconds
            self._observer.available(seconds, self._outage_failures)


@dataclass(frozen=True, slots=True)
class StoreStats:
    """A store's numbers at one moment. Counts begin at 0 when the store is opened and never fall.

    `waiting` and `refused`, by queue (`appends`, `reads`, `heads`): requests that no batch has taken yet, and
    requests that were refused because too many waited. `readers`: subscriptions. `tail_hits` and `tail_misses`:
    polls of subscriptions that were answered from the tail cache, and polls that read the database. `tail_bytes`:
    the cache's size.

    `up`: no call fails. `failures`, by kind: calls that the database did not answer. `retries`, by call: calls
    that were made again. `repeated`: appends that were in the log already when they were sent (again).
    `away_seconds`: how long all `outages` took together, the current one included. `quiet_seconds`: since the last
    answer.
    """

    waiting: Mapping[str, int]
    refused: Mapping[str, int]
    readers: int
    tail_hits: int
    tail_misses: int
    tail_bytes: int
    up: bool
    outages: int
    away_seconds: float
    quiet_seconds: float
    failures: Mapping[str, int]
    retries: Mapping[str, int]
    repeated: int


def stats(queues: Mapping[str, tuple[int, int]], readers: int, tails: TailCache, health: Health) -> StoreStats:
    """The store's numbers now. `queues`: by name, how many requests wait and how many were refused."""
    return StoreStats(
        waiting={name: waiting for name, (waiting, _) in queues.items()},
        refused={name: refused for name, (_, refused) in queues.items()},
        readers=readers,
        tail_hits=tails.hits,
        tail_misses=tails.misses,
        tail_bytes=tails.size,
        up=health.up,
        outages=health.outages,
        away_seconds=health.away_seconds,
        quiet_seconds=health.quiet_seconds,
        failures=dict(health.failures),
        retries=dict(health.retries),
        repeated=health.repeated,
    )
