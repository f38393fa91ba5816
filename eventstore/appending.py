"""What an append means to the group commit: what it excludes, weighs, is known by, and became. Pure.

And what is said to its caller where it contradicts itself, or was refused.
"""

from collections.abc import Hashable, Iterator, Sequence
from datetime import datetime
from typing import Final
from uuid import uuid4

from msgspec.structs import replace

from eventstore.errors import Erased, Fenced, KeyReused, StoreError, WrongExpectedPosition
from eventstore.log import NEVER, Outcome, Verdict
from eventstore.model import Append, Event, Key, NewEvent

ONCE_SCOPE: Final = "@once"
ONCE_SECONDS: Final = 3600.0
"""How long an append that names nothing of its own is known by a key made for it: longer than any retry."""


def exclusive_names(append: Append) -> Iterator[Hashable]:
    """What no other append of its batch may name.

    The log judges a batch in one statement: two appends to one stream would both see the first one's head, and
    one key claimed twice in one INSERT is an error for all.
    """
    yield append.stream
    for key in append.keys:
        yield key.scope, key.name


def spoken_of(append: Append) -> str | None:
    """The writer that an append is about whose author is none."""
    return append.during if append.closes is None else append.closes


def weigh(append: Append) -> int:
    """In events, or in kilobytes where those are large: one batch is one statement in memory, here and there."""
    size = 0
    for event in append.events:
        size += len(event.data)
    return max(len(append.events), size // 1024)


def check(append: Append) -> None:
    """Raises `ValueError` for an append that contradicts itself."""
    writer = append.writer
    if not append.events:
        raise ValueError("an append has at least one event")
    if append.during is not None and (writer is not None or append.closes is not None):
        raise ValueError("whoever speaks during a writer's run is no writer, and closes none")
    if writer is None:
        return
    if append.closes not in (None, writer.name):
        raise ValueError("a writer closes itself only")
    if writer.epoch < 0 or writer.seq < 1:
        raise ValueError("a writer's seq counts from 1, its epoch from 0")


def refusal(append: Append, outcome: Outcome) -> StoreError:
    """What a refused append is answered."""
    if outcome.at.replace(tzinfo=None) == NEVER:
        return Erased(append.stream)
    if outcome.verdict is Verdict.WRONG_POSITION:
        return WrongExpectedPosition(append.stream, append.expected, outcome.head)
    if outcome.verdict is Verdict.KEY_REUSED:
        return KeyReused(append.stream)
    name = append.writer.name if append.writer else spoken_of(append)
    return Fenced(append.stream, name or "", outcome.verdict.removeprefix("fenced_"))


def repeatable(append: Append) -> Append:
    """The append with that by which the log knows it again, should its answer get lost."""
    if append.writer is not None and not append.keys:
        return append  # a token: known by its writer's seq
    keys = list(append.keys)
    if append.writer is None and not any(key.seconds is None or key.seconds >= ONCE_SECONDS for key in keys):
        keys.append(Key(ONCE_SCOPE, uuid4().hex, digest=b"", seconds=ONCE_SECONDS))
    # A key without a digest gets one that nobody else has: then only this very append repeats it.
    named = (replace(key, digest=uuid4().bytes) if key.digest is None else key for key in keys)
    return replace(append, keys=tuple(named))


def made(new: Sequence[NewEvent], first: int, at: datetime) -> list[Event]:
    """Events that were appended at `first` and behind it, as they stand in the log now, without reading them."""
    return [Event(position, one.type, at, one.tag, one.data) for position, one in enumerate(new, first)]
