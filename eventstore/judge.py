"""The verdict on one append, as a pure function: the rules of the log, in the order they are checked.

The in-memory log uses it; the Postgres log's `append` function says the same in SQL, because there it has to
be said under the row lock. One contract suite and one stateful model test hold both to it.
"""

from dataclasses import dataclass

from eventstore.log import Verdict
from eventstore.model import Append, Place


@dataclass(slots=True)
class WriterRow:
    """What is kept of a writer: its newest append and whether the door is shut."""

    epoch: int
    seq: int
    first: int
    last: int
    owner: int
    closed: bool = False
    released: bool = False


def judge(append: Append, head: int, writer: WriterRow | None, claims: tuple[Place | None, ...]) -> Verdict:
    """How the append fares. `claims` are the live claims on its keys, in their order; head 0 is no stream."""
    held = [(key, claim) for key, claim in zip(append.keys, claims, strict=True) if claim is not None]
    if any(key.digest is None or key.digest != claim.digest for key, claim in held):
        return Verdict.KEY_REUSED
    if len({(claim.stream, claim.first) for _, claim in held}) > 1:
        return Verdict.KEY_REUSED  # each by another append: this one repeats neither
    if held:
        return Verdict.REPEATED_KEY
    acting = append.writer
    if append.during is not None and writer is None:
        return Verdict.FENCED_UNKNOWN
    if acting is not None and writer is not None and (acting.epoch, acting.seq) == (writer.epoch, writer.seq):
        return Verdict.REPEATED_SEQ
    if writer is not None and writer.closed:
        return Verdict.FENCED_CLOSED
    if acting is not None:
        if writer is not None and acting.epoch < writer.epoch:
            return Verdict.FENCED_EPOCH
        newer = writer is None or acting.epoch > writer.epoch
        due = 1 if newer else writer.seq + 1  # type: ignore[union-attr]  # not newer: there is a writer
        if acting.seq != due:
            return Verdict.FENCED_SEQUENCE
    if append.expected >= 0 and append.expected != head:
        return Verdict.WRONG_POSITION
    return Verdict.APPENDED
