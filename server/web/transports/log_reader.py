"""Reading a log for a client: a subscription, seen as the conversation's events or as one generation's.

The one thing all transports share. A generation's log is its conversation's, filtered to its events and ended
by its terminal one; cursors are the conversation's. A reader that wants only some types gets those, and its
position goes on as if all had come. It knows no frames and no HTTP.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType

from eventstore import Event, Head, Slice, Trimmed
from server.events import TERMINAL
from server.runtime.runtime import Runtime
from server.runtime.stream_drain import Stay
from server.web.transports.read_params import TypeFilter, resolve_cursor

SCAN = 500
"""Events read at once where not all of them may be wanted."""


@dataclass(frozen=True, slots=True)
class Source:
    """A log that is known to exist, and the place in it that a cursor named.

    `cursor` is the client's, `start` where looking begins (a generation's log has nothing before its
    request), `over` that nothing the reader wants can follow. `end` is the position of the generation's terminal
    event, None where this is not known, and for a conversation. `behind` is how many events the conversation's
    head is past the cursor of a client that comes back; None for one that starts.
    """

    stream: str
    generation: str | None
    cursor: int
    start: int
    head: int
    over: bool
    end: int | None = None
    behind: int | None = None
    types: TypeFilter | None = None

    def wants(self, event: Event) -> bool:
        """Whether the event belongs to this log, and the reader wants its type."""
        return (self.generation is None or event.tag == self.generation) and (
            self.types is None or event.type in self.types
        )

    def ends(self, event: Event) -> bool:
        """Whether this is the terminal event of the generation that is read."""
        return self.generation is not None and event.type in TERMINAL and event.tag == self.generation


async def find_conversation(runtime: Runtime, name: str, cursor: int, types: TypeFilter | None = None) -> Source:
    """A conversation's log. Raises `Problem` 404, 400 `cursor_ahead`; `Trimmed`, `Erased`."""
    head = await runtime.head(name)
    after = _kept(name, resolve_cursor(cursor, head.position), head)
    return Source(name, None, after, after, head.position, over=False, behind=_behind(cursor, head), types=types)


async def find_generation(runtime: Runtime, name: str, cursor: int, types: TypeFilter | None = None) -> Source:
    """A generation's log. Raises as `find_conversation`."""
    place = await runtime.place(name)
    head = await runtime.head_of(place.stream)
    after = resolve_cursor(cursor, head.position)
    start = _kept(place.stream, max(after, place.last - 1), head)
    if types is not None:
        await runtime.look(name)  # whether it has ended counts, not only whether it had at the cursor
    source = Source(
        place.stream,
        name,
        after,
        start,
        head.position,
        over=await runtime.ended_by(name, after),
        end=runtime.ended_at(name),
        behind=_behind(cursor, head),
        types=types,
    )
    return await _without_unwanted_rest(runtime, source)


async def _without_unwanted_rest(runtime: Runtime, source: Source) -> Source:
    """Moves `start` of an ended log to the first event that is wanted; `over` where there is none.

    A client that leaves the terminal event's type out has a cursor before it for ever. It has to be told that
    nothing follows all the same, or it would come back for an empty stream again and again.
    """
    if source.types is None or source.end is None or source.over:
        return source
    position = source.start
    while position < source.end:
        found = await runtime.store.read(source.stream, position, SCAN, seen=position)
        for event in found.events:
            if event.position > source.end:
                break
            if source.wants(event):
                return replace(source, start=event.position - 1)
        if not found.events:
            break
        position = found.events[-1].position
    return replace(source, start=source.end, over=True)


def _behind(cursor: int, head: Head) -> int | None:
    return head.position - cursor if cursor > 0 else None


def _kept(stream: str, start: int, head: Head) -> int:
    if start < head.earliest - 1:
        raise Trimmed(stream, start, head.earliest, head.position)
    return start


class LogReader:
    """A source being read. A context manager. `closed`: the generation's last event has been passed."""

    __slots__ = ("_source", "_subscription", "closed")

    def __init__(self, runtime: Runtime, source: Source) -> None:
        self._source = source
        self._subscription = runtime.store.subscribe(source.stream, source.start, seen=source.head)
        self.closed = source.over

    def __enter__(self) -> "LogReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives the subscription's place back."""
        self._subscription.__exit__(None, None, None)

    async def next(self, stay: Stay, until: float) -> Sequence[Event]:
        """Waits for at least one event of this log; none when `until` (by trio's clock), or the stay's end, has
        come.

        Also returns, perhaps with none, once `closed`. Cancelling it loses nothing. Raises `StoreUnavailable`,
        `Trimmed`, `Erased`.
        """
        subscription = self._subscription
        while not self.closed:
            if not await stay.sleep(subscription.waker, until):
                return ()
            if events := self._wanted(await subscription.look()):
                return events
        return ()

    def _wanted(self, scanned: Sequence[Event]) -> Sequence[Event]:
        source = self._source
        if source.generation is None and source.types is None:
            return scanned
        found = []
        for event in scanned:
            if event.position > source.cursor and source.wants(event):
                found.append(event)
            if source.ends(event):
                self.closed = True
                break
        return found


async def read_slice(runtime: Runtime, source: Source, position: int, limit: int) -> Slice:
    """What stands behind a position of the source's stream, with the primary's head."""
    whole = source.generation is None and source.types is None
    return await runtime.store.read(source.stream, position, limit if whole else SCAN, seen=source.head)
