"""The recent events of each stream in memory, once per process, shared by all readers.

The cache may only ever say that something *is* in the log: it holds nothing that is not committed, but it may lack
events, so "nothing here" is no answer. A tail takes only events that directly follow its last one; after a gap it
is dropped, and readers read the log.

It is bounded in bytes of memory, in each stream and in all, with what readers memoize at the events. The stream
that was not used for longest is dropped first. It knows no database.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from itertools import islice
from typing import Final

from eventstore.model import Event

TAIL_BYTES: Final = 1_000
"""What a tail takes besides its events."""


class _StreamTail:
    """The newest events of one stream, without a gap."""

    __slots__ = ("_cache", "events", "size", "stream")

    def __init__(self, cache: "TailCache", stream: str) -> None:
        self._cache: TailCache | None = cache
        self.events: deque[Event] = deque()
        self.size = TAIL_BYTES
        self.stream = stream

    def append(self, events: Sequence[Event], most_bytes: int) -> None:
        for event in events:
            event.holder = self
            self.size += event.size
        self.events.extend(events)
        self._shrink(most_bytes)

    def agrees_with(self, events: Sequence[Event]) -> bool:
        """Whether the newest position that both cover holds the same event here and there."""
        position = min(events[-1].position, self.events[-1].position)
        index = position - self.events[0].position
        if index < 0:
            return True
        mine, theirs = self.events[index], events[position - events[0].position]
        return mine.at == theirs.at and mine.data == theirs.data

    def _shrink(self, most_bytes: int) -> None:
        while self.size > most_bytes and len(self.events) > 1:
            oldest = self.events.popleft()
            self.size -= oldest.size
            oldest.holder = None

    def add_size(self, size: int) -> None:
        """A reader memoized `size` bytes at one of the events."""
        cache = self._cache
        if cache is None:
            return
        before = self.size
        self.size += size
        if self.size > cache.stream_bytes:
            self._shrink(cache.stream_bytes)
        cache.size += self.size - before
        if cache.size > cache.total_bytes:
            cache.shrink(self.stream)

    def discard(self) -> None:
        """Takes it out of the cache's accounts. Readers may go on using events that they hold."""
        self._cache = None
        self.events.clear()


class TailCache:
    """The tails of all streams that this process writes or reads.

    `stream_bytes` bounds one tail, `total_bytes` all of them together.
    """

    def __init__(self, stream_bytes: int, total_bytes: int) -> None:
        self.stream_bytes = stream_bytes
        self.total_bytes = total_bytes
        self._tails: OrderedDict[str, _StreamTail] = OrderedDict()
        self.size = 0
        self.incarnation = 0  # see `EventStore.incarnation`
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        """The number of streams that have a tail."""
        return len(self._tails)

    def offer(self, stream: str, events: Sequence[Event]) -> bool:
        """Takes events that are known to be in the log, consecutive, the oldest first.

        False if the tail holds other events at these positions: the log has gone back to an earlier state and then
        on again, and one of the two is of the past that it has left. Then the tail is dropped, and its readers
        must read the log.
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
                if not tail.agrees_with(events):
                    self.drop(stream)
                    return False
                events = events[last + 1 - first :]
                if not events:
                    return True
        if tail is None:
            tail = self._tails[stream] = _StreamTail(self, stream)
            self.size += TAIL_BYTES
        else:
            self._tails.move_to_end(stream)
        before = tail.size
        tail.append(events, self.stream_bytes)
        self.size += tail.size - before
        if self.size > self.total_bytes:
            self.shrink(stream)
        return True

    def shrink(self, in_use: str) -> None:
        """Drops the least recently used tails until `total_bytes` is kept, but never that of stream `in_use`."""
        while self.size > self.total_bytes and len(self._tails) > 1:
            oldest = next(iter(self._tails))
            if oldest == in_use:
                self._tails.move_to_end(in_use)
            else:
                self.drop(oldest)

    def last(self, stream: str) -> int:
        """The position of the newest event in the stream's tail; 0 without a tail."""
        tail = self._tails.get(stream)
        return 0 if tail is None else tail.events[-1].position

    def after(self, stream: str, position: int, limit: int) -> Sequence[Event]:
        """At most `limit` events directly after `position`. None means that the tail lacks them, not that the log
        does."""
        tail = self._tails.get(stream)
        if tail is None:
            return ()
        skip = position + 1 - tail.events[0].position
        if skip < 0 or skip >= len(tail.events):
            return ()
        self._tails.move_to_end(stream)
        if skip > len(tail.events) // 2:
            # Most readers are near the end: step back from there instead of over the whole tail.
            count = len(tail.events) - skip
            newest = list(islice(reversed(tail.events), count))
            newest.reverse()
            return newest[:limit]
        return list(islice(tail.events, skip, skip + limit))

    def clear(self) -> None:
        """Drops all tails."""
        for stream in list(self._tails):
            self.drop(stream)

    def drop(self, stream: str) -> None:
        """Drops the stream's tail, so that its readers read the log."""
        tail = self._tails.pop(stream, None)
        if tail is not None:
            self.size -= tail.size
            tail.discard()
