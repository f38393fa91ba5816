"""The interface of a storage backend: `Backend`, and the values that only it and the store exchange.

A backend takes appends and reads in batches. Group commit, the tail cache, subscriptions and retries are built on
top of it once, in `EventStore`, so the in-memory and the Postgres backend pass the same contract tests. A backend
raises `StoreUnavailable` when it cannot answer. It never retries an append by itself, because only its caller
knows that the append may be sent twice.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, Protocol

from msgspec import Struct

from eventstore.errors import StoreError
from eventstore.model import Append, Head, OpenWriter, Place, Slice, Snapshot, StreamRow, WriterState


class Verdict(StrEnum):
    """What became of one append of a batch. A refused append never makes another one of its batch fail.

    `REPEATED_*`: it was in the log already. `WRONG_POSITION`: as `WrongExpectedPosition`. `FENCED_*`: as the
    reasons of `Fenced`.
    """

    APPENDED = "appended"
    REPEATED_KEY = "repeated_key"
    REPEATED_SEQ = "repeated_seq"
    KEY_REUSED = "key_reused"
    WRONG_POSITION = "wrong_position"
    FENCED_CLOSED = "fenced_closed"
    FENCED_EPOCH = "fenced_epoch"
    FENCED_SEQUENCE = "fenced_sequence"
    FENCED_UNKNOWN = "fenced_unknown"


EXPIRE_LIMIT: Final = 1_000
"""Most keys that one call of `expire_keys` removes: few enough that no append waits long for one of them."""

NEVER: Final = datetime.max
"""`Outcome.at` of an append to an erased stream. It has no time zone, so it cannot be compared with a real
time."""


class Outcome(Struct, frozen=True, gc=False):
    """What became of one append. `first` to `last`: where its events are; 0 if it was refused.

    `stream` is where they are: with `REPEATED_KEY` it may be another one than the append's. `head` is the position
    of the append's stream before it. `at` is `NEVER` if the append was refused and its stream is erased, whatever
    the verdict.
    """

    verdict: Verdict
    stream: str
    first: int
    last: int
    at: datetime
    head: int


class ReadQuery(Struct, frozen=True, gc=False):
    """At most `limit` events of `stream` after the position `after`."""

    stream: str
    after: int
    limit: int


class Backend(Protocol):
    """One process's access to a log of streams.

    A method that answers a batch may return an error for a single element, which the database would not take.
    """

    @property
    def owner(self) -> int:
        """The number of this process: it is stored with its writers, and no other living process has it."""

    @property
    def parallel_appends(self) -> int:
        """How many batches of appends it takes at the same time. No two of them have a stream or a key in
        common."""

    def open(self, listener: "Listener") -> AbstractAsyncContextManager[None]:
        """Runs the backend's background tasks. `listener` is told of what other processes append."""

    async def append(self, batch: Sequence[Append]) -> Sequence[Outcome | StoreError]:
        """Appends a batch in one transaction. The batch has at most one append for a stream, and no key twice.

        For an erased stream the element is `Erased`, or an outcome with `at=NEVER`. After `StoreUnavailable` it is
        not known whether the batch was committed.
        """

    async def read(self, queries: Sequence[ReadQuery]) -> Sequence[Slice | StoreError | None]:
        """Reads events and head from one snapshot of the primary. None: there is no such stream."""

    async def heads(self, streams: Sequence[str]) -> Sequence[Head | StoreError | None]:
        """The heads of streams, read from the primary. None: there is no such stream."""

    async def find_key(self, scope: str, name: str) -> Place | None:
        """As `EventStore.find_key`."""

    async def save_snapshot(self, stream: str, name: str, snapshot: Snapshot) -> None:
        """Stores a snapshot. Does nothing if the stream does not exist or ends before the snapshot's position."""

    async def load_snapshot(self, stream: str, name: str, at_most: int) -> Snapshot | None:
        """As `EventStore.load_snapshot`."""

    async def list_streams(self, category: str, before: int | None, limit: int) -> Sequence[StreamRow]:
        """As `EventStore.list_streams`: the newest first."""

    async def trim(self, stream: str, before: int) -> Head | None:
        """As `EventStore.trim`. None: there is no such stream."""

    async def erase_streams(self, category: str, seconds: float, limit: int) -> Sequence[str]:
        """Erases streams in one short transaction: perhaps fewer than are due, but none only if none is due."""

    async def expire_keys(self) -> int:
        """Removes expired keys in one short transaction. Fewer than `EXPIRE_LIMIT`: no more were due."""

    async def writer(self, stream: str, name: str) -> WriterState | None:
        """As `EventStore.writer`."""

    async def release(self, writers: Sequence[tuple[str, str]]) -> None:
        """As `EventStore.release`."""

    async def closed_by_others(self) -> Sequence[tuple[str, str]]:
        """(stream, writer) of this process's writers that are closed but not released."""

    async def open_writers(self) -> Sequence[OpenWriter]:
        """The open writers of this process, and those of processes that are not alive."""

    async def clock(self) -> datetime:
        """The clock that `Event.at` is taken from."""

    async def alive(self) -> None:
        """Returns once the primary has answered."""

    def notify_newer(self, streams: Iterable[str]) -> None:
        """Notifies the other processes that these streams have newer events. The notification may be lost."""

    def notify_closed(self, stream: str, writer: str) -> None:
        """Notifies the other processes that a writer was closed. The notification may be lost."""


@dataclass(frozen=True, slots=True)
class Listener:
    """The callbacks for what a backend learns about other processes. Each returns at once; none is a promise.

    `newer(streams)`: these streams may have newer events; None means any stream, after a gap in listening.
    `closed()`: some writer may have been closed by another process. `history_changed(why)`: the log is another
    one, or continues from an earlier state, so that what was read before may not be in it any more.
    """

    newer: Callable[[Iterable[str] | None], None]
    closed: Callable[[], None]
    history_changed: Callable[[str], None] = lambda _: None
