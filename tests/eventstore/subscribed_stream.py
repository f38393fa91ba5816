"""One stream behind a subscription: a log to read, the shared tail and the wake-ups, with a hook into each read.

There are two writers: `own` appends pass through the tail, as this process's do; `foreign` ones only stand in
the log.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import trio

from eventstore import Event, Slice, Subscription
from eventstore.subscription import Wakeups
from eventstore.tail_cache import TailCache

AT = datetime(2026, 1, 1, tzinfo=UTC)


def no_hook() -> None:
    """A hook that does nothing."""


@dataclass
class HookedStream:
    """The stream `s`. `error`: the next read raises it."""

    tails: TailCache = field(default_factory=lambda: TailCache(10**6, 10**6))
    wakeups: Wakeups = field(default_factory=Wakeups)
    events: list[Event] = field(default_factory=list)
    reads: list[int] = field(default_factory=list)
    before_read: Callable[[], None] = no_hook
    after_read: Callable[[], None] = no_hook
    error: Exception | None = None
    untold: bool = False

    def _more(self, count: int) -> list[Event]:
        first = len(self.events) + 1
        new = [Event(position, "noted", AT, None, "{}") for position in range(first, first + count)]
        self.events += new
        return new

    def own(self, count: int = 1) -> None:
        """This process appended."""
        self.tails.offer("s", self._more(count))
        self.wakeups.wake(["s"], in_tail=True)

    def foreign(self, count: int = 1) -> None:
        """Another process appended; nobody here has heard of it."""
        self._more(count)
        self.untold = True

    def hint(self) -> None:
        """A notification arrived."""
        self.untold = False
        self.wakeups.wake(["s"])

    def let_happen(self) -> None:
        """What waits for a read happens now."""
        for hook in (self.before_read, self.after_read):
            hook()
        self.before_read = self.after_read = no_hook

    async def read(self, stream: str, after: int, limit: int, *, seen: int = 0) -> Slice:
        """As the store reads, the head reached going into the tail."""
        assert stream == "s"
        assert seen <= self.newest
        self.reads.append(after)
        hook, self.before_read = self.before_read, no_hook
        hook()
        found = Slice(self.events[after : after + limit], len(self.events), 1)
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        hook, self.after_read = self.after_read, no_hook
        hook()
        await trio.sleep(0.001)  # the answer is on its way
        if found.events and found.events[-1].position == found.head:
            self.tails.offer("s", found.events)
        return found

    def subscribe(self, after: int = 0, limit: int = 100) -> Subscription:
        """From a position on."""
        return Subscription("s", after, limit=limit, read=self.read, tails=self.tails, wakeups=self.wakeups)

    @property
    def newest(self) -> int:
        """The head."""
        return len(self.events)
