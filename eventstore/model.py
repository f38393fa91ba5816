"""The store's nouns: what is appended, what is read, what names a place in a stream.

Plain frozen values, no behaviour beyond what their fields say, no I/O. Positions are 1, 2, 3 … per stream;
`after=0` means from the start. Those made for every token are structs: a frozen dataclass takes ten times as long.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime
from sys import getsizeof
from typing import Final, Protocol

from msgspec import Struct

ANY: Final = -1
"""Expected position: wherever the stream is; it may be new."""
NO_STREAM: Final = 0
"""Expected position: the stream must not exist yet."""
KEY_BYTES: Final = 2_000
"""Of a key's scope and name, in UTF-8: an entry of the index holds 2,704 bytes at most."""


class NewEvent(Struct, frozen=True, gc=False):
    """An event to be appended. `data` is the text of one JSON object, kept as it is.

    `tag` is an optional label by which a reader picks its own events out of a shared stream.
    """

    type: str
    data: str
    tag: str | None = None


class Holder(Protocol):
    """Something that holds events within a bound of bytes."""

    def grew(self, size: int) -> None:
        """One of them takes so many bytes more."""


_EVENT_BYTES: Final = 72 + 48 + 32 + 16
"""Itself, its time, its position, its place in a tail; type and tag are shared with other events."""
_MEMO_BYTES: Final = 184
"""A dict of up to five."""


class Event(Struct, eq=False, gc=False):
    """A fact at its position. Never changes.

    `at` is UTC, taken under the stream's lock, and never falls along a stream. `memo` is where readers keep
    what they made of the event (an encoding, say), so that all readers of the shared tail make it once: by `keep`,
    for then the tail counts it. `tail` is the one that holds the event.
    """

    position: int
    type: str
    at: datetime
    tag: str | None
    data: str
    memo: dict[Hashable, bytes] | None = None
    tail: Holder | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Event):
            return NotImplemented
        mine, theirs = ((event.position, event.type, event.at, event.tag, event.data) for event in (self, other))
        return mine == theirs

    def keep(self, name: Hashable, made: bytes) -> None:
        """Keeps what was made of the event, once under each name."""
        size = getsizeof(made)
        if self.memo is None:
            self.memo = {name: made}
            size += _MEMO_BYTES
        else:
            self.memo[name] = made
        if self.tail is not None:
            self.tail.grew(size)

    @property
    def size(self) -> int:
        """How many bytes the event takes in memory, with what is kept at it."""
        size = _EVENT_BYTES + getsizeof(self.data)
        if self.memo is not None:
            size += _MEMO_BYTES
            for made in self.memo.values():
                size += getsizeof(made)
        return size


class Writer(Struct, frozen=True, gc=False):
    """Who appends, fenced: the `seq`-th append (1, 2, 3 …) of this writer in this epoch.

    The same `seq` again gets the first positions again, so a retry after an unknown commit is safe. Only the
    newest can be repeated: an older one is answered `Fenced`, for whoever sends it has been overtaken.
    """

    name: str
    epoch: int
    seq: int


class Key(Struct, frozen=True, gc=False):
    """A name that one append claims, database-wide, in its own transaction.

    With a `digest` the same claim again is a repetition and gets the first positions; another digest, or a
    key without one, is `KeyReused`. `seconds` is how long it is kept, None for ever.

    Raises `ValueError` for a scope or name that Postgres could not store or index: U+0000, unpaired surrogates,
    more than `KEY_BYTES` of both together. Whoever makes keys of what clients send has to check that first.
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
    """One or more events for one stream, all or nothing.

    `writer` appends as that fenced writer; `closes` closes a writer in the same transaction: its own, or,
    where `writer` is None, somebody else's, which is refused (`Fenced`) once that one is closed.
    `during` names a writer for whoever speaks to it without being it (so no `writer` and no `closes`): refused
    (`Fenced`) once that one is closed, and where it has never written, for nobody could close it.
    """

    stream: str
    events: tuple[NewEvent, ...]
    expected: int = ANY
    writer: Writer | None = None
    closes: str | None = None
    keys: tuple[Key, ...] = ()
    category: str = ""
    during: str | None = None


class Appended(Struct, frozen=True, gc=False):
    """Where the events are: positions `first` to `last` of `stream`.

    `repeated` says that an earlier append with the same key or sequence put them there; `stream` is then that
    one's stream, and `at` is None.
    """

    stream: str
    first: int
    last: int
    at: datetime | None
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Head:
    """Where a stream ends and what is left of it: `earliest` is the oldest position still there."""

    position: int
    earliest: int

    @property
    def erased(self) -> bool:
        """Whether nothing is left, of a stream in which there was something."""
        return self.earliest > self.position >= 1


@dataclass(frozen=True, slots=True)
class Slice:
    """Events after a position, oldest first, and the stream's head as it was in the same snapshot."""

    events: Sequence[Event]
    head: int
    earliest: int

    @property
    def erased(self) -> bool:
        """As of a `Head`."""
        return self.earliest > self.head >= 1


@dataclass(frozen=True, slots=True)
class Place:
    """Where a key points: the positions its append took, and the digest it was claimed with.

    A key without a digest was given one that nobody else has.
    """

    stream: str
    first: int
    last: int
    digest: bytes | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A stored fold: `data` (JSON text) is the fold of all events up to `position`."""

    position: int
    data: str


@dataclass(frozen=True, slots=True)
class StreamRow:
    """A stream in a list. `order` is what the next page is asked with."""

    name: str
    order: int
    head: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class OpenWriter:
    """A writer that has not been closed, and the owner that opened it."""

    stream: str
    name: str
    epoch: int
    owner: int


@dataclass(frozen=True, slots=True)
class WriterState:
    """`released`: the owner holds nothing more for this writer. `owner_alive`: its sign of life is there."""

    epoch: int
    owner: int
    closed: bool
    released: bool
    owner_alive: bool
