"""What group commit has to know of an append. Pure functions over `Append` and `Outcome`, no I/O.

Before a batch: is the append well formed (`validate`), which appends may not share a batch (`exclusive_names`),
how much of a batch it takes (`weigh`), and by which name the log knows it again if it is sent twice
(`repeatable`). After the batch: which error its caller gets (`refusal`), or which events it made
(`committed_events`).

The batching itself is `batcher.Batcher`; whether an append is accepted is decided by the backend.
"""

from collections.abc import Hashable, Iterator, Sequence
from datetime import datetime
from typing import Final
from uuid import uuid4

from msgspec.structs import replace

from eventstore.backend import NEVER, Outcome, Verdict
from eventstore.errors import Erased, Fenced, KeyReused, StoreError, WrongExpectedPosition
from eventstore.model import Append, Event, Key, NewEvent

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
