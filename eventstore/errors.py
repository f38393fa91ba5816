"""The errors of the store, each with who is to blame for it.

A driver's own exception never leaves a backend: it becomes one of these, with the original as its cause. Each
message is a whole sentence, fit for a log line.
"""

from typing import ClassVar


class StoreError(Exception):
    """The base of all errors that the store raises."""


class WrongExpectedPosition(StoreError):
    """The stream does not end where the caller expected: another append came in between.

    Nobody is to blame. Read what is new, decide again, append again.
    """

    def __init__(self, stream: str, expected: int, head: int) -> None:
        super().__init__(f"stream {stream} is at position {head}, not at {expected} as expected")
        self.stream, self.expected, self.head = stream, expected, head


class Fenced(StoreError):
    """The writer may not append any more: its run is over, and a retry would be refused again.

    `reason` is one of: `closed` (the writer was closed), `epoch` (a later epoch writes now), `sequence` (this is
    not the writer's next append: the caller has a bug, or has been overtaken), `unknown` (the append names a
    writer by `during` that has not written yet; it may be tried again once the writer has).
    """

    def __init__(self, stream: str, writer: str, reason: str) -> None:
        super().__init__(f"writer {writer} of stream {stream} is fenced off ({reason})")
        self.stream, self.writer, self.reason = stream, writer, reason


class KeyReused(StoreError):
    """The key was used before, for another append. The caller is to blame: a key belongs to one request."""

    def __init__(self, stream: str) -> None:
        super().__init__("the key was used before, with other content")
        self.stream = stream


class StreamUnknown(StoreError):
    """There is no such stream. Raised only after the primary was read, so it is no matter of timing."""

    def __init__(self, stream: str) -> None:
        super().__init__(f"there is no stream {stream}")
        self.stream = stream


class Trimmed(StoreError):
    """The events asked for have been removed by retention. Read from `earliest` on, or start from a snapshot."""

    def __init__(self, stream: str, after: int, earliest: int, head: int) -> None:
        super().__init__(f"stream {stream} starts at position {earliest} now; what follows {after} is gone")
        self.stream, self.after, self.earliest, self.head = stream, after, earliest, head


class Rewound(Trimmed):
    """The stream ends before a position that was read earlier: the database went back to an earlier state.

    That happens when an asynchronous standby is promoted or a backup is restored. The positions after `head` may
    be used again, by other events. `after` is the last position that was known to be in the log. It is a kind of
    `Trimmed`, because a reader reacts alike: it takes a snapshot and goes on behind that.
    """

    def __init__(self, stream: str, after: int, earliest: int, head: int) -> None:
        StoreError.__init__(
            self, f"stream {stream} ends at position {head}, though {after} was in it: it went back"
        )
        self.stream, self.after, self.earliest, self.head = stream, after, earliest, head


class Erased(StoreError):
    """The whole stream was erased. It does not come back: it can be neither read nor appended to."""

    def __init__(self, stream: str) -> None:
        super().__init__(f"stream {stream} was erased; its time was over")
        self.stream = stream


class StoreUnavailable(StoreError):
    """The database did not answer in time. Nobody here is to blame.

    Whether an append was committed is not known. Send it again with the same key or the same writer sequence: then
    it happens once.
    """

    kind: ClassVar = "away"
    """What happened, in one of a few words, for counting."""
