"""Reading a log for a client: a subscription, seen as the conversation's events or as one generation's.

The one thing all transports share. A generation's log is its conversation's, filtered to its events and ended
by its terminal one; cursors are the conversation's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from eventstore import Event, Head, Subscription, Trimmed
from server.events import TERMINAL
from server.runtime.runtime import Runtime
from server.web.transports.read_params import resolve_cursor


@dataclass(frozen=True, slots=True)
class Source:
    """A log that is known to exist, and the place in it that a cursor named.

    `cursor` is the client's, `start` where looking begins (a generation's log has nothing before its
    request), `over` that the generation has ended at or before the cursor. `behind` is how many events the
    conversation's head is past the cursor of a client that comes back; None for one that starts.
    """

    stream: str
    generation: str | None
    cursor: int
    start: int
    head: int
    over: bool
    behind: int | None = None


async def find_conversation(runtime: Runtime, name: str, cursor: int) -> Source:
    """A conversation's log. Raises `Problem` 404, 400 `cursor_ahead`; `Trimmed`, `Erased`."""
    head = await runtime.head(name)
    after = _kept(name, resolve_cursor(cursor, head.position), head)
    return Source(name, None, after, after, head.position, False, _behind(cursor, head))


async def find_generation(runtime: Runtime, name: str, cursor: int) -> Source:
    """A generation's log. Raises as `find_conversation`."""
    place = await runtime.place(name)
    _, found, head = await runtime.look(name)
    after = resolve_cursor(cursor, head.position)
    start = _kept(place.stream, max(after, place.last - 1), head)
    over = found.ended and after >= found.position
    return Source(place.stream, name, after, start, head.position, over, _behind(cursor, head))


def _behind(cursor: int, head: Head) -> int | None:
    return head.position - cursor if cursor > 0 else None


def _kept(stream: str, start: int, head: Head) -> int:
    if start < head.earliest - 1:
        raise Trimmed(stream, start, head.earliest, head.position)
    return start


class Reading:
    """A source being read. A context manager. `closed`: the generation's last event was returned."""

    def __init__(self, runtime: Runtime, source: Source) -> None:
        self._generation = source.generation
        self._subscription: Subscription = runtime.store.subscribe(source.stream, source.start)
        self._cursor = source.cursor
        self.closed = source.over

    def __enter__(self) -> "Reading":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._subscription.__exit__(kind, error, trace)

    async def next(self) -> Sequence[Event]:
        """Waits for at least one event of this log. Raises `StoreUnavailable`, `Trimmed`, `Erased`."""
        while True:
            found = self._pick(await self._subscription.next())
            if found:
                return found

    def _pick(self, scanned: Sequence[Event]) -> Sequence[Event]:
        if self._generation is None:
            return scanned
        found = [event for event in scanned if event.tag == self._generation and event.position > self._cursor]
        if found and found[-1].type in TERMINAL:
            self.closed = True
        return found
