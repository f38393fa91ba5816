"""A batch of appends as columns: the arrays that the SQL function `eventstore.append` takes. Pure.

The driver looks at each element of an array several times before it writes it down. So a batch of more than one
goes as texts that the server takes apart, which halves the work here and is none there.
"""

from collections.abc import Sequence
from typing import Any, Final

from eventstore.appending import spoken_of
from eventstore.model import Append

SPEAKS: Final = 0
"""The `seq` of who speaks during a writer's run: no writer counts from it."""


def append_columns(batch: Sequence[Append], owner: int) -> list[Any]:
    """The function's arguments, in its order. Appends are numbered from 1, events within theirs from 1."""
    keys = [(n, key) for n, append in enumerate(batch, 1) for key in append.keys]
    events = [
        (n, offset, event) for n, append in enumerate(batch, 1) for offset, event in enumerate(append.events, 1)
    ]
    return [
        [append.stream for append in batch],
        [append.category for append in batch],
        [append.expected for append in batch],
        [len(append.events) for append in batch],
        [append.writer.name if append.writer else spoken_of(append) for append in batch],
        [append.writer.epoch if append.writer else None for append in batch],
        [append.writer.seq if append.writer else None if append.during is None else SPEAKS for append in batch],
        [append.closes is not None for append in batch],
        owner,
        [n for n, _ in keys],
        [key.scope for _, key in keys],
        [key.name for _, key in keys],
        [key.digest for _, key in keys],
        [key.seconds for _, key in keys],
        [n for n, _, _ in events],
        [offset for _, offset, _ in events],
        [event.type for _, _, event in events],
        [event.tag for _, _, event in events],
        [event.data for _, _, event in events],
    ]


def speaks(columns: Sequence[Any]) -> bool:
    """Whether anybody in the batch speaks during a writer's run: `append_during` is then the statement for it."""
    return SPEAKS in columns[6]


BETWEEN: Final = "\x1f"
NULL: Final = "\x1e"
_KEYS: Final = range(8, 14)
"""The columns that stay as they are: the owner, and the keys', of which tokens have none."""


def as_texts(columns: Sequence[Any]) -> list[Any] | None:
    """The columns of more than one append with each array as one text; None if a value would be misread.

    (An array of one empty text, which would be none, needs one append.)
    """
    texts: list[Any] = []
    for n, column in enumerate(columns):
        if n in _KEYS:
            texts.append(column)
            continue
        if NULL in column:
            return None
        if isinstance(column[0], str) and None not in column:
            parts = column
        else:
            parts = [NULL if value is None else str(value) for value in column]
        text = BETWEEN.join(parts)
        if text.count(BETWEEN) != len(column) - 1:
            return None
        texts.append(text)
    return texts
