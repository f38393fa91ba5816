"""Every error the store raises, with who is to blame.

Few classes, reused. A driver's own exceptions never leave the backend: they become one of these, with the
cause kept. The message of each is a whole sentence that a log line can carry.
"""

from typing import ClassVar


class StoreError(Exception):
    """Anything the store refuses or fails at."""


class WrongExpectedPosition(StoreError):
    """The stream is not where the caller thought: somebody appended in between. Read again, decide again."""

    def __init__(self, stream: str, expected: int, head: int) -> None:
        super().__init__(f"stream {stream} is at position {head}, not at {expected} as expected")
        self.stream, self.expected, self.head = stream, expected, head


class Fenced(StoreError):
    """This writer may not append any more. Its run is over: stop, do not try again.

    `reason` is `closed` (somebody closed the writer), `epoch` (a newer epoch writes now), `sequence` (the
    append is not the writer's next; the caller has a bug or is a ghost) or `unknown` (whoever it speaks to,
    by `during`, has not written yet: that one may be tried again once it has).
    """

    def __init__(self, stream: str, writer: str, reason: str) -> None:
        super().__init__(f"writer {writer} of stream {stream} is fenced off ({reason})")
        self.stream, self.writer, self.reason = stream, writer, reason


class KeyReused(StoreError):
    """The key was used before for something else. The caller is to blame: a key belongs to one request."""

    def __init__(self, stream: str) -> None:
        super().__init__("the key was used before, with other content")
        self.stream = stream


class StreamUnknown(StoreError):
    """There is no such stream; said only after the primary was read."""

    def __init__(self, stream: str) -> None:
        super().__init__(f"there is no stream {stream}")
        self.stream = stream


class Trimmed(StoreError):
    """The events asked for are older than what is retained: read from `earliest` on, or from a snapshot."""

    def __init__(self, stream: str, after: int, earliest: int, head: int) -> None:
        super().__init__(f"stream {stream} starts at position {earliest} now; what follows {after} is gone")
        self.stream, self.after, self.earliest, self.head = stream, after, earliest, head


class Rewound(Trimmed):
    """The stream ends before what was read of it: the database has gone on from an earlier state (an asynchronous
    standby was promoted, a backup was restored). What follows `head` may be read again, with other events in it.

    A kind of `Trimmed`, for a reader does the same: it takes a snapshot and goes on behind it. `after` is the last
    position that was known to be in the log.
    """

    def __init__(self, stream: str, after: int, earliest: int, head: int) -> None:
        StoreError.__init__(
            self, f"stream {stream} ends at position {head}, though {after} was in it: it went back"
        )
        self.stream, self.after, self.earliest, self.head = stream, after, earliest, head


class Erased(StoreError):
    """The stream is gone, all of it, and does not come back: nothing is read from it or appended to it."""

    def __init__(self, stream: str) -> None:
        super().__init__(f"stream {stream} was erased; its time was over")
        self.stream = stream


class StoreUnavailable(StoreError):
    """The database did not answer in time. Nobody's fault here; nothing was acknowledged, so nothing is lost.

    Whether the append was committed is not known: ask again with the same key or writer sequence, and it
    happens once.
    """

    kind: ClassVar = "away"
    """What happened, in one of few words: for counting."""
