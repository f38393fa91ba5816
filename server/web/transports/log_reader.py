"""Reading a log for a client, on any transport: a conversation's log, or one generation's part of it.

Owns how a client's request for a log is resolved to a place in a stream, and which of the stream's events the
client gets. A generation's log is the log of its conversation, filtered to the generation's events and ended by
its terminal event; its cursors are positions of the conversation. For a client that wants some types of events
only, the position moves on past the others. Must not know frames or HTTP.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType

from eventstore import Event, Head, Slice, Trimmed
from server.event_types import TERMINAL
from server.runtime.conversation_service import ConversationService
from server.runtime.stream_drain import StreamLease
from server.web.transports.read_params import TypeFilter, resolve_cursor

SCAN = 500
"""Events per read of the store where a filter may drop some of them."""


@dataclass(frozen=True, slots=True)
class LogSelection:
    """Which events of which stream a client gets: a log that exists, from a cursor that is valid.

    `cursor` is the client's position, `start` the position after which reading begins: a generation's log has
    nothing before its request. `head` is that of the stream. `nothing_follows`: no event that the client wants can
    come after the cursor. `end` is the position of the generation's terminal event; None where it is not known,
    and for a conversation. `behind` is by how many events the cursor of a resuming client is behind the head; None
    for a client that starts at the beginning.
    """

    stream: str
    generation: str | None
    cursor: int
    start: int
    head: int
    nothing_follows: bool
    end: int | None = None
    behind: int | None = None
    types: TypeFilter | None = None

    def includes(self, event: Event) -> bool:
        """Whether the event belongs to this log, and the client wants its type."""
        return (self.generation is None or event.tag == self.generation) and (
            self.types is None or event.type in self.types
        )

    def ends(self, event: Event) -> bool:
        """Whether this is the terminal event of the generation whose log is read."""
        return self.generation is not None and event.type in TERMINAL and event.tag == self.generation


async def find_conversation(
    runtime: ConversationService, name: str, cursor: int, types: TypeFilter | None = None
) -> LogSelection:
    """A conversation's log. Raises `Problem` 404, 400 `cursor_ahead`; `Trimmed`, `Erased`."""
    head = await runtime.head(name)
    after = _require_kept(name, resolve_cursor(cursor, head.position), head)
    return LogSelection(
        name, None, after, after, head.position, nothing_follows=False, behind=_behind(cursor, head), types=types
    )


async def find_generation(
    runtime: ConversationService, name: str, cursor: int, types: TypeFilter | None = None
) -> LogSelection:
    """A generation's log. Raises as `find_conversation`."""
    place = await runtime.place(name)
    head = await runtime.head_of(place.stream)
    after = resolve_cursor(cursor, head.position)
    start = _require_kept(place.stream, max(after, place.last - 1), head)
    if types is not None:
        await runtime.look(name)  # makes `ended_at` know of an end that is past the cursor
    selection = LogSelection(
        place.stream,
        name,
        after,
        start,
        head.position,
        nothing_follows=await runtime.ended_by(name, after),
        end=runtime.ended_at(name),
        behind=_behind(cursor, head),
        types=types,
    )
    return await _skip_unwanted_rest(runtime, selection)


async def _skip_unwanted_rest(runtime: ConversationService, selection: LogSelection) -> LogSelection:
    """Moves `start` of an ended log to the first event that the client wants; `nothing_follows` if there is none.

    The cursor of a client that excludes the type of the terminal event never reaches the end of the log. Without
    this search it would be answered with an empty stream, would reconnect, and so on for ever.
    """
    if selection.types is None or selection.end is None or selection.nothing_follows:
        return selection
    position = selection.start
    while position < selection.end:
        found = await runtime.store.read(selection.stream, position, SCAN, seen=position)
        for event in found.events:
            if event.position > selection.end:
                break
            if selection.includes(event):
                return replace(selection, start=event.position - 1)
        if not found.events:
            break
        position = found.events[-1].position
    return replace(selection, start=selection.end, nothing_follows=True)


def _behind(cursor: int, head: Head) -> int | None:
    return head.position - cursor if cursor > 0 else None


def _require_kept(stream: str, start: int, head: Head) -> int:
    if start < head.earliest - 1:
        raise Trimmed(stream, start, head.earliest, head.position)
    return start


class LogReader:
    """Reads what was selected. A context manager. `closed`: the generation's terminal event was passed."""

    __slots__ = ("_selection", "_subscription", "closed")

    def __init__(self, runtime: ConversationService, selection: LogSelection) -> None:
        self._selection = selection
        self._subscription = runtime.store.subscribe(selection.stream, selection.start, seen=selection.head)
        self.closed = selection.nothing_follows

    def __enter__(self) -> "LogReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the subscription."""
        self._subscription.__exit__(None, None, None)

    async def next(self, stay: StreamLease, until: float) -> Sequence[Event]:
        """Waits for at least one event of this log; returns none at `until` (by trio's clock) or the stay's end.

        Also returns, perhaps without events, once the log is `closed`. A cancelled call loses no event. Raises
        `StoreUnavailable`, `Trimmed`, `Erased`.
        """
        subscription = self._subscription
        while not self.closed:
            if not await stay.sleep(subscription.waker, until):
                return ()
            if events := self._wanted(await subscription.poll()):
                return events
        return ()

    def _wanted(self, scanned: Sequence[Event]) -> Sequence[Event]:
        selection = self._selection
        if selection.generation is None and selection.types is None:
            return scanned
        found = []
        for event in scanned:
            if event.position > selection.cursor and selection.includes(event):
                found.append(event)
            if selection.ends(event):
                self.closed = True
                break
        return found


async def read_slice(runtime: ConversationService, selection: LogSelection, position: int, limit: int) -> Slice:
    """The next events of the selection's stream after a position, with the primary's head.

    At most `limit` where the client wants every event; else `SCAN`, of which the caller drops what is not wanted.
    """
    every = selection.generation is None and selection.types is None
    seen = max(selection.head, position)
    return await runtime.store.read(selection.stream, position, limit if every else SCAN, seen=seen)
