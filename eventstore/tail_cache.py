"""The recent events of each stream, once per process, shared by all its readers.

A tail may only ever say *newer*: an event it holds is in the log, but what it lacks may be there too. It
accepts only the position after its last; at a gap it is dropped and the log is read. Bounded in bytes of memory,
per stream and over all, with what readers keep at the events (`Event.keep`); the stream that was not used for
longest goes first.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from itertools import islice

from eventstore.model import Event

TAIL_BYTES = 1_000
"""What a tail takes beside its events."""


class _Tail:
    """One stream's. `grew` is called by its events when something is kept at them."""

    __slots__ = ("_tails", "events", "size", "stream")

    def __init__(self, tails: "Tails", stream: str) -> None:
        self._tails: Tails | None = tails
        self.events: deque[Event] = deque()
        self.size = TAIL_BYTES
        self.stream = stream

    def add(self, events: Sequence[Event], most: int) -> None:
        for event in events:
            event.tail = self
            self.size += event.size
        self.events.extend(events)
        self._shrink(most)

    def agrees(self, events: Sequence[Event]) -> bool:
        """Whether the newest of these that the tail should hold too is the same there."""
        position = min(events[-1].position, self.events[-1].position)
        place = position - self.events[0].position
        if place < 0:
            return True
        mine, theirs = self.events[place], events[position - events[0].position]
        return mine.at == theirs.at and mine.data == theirs.data

    def _shrink(self, most: int) -> None:
        while self.size > most and len(self.events) > 1:
            gone = self.events.popleft()
            self.size -= gone.size
            gone.tail = None

    def grew(self, size: int) -> None:
        """One of its events takes so many bytes more."""
        tails = self._tails
        if tails is None:
            return
        before = self.size
        self.size += size
        if self.size > tails.stream_bytes:
            self._shrink(tails.stream_bytes)
        tails.size += self.size - before
        if tails.size > tails.total_bytes:
            tails.shrink(self.stream)

    def clear(self) -> None:
        """Nothing holds it any more but its events, as long as readers have these."""
        self._tails = None
        self.events.clear()


class Tails:
    """The tails of all streams that are being written or read here.

    `stream_bytes` bounds one tail, `total_bytes` all of them together.
    """

    def __init__(self, stream_bytes: int, total_bytes: int) -> None:
        self.stream_bytes = stream_bytes
        self.total_bytes = total_bytes
        self._tails: OrderedDict[str, _Tail] = OrderedDict()
        self.size = 0
        self.incarnation = 0  # of the log that the events are of; see `EventStore.incarnation`
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._tails)

    def offer(self, stream: str, events: Sequence[Event]) -> bool:
        """Takes events that are known to be in the log, consecutive and oldest first.

        False where the tail holds other events at their positions. One of both is of a past that the log has left:
        then the tail is dropped, and its readers have to look into the log.
        """
        if not events:
            return True
        tail = self._tails.get(stream)
        if tail is not None:
            last = tail.events[-1].position
            first = events[0].position
            if first > last + 1:
                self.drop(stream)
                tail = None
            elif first <= last:
                if not tail.agrees(events):
                    self.drop(stream)
                    return False
                events = events[last + 1 - first :]
                if not events:
                    return True
        if tail is None:
            tail = self._tails[stream] = _Tail(self, stream)
            self.size += TAIL_BYTES
        else:
            self._tails.move_to_end(stream)
        before = tail.size
        tail.add(events, self.stream_bytes)
        self.size += tail.size - before
        if self.size > self.total_bytes:
            self.shrink(stream)
        return True

    def shrink(self, used: str) -> None:
        """Drops tails until the bound is kept, but not the one that is used just now."""
        while self.size > self.total_bytes and len(self._tails) > 1:
            oldest = next(iter(self._tails))
            if oldest == used:
                self._tails.move_to_end(used)
            else:
                self.drop(oldest)

    def last(self, stream: str) -> int:
        """The position of the newest event that the tail holds; 0 where there is no tail."""
        tail = self._tails.get(stream)
        return 0 if tail is None else tail.events[-1].position

    def after(self, stream: str, position: int, limit: int) -> Sequence[Event]:
        """At most `limit` events right after `position`; none if the tail cannot tell (which is no answer)."""
        tail = self._tails.get(stream)
        if tail is None:
            return ()
        skip = position + 1 - tail.events[0].position
        if skip < 0 or skip >= len(tail.events):
            return ()
        self._tails.move_to_end(stream)
        if skip > len(tail.events) // 2:
            # Readers stand at the end: walk from there, not over the whole tail.
            count = len(tail.events) - skip
            newest = list(islice(reversed(tail.events), count))
            newest.reverse()
            return newest[:limit]
        return list(islice(tail.events, skip, skip + limit))

    def clear(self) -> None:
        """Forgets all tails."""
        for stream in list(self._tails):
            self.drop(stream)

    def drop(self, stream: str) -> None:
        """Forgets the stream's tail; its readers read the log."""
        tail = self._tails.pop(stream, None)
        if tail is not None:
            self.size -= tail.size
            tail.clear()
