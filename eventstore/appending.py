"""What an append means to the group commit: what it excludes, weighs, is known by, and became. Pure."""

from collections.abc import Hashable, Iterator, Sequence
from datetime import datetime
from typing import Final
from uuid import uuid4

from msgspec.structs import replace

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


def weigh(append: Append) -> int:
    """In events, or in kilobytes where those are large: one batch is one statement in memory, here and there."""
    size = 0
    for event in append.events:
        size += len(event.data)
    return max(len(append.events), size // 1024)


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
