"""The recent events of each stream, once per process, shared by all its readers.

A tail may only ever say *newer*: an event it holds is in the log, but what it lacks may be there too. It
accepts only the position after its last; at a gap it is dropped and the log is read. Bounded in bytes, per
stream and over all; the stream that was quiet longest goes first.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from itertools import islice

from eventstore.model import Event


class _Tail:
    __slots__ = ("events", "size")

    def __init__(self) -> None:
        self.events: deque[Event] = deque()
        self.size = 0

    def add(self, events: Sequence[Event], most: int) -> None:
        self.events.extend(events)
        for event in events:
            self.size += event.size
        while self.size > most and len(self.events) > 1:
            self.size -= self.events.popleft().size


class Tails:
    """The tails of all streams that are being written or read here.

    `stream_bytes` bounds one tail, `total_bytes` all of them together.
    """

    def __init__(self, stream_bytes: int, total_bytes: int) -> None:
        self._stream_bytes = stream_bytes
        self._total_bytes = total_bytes
        self._tails: OrderedDict[str, _Tail] = OrderedDict()
        self.size = 0
        self.hits = 0
        self.misses = 0

    def offer(self, stream: str, events: Sequence[Event]) -> None:
        """Takes events that are known to be in the log, consecutive and oldest first."""
        if not events:
            return
        tail = self._tails.get(stream)
        if tail is not None:
            last = tail.events[-1].position
            first = events[0].position
            if first > last + 1:
                self.drop(stream)
                tail = None
            elif first <= last:
                events = events[last + 1 - first :]
                if not events:
                    return
        if tail is None:
            tail = self._tails[stream] = _Tail()
        self._tails.move_to_end(stream)
        before = tail.size
        tail.add(events, self._stream_bytes)
        self.size += tail.size - before
        while self.size > self._total_bytes and len(self._tails) > 1:
            self.drop(next(iter(self._tails)))

    def after(self, stream: str, position: int, limit: int) -> Sequence[Event]:
        """At most `limit` events right after `position`; none if the tail cannot tell (which is no answer)."""
        tail = self._tails.get(stream)
        if tail is None:
            return ()
        skip = position + 1 - tail.events[0].position
        if skip < 0 or skip >= len(tail.events):
            return ()
        if skip > len(tail.events) // 2:
            # Readers stand at the end: walk from there, not over the whole tail.
            count = len(tail.events) - skip
            newest = list(islice(reversed(tail.events), count))
            newest.reverse()
            return newest[:limit]
        return list(islice(tail.events, skip, skip + limit))

    def drop(self, stream: str) -> None:
        """Forgets the stream's tail; its readers read the log."""
        tail = self._tails.pop(stream, None)
        if tail is not None:
            self.size -= tail.size
