"""The interface of a storage backend: `Backend`, and the values that only it and the store exchange.

A backend takes appends and reads in batches. Group commit, the tail cache, subscriptions and retries are built on
top of it once, in `EventStore`, so the in-memory and the Postgres backend pass the same contract tests. A backend
raises `StoreUnavailable` when it cannot answer. It never retries an append by itself, because only its caller
knows that the append may be sent twice.

Below the interface: what group commit has to know of an append, as pure functions. Before a batch: is the append
well formed (`validate`), which appends may not share a batch (`exclusive_names`), how much of a batch it takes
(`weigh`), and by which name the log knows it again if it is sent twice (`repeatable`). After the batch: which
error its caller gets (`refusal`), or which events it made (`committed_events`). The batching itself is
`batcher.Batcher`.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, Protocol
from uuid import uuid4

from msgspec import Struct
from msgspec.structs import replace

from eventstore.errors import Erased, Fenced, KeyReused, StoreError, WrongExpectedPosition
from eventstore.model import (
    Append,
    Event,
    Head,
    Key,
    NewEvent,
    OpenWriter,
    Place,
    Slice,
    Snapshot,
    StreamRow,
    WriterState,
)


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


RETRY_SCOPE: Final = "@once"
RETRY_KEY_SECONDS: Final = 3600.0
"""How long the log keeps the key that `repeatable` makes: longer than any append is retried."""


def validate(append: Append) -> None:
    """Raises `ValueError` for an append that contradicts itself: its author is to blame."""
    writer = append.writer
    if not append.events:
        raise ValueError("an append has at least one event")
    if append.during is not None and (writer is not None or append.closes is not None):
        raise ValueError("an append with `during` has no writer of its own and closes none")
    if writer is None:
        return
    if append.closes not in (None, writer.name):
        raise ValueError("a writer closes itself only")
    if writer.epoch < 0 or writer.seq < 1:
        raise ValueError("a writer's seq counts from 1, its epoch from 0")


def exclusive_names(append: Append) -> Iterator[Hashable]:
    """The names that no other append of the same batch may have: its stream and its keys.

    The log decides on a batch in one statement. Two appends to one stream would both see the head before the first
    of them; and one key that is claimed twice in one INSERT is an error for the whole batch.
    """
    yield append.stream
    for key in append.keys:
        yield key.scope, key.name


def weigh(append: Append) -> int:
    """The append's weight in a batch: its events, or its kilobytes if they are more.

    A batch is one statement, which this process and the database both hold in memory.
    """
    size = 0
    for event in append.events:
        size += len(event.data)
    return max(len(append.events), size // 1024)


def repeatable(append: Append) -> Append:
    """The append with a name by which the log recognises it when it is sent again after a lost answer.

    A writer's append has its sequence number. Any other append gets a key of its own, unless it has one that is
    kept long enough. A key without a digest gets a random one, so that only this very append can repeat it.
    """
    if append.writer is not None and not append.keys:
        return append  # a token: known by its writer's seq
    keys = list(append.keys)
    if append.writer is None and not any(key.seconds is None or key.seconds >= RETRY_KEY_SECONDS for key in keys):
        keys.append(Key(RETRY_SCOPE, uuid4().hex, digest=b"", seconds=RETRY_KEY_SECONDS))
    named = (replace(key, digest=uuid4().bytes) if key.digest is None else key for key in keys)
    return replace(append, keys=tuple(named))


def refusal(append: Append, outcome: Outcome) -> StoreError:
    """The error for an append that the log did not accept."""
    if outcome.at.replace(tzinfo=None) == NEVER:
        return Erased(append.stream)
    if outcome.verdict is Verdict.WRONG_POSITION:
        return WrongExpectedPosition(append.stream, append.expected, outcome.head)
    if outcome.verdict is Verdict.KEY_REUSED:
        return KeyReused(append.stream)
    return Fenced(append.stream, append.checked_writer or "", outcome.verdict.removeprefix("fenced_"))


def committed_events(new: Sequence[NewEvent], first: int, at: datetime) -> list[Event]:
    """The events of an accepted append as the log holds them, from position `first` on, without reading them."""
    return [Event(position, one.type, at, one.tag, one.data) for position, one in enumerate(new, first)]
