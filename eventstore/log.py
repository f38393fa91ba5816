"""What a backend must do: the raw log, in batches, without group commit, tails or subscriptions.

`EventStore` builds those on top, once, for every backend; so the in-memory and the Postgres log pass one
contract suite. A backend raises `StoreUnavailable` when it cannot answer, and never retries an append by
itself: the caller knows which appends are safe to send again.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, Protocol

from msgspec import Struct

from eventstore.errors import StoreError
from eventstore.model import (
    Append,
    Head,
    OpenWriter,
    Place,
    Slice,
    Snapshot,
    StreamRow,
    WriterState,
)


class Verdict(StrEnum):
    """How one append of a batch fared. A refused one never fails its neighbours."""

    APPENDED = "appended"
    REPEATED_KEY = "repeated_key"
    REPEATED_SEQ = "repeated_seq"
    KEY_REUSED = "key_reused"
    WRONG_POSITION = "wrong_position"
    FENCED_CLOSED = "fenced_closed"
    FENCED_EPOCH = "fenced_epoch"
    FENCED_SEQUENCE = "fenced_sequence"
    FENCED_UNKNOWN = "fenced_unknown"


KEYS_AT_ONCE: Final = 1_000
"""How many keys one call removes, about: few enough that nobody waits long for one of them."""

NEVER: Final = datetime.max
"""The time of the next event of a stream that was erased: in no time zone."""


class Outcome(Struct, frozen=True, gc=False):
    """The verdict on one append; `first`/`last` where it stands, `head` as it was before.

    `at` is `NEVER` where it was refused and the stream is erased, whatever the verdict.
    """

    verdict: Verdict
    stream: str
    first: int
    last: int
    at: datetime
    head: int


class ReadQuery(Struct, frozen=True, gc=False):
    """At most `limit` events of `stream` after a position."""

    stream: str
    after: int
    limit: int


class Log(Protocol):
    """A log of streams, and the signs of life of the processes that write to it.

    Where a batch is answered, an element is an error if the database would not take that one at all.
    """

    @property
    def owner(self) -> int:
        """This process's sign of life: a number nobody else has."""

    @property
    def lanes(self) -> int:
        """How many batches of appends it takes side by side, no stream and no key being in two of them."""

    def open(self, hear: "Hear") -> AbstractAsyncContextManager[None]:
        """Runs what the backend runs in the background; `hear` is told of other processes' appends."""

    async def append(self, batch: Sequence[Append]) -> Sequence[Outcome | StoreError]:
        """One transaction. At most one append a stream, no key twice; `StoreUnavailable`: outcome unknown.

        Where a stream is erased, its element is `Erased`, or an outcome that says so by its `at`.
        """

    async def read(self, queries: Sequence[ReadQuery]) -> Sequence[Slice | StoreError | None]:
        """Events and head in one snapshot of the primary; None where there is no such stream."""

    async def heads(self, streams: Sequence[str]) -> Sequence[Head | StoreError | None]: ...

    async def find_key(self, scope: str, name: str) -> Place | None: ...

    async def save_snapshot(self, stream: str, name: str, snapshot: Snapshot) -> None:
        """Nothing, where the stream is not there, or ends before the snapshot."""

    async def load_snapshot(self, stream: str, name: str, at_most: int) -> Snapshot | None: ...

    async def list_streams(self, category: str, before: int | None, limit: int) -> Sequence[StreamRow]:
        """Newest first."""

    async def trim(self, stream: str, before: int) -> Head | None: ...

    async def erase_streams(self, category: str, seconds: float, limit: int) -> Sequence[str]:
        """In one transaction, a short one: so maybe fewer than there are, but not none where there are any."""

    async def expire_keys(self) -> int:
        """In one short transaction: so fewer than `KEYS_AT_ONCE` only where no more are due."""

    async def writer(self, stream: str, name: str) -> WriterState | None: ...

    async def release(self, writers: Sequence[tuple[str, str]]) -> None: ...

    async def closed_by_others(self) -> Sequence[tuple[str, str]]:
        """(stream, writer) of this owner's writers that somebody closed and that are not released."""

    async def open_writers(self) -> Sequence[OpenWriter]:
        """Open writers that are this process's own, or whose owner shows no sign of life."""

    async def clock(self) -> datetime:
        """The clock that `Event.at` is taken from."""

    async def alive(self) -> None:
        """Returns when the primary answered; else `StoreUnavailable`."""

    def announce(self, streams: Iterable[str]) -> None:
        """Tells the other processes that these streams have something newer. A hint: may be lost."""

    def announce_close(self, stream: str, writer: str) -> None:
        """Tells the other processes that a writer was closed. A hint: may be lost."""


@dataclass(frozen=True, slots=True)
class Hear:
    """What a backend calls when it hears of something. All are hints and return at once.

    `newer(streams)`: those streams may have more; None means any (after a gap in hearing).
    `closed()`: some writer was closed by another process. `moved(why)`: the log is another one now, or has gone on
    from an earlier state of itself; what was read of it before may not be in it.
    """

    newer: Callable[[Iterable[str] | None], None]
    closed: Callable[[], None]
    moved: Callable[[str], None] = lambda _: None
