"""Random commands for two processes on one log, relative to what the log holds, so that most of them hit
something.

A command is drawn as a choice ("the next sequence", "one too far") and becomes concrete when its turn comes.
"""

from dataclasses import dataclass

from hypothesis import strategies as st

from eventstore import ANY, Append, Key, Writer
from tests.eventstore.reference_model import Model
from tests.eventstore.sample_events import sample_event

STREAMS, WRITERS, KEYS = ("a", "b", "c"), ("v", "w"), ("k1", "k2", "k3", "k4")


@dataclass(frozen=True)
class DrawnAppend:
    """An append; `expected`, `epoch` and `seq` are relative to what the log holds."""

    process: int
    stream: str
    count: int
    expected: int | None
    writer: str | None
    epoch: int
    seq: int
    closes: bool
    speaks: bool
    keys: tuple[tuple[str, bytes | None], ...]

    def append(self, model: Model, prefix: str, names: list[str]) -> Append:
        """As it is sent now."""
        stream = prefix + self.stream
        known = model.writer(stream, self.writer) if self.writer else None
        writer = None
        if self.writer is not None and self.epoch > -9:
            epoch = max(0, (known.epoch if known else 1) + self.epoch)
            seq = max(1, (known.seq + 1 if known and self.epoch == 0 else 1) + self.seq)
            writer = Writer(self.writer, epoch, seq)
        during = self.writer if self.speaks and writer is None else None
        closes = self.writer if self.closes or writer is None else None
        closes = closes if during is None else None
        expected = ANY if self.expected is None else max(0, model.head(stream) + self.expected)
        keys = tuple(Key(prefix, name, digest) for name, digest in self.keys)
        return Append(stream, tuple(map(sample_event, names)), expected, writer, closes, keys, prefix, during)


@dataclass(frozen=True)
class Burst:
    """Concurrent appends without conditions: (process, stream, events)."""

    puts: tuple[tuple[int, str, int], ...]


@dataclass(frozen=True)
class Trim:
    """Removes the events before a position this far into the stream."""

    stream: str
    share: float


@dataclass(frozen=True)
class Erase:
    """Erases all streams that nobody writes to."""

    process: int


@dataclass(frozen=True)
class Read:
    """Reads after a position this far into the stream, or a little past its head."""

    process: int
    stream: str
    share: float
    limit: int


@dataclass(frozen=True)
class Subscribe:
    """Begins to follow from there."""

    process: int
    stream: str
    share: float


@dataclass(frozen=True)
class Poll:
    """Lets one of the subscriptions look once."""

    which: int


Command = DrawnAppend | Burst | Trim | Erase | Read | Subscribe | Poll

process = st.integers(0, 1)
stream = st.sampled_from(STREAMS)
share = st.sampled_from([0.0, 0.3, 0.6, 0.9, 1.0, 1.0, 1.2])
digest = st.sampled_from([b"1", b"1", b"2", None])


def some_keys(number: int) -> st.SearchStrategy[tuple[tuple[str, bytes | None], ...]]:
    """That many different keys, each with or without a digest."""
    key = st.tuples(st.sampled_from(KEYS), digest)
    return st.lists(key, min_size=number, max_size=number, unique_by=lambda key: key[0]).map(tuple)


puts = st.builds(
    DrawnAppend,
    process=process,
    stream=stream,
    count=st.integers(1, 3),
    expected=st.sampled_from([None, None, None, 0, 0, -1, 1, -99]),
    writer=st.sampled_from([None, *WRITERS]),
    epoch=st.sampled_from([0, 0, 0, 0, 0, 0, 1, -1, -9, -9]),
    seq=st.sampled_from([0, 0, 0, 0, 0, -1, -2, 1]),
    closes=st.sampled_from([False] * 7 + [True]),
    speaks=st.booleans(),
    keys=st.sampled_from([0, 0, 0, 1, 2]).flatmap(some_keys),
)
bursts = st.lists(st.tuples(process, stream, st.integers(1, 3)), min_size=2, max_size=8).map(tuple).map(Burst)
others: dict[str, st.SearchStrategy[Command]] = {
    "trim": st.builds(Trim, stream, share),
    "erase": st.builds(Erase, process),
    "look": st.builds(Read, process, stream, share, st.integers(1, 6)),
    "subscribe": st.builds(Subscribe, process, stream, share),
    "follow": st.builds(Poll, st.integers(0, 5)),
    "burst": bursts,
}
kinds = st.sampled_from(["put", *others] + ["put"] * 7 + [kind for kind in others if kind != "erase"] * 2)
commands: st.SearchStrategy[list[Command]] = st.lists(
    kinds.flatmap(lambda kind: others.get(kind, puts)), min_size=10, max_size=50
)
