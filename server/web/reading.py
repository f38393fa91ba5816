"""Reading a log for a client: a subscription, seen as the conversation's events or as one generation's.

The one thing all transports share. A generation's log is its conversation's, filtered to its events and ended
by its terminal one; cursors are the conversation's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from eventstore import Event, Subscription, Trimmed
from server.events import TERMINAL
from server.runtime.runtime import Runtime
from server.web.cursor import resolve_cursor


@dataclass(frozen=True, slots=True)
class Source:
    """A log that is known to exist, and the place in it that a cursor named.

    `cursor` is the client's, `start` where looking begins (a generation's log has nothing before its
    request), `over` that the generation has ended at or before the cursor.
    """

    stream: str
    generation: str | None
    cursor: int
    start: int
    head: int
    over: bool


async def find_conversation(runtime: Runtime, name: str, cursor: int) -> Source:
    """A conversation's log. Raises `Problem` 404, 400 `cursor_ahead`; `Trimmed`."""
    state = await runtime.conversation(name)
    return await _source(runtime, name, None, cursor, state.position)


async def find_generation(runtime: Runtime, name: str, cursor: int) -> Source:
    """A generation's log. Raises as `find_conversation`."""
    place = await runtime.place(name)
    state, found = await runtime.generation(name)
    end = found.position if found.ended else None
    source = await _source(runtime, state.id, name, cursor, state.position, place.last - 1)
    if end is not None and source.cursor >= end:
        return Source(source.stream, name, source.cursor, source.start, source.head, over=True)
    return source


async def _source(
    runtime: Runtime, stream: str, generation: str | None, cursor: int, head: int, least: int = 0
) -> Source:
    after = resolve_cursor(cursor, head)
    start = max(after, least)
    kept = await runtime.store.head(stream)
    if start < kept.earliest - 1:
        raise Trimmed(stream, start, kept.earliest, kept.position)
    return Source(stream, generation, after, start, head, over=False)


class Reading:
    """A source being read. A context manager.

    `position` is how far the log was scanned, `closed` that the generation's last event was returned.
    """

    def __init__(self, runtime: Runtime, source: Source) -> None:
        self._generation = source.generation
        self._subscription: Subscription = runtime.store.subscribe(source.stream, source.start)
        self._cursor = source.cursor
        self._position = source.cursor
        self.closed = source.over

    def __enter__(self) -> "Reading":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._subscription.__exit__(kind, error, trace)

    @property
    def position(self) -> int:
        """How far the log was scanned: never before the client's own cursor."""
        return max(self._position, self._cursor)

    async def next(self) -> Sequence[Event]:
        """Waits for at least one event of this log. Raises `StoreUnavailable`, `Trimmed`."""
        while True:
            found = self._pick(await self._subscription.next())
            if found:
                return found

    async def look(self) -> tuple[Sequence[Event], bool]:
        """The next events, maybe none, and whether the primary says that nothing is behind them."""
        scanned = await self._subscription.look()
        if not scanned:
            return (), True
        return self._pick(scanned), False

    def _pick(self, scanned: Sequence[Event]) -> Sequence[Event]:
        self._position = scanned[-1].position
        if self._generation is None:
            return scanned
        found = [event for event in scanned if event.tag == self._generation and event.position > self._cursor]
        if found and found[-1].type in TERMINAL:
            self.closed = True
            self._position = found[-1].position
        return found
