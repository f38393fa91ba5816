"""The promises of the store as a few dictionaries: the reference that the real backends are compared with.

It is written from the promises, not from the code: keys first, then the writer's fence, then the expected
position.
"""

from dataclasses import dataclass, field

from eventstore import ANY, Append


@dataclass(frozen=True)
class Accepted:
    """The append is in the log, by this call or by an earlier one."""

    stream: str
    first: int
    last: int
    repeated: bool = False


@dataclass(frozen=True)
class Refused:
    """Why the append is refused: `position` (and the head), `key`, `erased`, or the reason of a fence."""

    why: str
    head: int | None = None


@dataclass
class ModelWriter:
    """A writer's newest append, and whether it is closed. `place` is None if it never wrote."""

    epoch: int = 0
    seq: int = 0
    place: Accepted | None = None
    closed: bool = False
    process: int = 0


@dataclass
class ModelStream:
    """Event names from position 1 on; trimmed and erased ones stay here, below `earliest`."""

    names: list[str] = field(default_factory=list)
    earliest: int = 1
    writers: dict[str, ModelWriter] = field(default_factory=dict)
    erased: bool = False

    @property
    def head(self) -> int:
        return len(self.names)


@dataclass
class Model:
    """All streams and all keys."""

    streams: dict[str, ModelStream] = field(default_factory=dict)
    keys: dict[tuple[str, str], tuple[Accepted, bytes | None]] = field(default_factory=dict)

    def head(self, stream: str) -> int:
        """0 where there is no stream."""
        return self.streams[stream].head if stream in self.streams else 0

    def erased(self, stream: str) -> bool:
        """Whether it was there, and is no more."""
        return stream in self.streams and self.streams[stream].erased

    def writer(self, stream: str, name: str) -> ModelWriter | None:
        """None where it was never heard of."""
        return self.streams[stream].writers.get(name) if stream in self.streams else None

    def append(self, append: Append, names: list[str], process: int) -> Accepted | Refused:
        """What must come of it."""
        verdict = self._by_keys(append) or self._by_writer(append) or self._by_position(append)
        if self.erased(append.stream) and not isinstance(verdict, Accepted):
            return Refused("erased")
        if verdict is not None:
            return verdict
        return self.add(append, names, process)

    def add(self, append: Append, names: list[str], process: int) -> Accepted:
        """It stands: at the end of its stream."""
        stream = self.streams.setdefault(append.stream, ModelStream())
        place = Accepted(append.stream, stream.head + 1, stream.head + len(names))
        stream.names += names
        if append.writer is not None:
            mine = stream.writers.setdefault(append.writer.name, ModelWriter())
            mine.epoch, mine.seq, mine.place = append.writer.epoch, append.writer.seq, place
            mine.process = process
        if append.closes is not None:
            stream.writers.setdefault(append.closes, ModelWriter(process=process)).closed = True
        for key in append.keys:
            self.keys[key.scope, key.name] = (place, key.digest)
        return place

    def _by_keys(self, append: Append) -> Accepted | Refused | None:
        earlier = set()
        for key in append.keys:
            if (key.scope, key.name) in self.keys:
                place, digest = self.keys[key.scope, key.name]
                if digest is None or digest != key.digest:
                    return Refused("key")
                earlier.add(place)
        if len(earlier) > 1:
            return Refused("key")
        return as_repeated(earlier.pop()) if earlier else None

    def _by_writer(self, append: Append) -> Accepted | Refused | None:
        name = append.writer.name if append.writer else append.closes or append.during
        known = self.writer(append.stream, name) if name is not None else None
        acting = append.writer
        if known is None and append.during is not None:
            return Refused("unknown")
        if known is None:
            return Refused("sequence") if acting is not None and acting.seq != 1 else None
        if acting is not None and known.place and (acting.epoch, acting.seq) == (known.epoch, known.seq):
            return as_repeated(known.place)
        if known.closed:
            return Refused("closed")
        if acting is None:
            return None
        if acting.epoch < known.epoch:
            return Refused("epoch")
        follows = acting.seq == (known.seq + 1 if acting.epoch == known.epoch else 1)
        return None if follows else Refused("sequence")

    def _by_position(self, append: Append) -> Refused | None:
        head = self.head(append.stream)
        return None if append.expected in (ANY, head) else Refused("position", head)

    def trim(self, stream: str, before: int) -> int:
        """The earliest position that is left."""
        kept = self.streams[stream]
        kept.earliest = max(kept.earliest, min(before, kept.head))
        return kept.earliest

    def erase(self) -> set[str]:
        """Which streams it takes: all that nobody writes to."""
        over = {
            name
            for name, stream in self.streams.items()
            if not stream.erased and all(writer.closed for writer in stream.writers.values())
        }
        for name in over:
            self.streams[name].erased = True
            self.streams[name].writers.clear()
        return over

    def after(self, stream: str, position: int) -> list[str]:
        """The names of all events after a position."""
        return self.streams[stream].names[position:]


def as_repeated(place: Accepted) -> Accepted:
    """The same place, marked as a repetition."""
    return Accepted(place.stream, place.first, place.last, repeated=True)
