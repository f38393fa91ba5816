"""The store's values: what is appended, what is read, and what names a place in a stream.

All are immutable and do no I/O. Positions count 1, 2, 3 … in each stream; "after 0" means from the beginning.
Values that exist once for every token are msgspec structs, because a frozen dataclass takes ten times as long to
make; the others are dataclasses.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime
from sys import getsizeof
from typing import Final, Protocol

from msgspec import Struct

ANY: Final = -1
"""Expected position: the stream may be anywhere, and may be new."""
NO_STREAM: Final = 0
"""Expected position: the stream must not exist yet."""
KEY_BYTES: Final = 2_000
"""Most bytes of a key's scope and name together, in UTF-8. An entry of a Postgres index holds at most 2,704."""


class NewEvent(Struct, frozen=True, gc=False):
    """An event to append. `data` is the text of one JSON object and is stored unchanged.

    `tag` is an optional label, by which a reader finds its own events in a stream that it shares with others.
    """

    type: str
    data: str
    tag: str | None = None


class EventHolder(Protocol):
    """Holds events and bounds how many bytes of memory they take."""

    def add_size(self, size: int) -> None:
        """One of its events takes `size` bytes more than before."""


_EVENT_BYTES: Final = 72 + 48 + 32 + 16
"""The struct, its time, its position, its place in a tail. Type and tag are shared with other events."""
_MEMO_BYTES: Final = 184
"""A dict of up to five entries."""


class Event(Struct, eq=False, gc=False):
    """An event at its position. Never changes.

    `at` is UTC, is taken while the stream is locked, and never falls along a stream. `memo` holds what readers
    have derived from the event, such as its encoding, so that all readers of the shared tail derive it once.
    Readers add to it by `memoize`, because `holder` (the tail that holds the event, if any) counts the bytes.
    """

    position: int
    type: str
    at: datetime
    tag: str | None
    data: str
    memo: dict[Hashable, bytes] | None = None
    holder: EventHolder | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Event):
            return NotImplemented
        mine, theirs = ((event.position, event.type, event.at, event.tag, event.data) for event in (self, other))
        return mine == theirs

    def memoize(self, name: Hashable, value: bytes) -> None:
        """Stores a derived value in `memo`. Call it once for each name."""
        size = getsizeof(value)
        if self.memo is None:
            self.memo = {name: value}
            size += _MEMO_BYTES
        else:
            self.memo[name] = value
        if self.holder is not None:
            self.holder.add_size(size)

    @property
    def size(self) -> int:
        """How many bytes of memory the event takes, with its memo."""
        size = _EVENT_BYTES + getsizeof(self.data)
        if self.memo is not None:
            size += _MEMO_BYTES
            for value in self.memo.values():
                size += getsizeof(value)
        return size


class Writer(Struct, frozen=True, gc=False):
    """A fenced writer, and which of its appends this is: number `seq` (1, 2, 3 …) in its `epoch`.

    The same `seq` again returns the positions of the first time, so it is safe to retry an append whose answer was
    lost. Only the newest append can be repeated: an older one is `Fenced`, because its sender has been overtaken.
    """

    name: str
    epoch: int
    seq: int


class Key(Struct, frozen=True, gc=False):
    """An idempotency key: a name that one append claims, in the whole database, in its own transaction.

    A second append with the same key and the same `digest` is a repetition and returns the first one's positions.
    With another digest, or with none, it is `KeyReused`. `seconds` is how long the key is kept; None is for ever.

    Raises `ValueError` for a scope or name that Postgres cannot store or index: with U+0000, with an unpaired
    surrogate, or of more than `KEY_BYTES`. A caller that makes keys from a client's input has to check it first.
    """

    scope: str
    name: str
    digest: bytes | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        size = len(self.scope.encode()) + len(self.name.encode())  # UnicodeEncodeError is a ValueError
        if size > KEY_BYTES or "\0" in self.scope or "\0" in self.name:
            raise ValueError(f"a key of {size} bytes, or with U+0000 in it, cannot be stored")


class Append(Struct, frozen=True, gc=False):
    """One or more events for one stream: all are appended, or none.

    `expected`: the position at which the stream must end, or `ANY`, or `NO_STREAM`. `category`: that of a new
    stream. `keys`: claimed in the same transaction.

    `writer`: the writer that appends. `closes`: a writer that is closed in the same transaction. An append with a
    `writer` may close only that one. An append without one may close any, and is `Fenced` if it is closed already.
    `during`: a writer that must have written and must not be closed; else the append is `Fenced`. It is for those
    who send something to a running writer, and is used without `writer` and `closes`.
    """

    stream: str
    events: tuple[NewEvent, ...]
    expected: int = ANY
    writer: Writer | None = None
    closes: str | None = None
    keys: tuple[Key, ...] = ()
    category: str = ""
    during: str | None = None

    @property
    def checked_writer(self) -> str | None:
        """The name of the writer whose state decides on this append: `writer`, else `closes`, else `during`."""
        if self.writer is not None:
            return self.writer.name
        return self.during if self.closes is None else self.closes


class Appended(Struct, frozen=True, gc=False):
    """Where the events of an append are: at the positions `first` to `last` of `stream`, since `at`.

    `repeated`: an earlier append with the same key or sequence number put them there. Then `stream` is the earlier
    one's, and `at` is None.
    """

    stream: str
    first: int
    last: int
    at: datetime | None
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Head:
    """`position`: that of the newest event. `earliest`: the oldest position that is still stored."""

    position: int
    earliest: int

    @property
    def erased(self) -> bool:
        """Whether the stream had events and has lost all of them."""
        return self.earliest > self.position >= 1


@dataclass(frozen=True, slots=True)
class Slice:
    """The events after a position, the oldest first. `head` and `earliest` are of the same database snapshot."""

    events: Sequence[Event]
    head: int
    earliest: int

    @property
    def erased(self) -> bool:
        """As `Head.erased`."""
        return self.earliest > self.head >= 1


@dataclass(frozen=True, slots=True)
class Place:
    """What a key leads to: the positions of the append that claimed it, and the digest it was claimed with."""

    stream: str
    first: int
    last: int
    digest: bytes | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A stored fold of a stream: `data` (JSON text) is the fold of all events up to `position`."""

    position: int
    data: str


@dataclass(frozen=True, slots=True)
class StreamRow:
    """One stream of a list. `order` is passed as `before` to get the streams after this one in the list."""

    name: str
    order: int
    head: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class OpenWriter:
    """A writer that is not closed. `owner` is the process that wrote last as this writer."""

    stream: str
    name: str
    epoch: int
    owner: int


@dataclass(frozen=True, slots=True)
class WriterState:
    """`released`: the owner holds nothing more for this writer. `owner_alive`: the owner's process is alive."""

    epoch: int
    owner: int
    closed: bool
    released: bool
    owner_alive: bool
