"""The store's nouns: what is appended, what is read, what names a place in a stream.

Plain frozen values, no behaviour beyond what their fields say, no I/O. Positions are 1, 2, 3 … per stream;
`after=0` means from the start. Those made for every token are structs: a frozen dataclass takes ten times as long.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from msgspec import Struct

ANY: Final = -1
"""Expected position: wherever the stream is; it may be new."""
NO_STREAM: Final = 0
"""Expected position: the stream must not exist yet."""


class NewEvent(Struct, frozen=True, gc=False):
    """An event to be appended. `data` is the text of one JSON object, kept as it is.

    `tag` is an optional label by which a reader picks its own events out of a shared stream.
    """

    type: str
    data: str
    tag: str | None = None


class Event(Struct, eq=False, gc=False):
    """A fact at its position. Never changes.

    `at` is UTC, taken under the stream's lock, and never falls along a stream. `memo` is where readers keep
    what they made of the event (an encoding, say), so that all readers of the shared tail make it once.
    """

    position: int
    type: str
    at: datetime
    tag: str | None
    data: str
    memo: dict[Hashable, bytes] | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Event):
            return NotImplemented
        mine, theirs = ((event.position, event.type, event.at, event.tag, event.data) for event in (self, other))
        return mine == theirs

    @property
    def size(self) -> int:
        """About how many bytes the event takes in memory."""
        return 400 + 2 * len(self.data)


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
    """

    scope: str
    name: str
    digest: bytes | None = None
    seconds: float | None = None


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
