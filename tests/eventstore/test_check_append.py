"""The verdict on one append as a table of cases, in the order in which the rules are checked."""

from typing import Any

import pytest

from eventstore import ANY, NO_STREAM, Append, Key, NewEvent, Place, Writer
from eventstore.backend import Verdict
from eventstore.memory_backend import WriterRow, check_append

EVENT = (NewEvent("noted", "{}"),)
HEAD = 5


def sample_append(**options: Any) -> Append:
    return Append("s", EVENT, **options)


def verdict(append: Append, head: int = HEAD, row: WriterRow | None = None, *claims: Place | None) -> Verdict:
    return check_append(append, head, row, claims)


@pytest.mark.parametrize(
    ("head", "expected", "is_"),
    [
        (0, ANY, Verdict.APPENDED),
        (5, ANY, Verdict.APPENDED),
        (0, NO_STREAM, Verdict.APPENDED),
        (5, NO_STREAM, Verdict.WRONG_POSITION),
        (5, 5, Verdict.APPENDED),
        (5, 4, Verdict.WRONG_POSITION),
        (5, 6, Verdict.WRONG_POSITION),
        (0, 6, Verdict.WRONG_POSITION),
    ],
)
def test_expected_position(head: int, expected: int, is_: Verdict) -> None:
    assert verdict(sample_append(expected=expected), head) is is_


OPEN = WriterRow(epoch=3, seq=7, first=4, last=4, owner=1)
CLOSED = WriterRow(epoch=3, seq=7, first=4, last=4, owner=1, closed=True)
CLOSED_UNWRITTEN = WriterRow(epoch=0, seq=0, first=4, last=4, owner=1, closed=True)


@pytest.mark.parametrize(
    ("row", "epoch", "seq", "is_"),
    [
        (None, 0, 1, Verdict.APPENDED),
        (None, 9, 1, Verdict.APPENDED),
        (None, 1, 2, Verdict.FENCED_SEQUENCE),
        (OPEN, 3, 8, Verdict.APPENDED),
        (OPEN, 3, 7, Verdict.REPEATED_SEQ),
        (OPEN, 3, 6, Verdict.FENCED_SEQUENCE),
        (OPEN, 3, 1, Verdict.FENCED_SEQUENCE),
        (OPEN, 3, 9, Verdict.FENCED_SEQUENCE),
        (OPEN, 2, 8, Verdict.FENCED_EPOCH),
        (OPEN, 2, 1, Verdict.FENCED_EPOCH),
        (OPEN, 4, 1, Verdict.APPENDED),
        (OPEN, 4, 8, Verdict.FENCED_SEQUENCE),
        (CLOSED, 3, 7, Verdict.REPEATED_SEQ),
        (CLOSED, 3, 8, Verdict.FENCED_CLOSED),
        (CLOSED, 2, 8, Verdict.FENCED_CLOSED),
        (CLOSED, 4, 1, Verdict.FENCED_CLOSED),
        (CLOSED_UNWRITTEN, 1, 1, Verdict.FENCED_CLOSED),
        (CLOSED_UNWRITTEN, 0, 1, Verdict.FENCED_CLOSED),
    ],
)
def test_writer_fence(row: WriterRow | None, epoch: int, seq: int, is_: Verdict) -> None:
    writer = Writer("w", epoch, seq)
    assert verdict(sample_append(writer=writer), HEAD, row) is is_
    assert verdict(sample_append(writer=writer, closes="w"), HEAD, row) is is_
    # The fence comes before the position; of what stands so far, the position is asked.
    wrong = verdict(sample_append(writer=writer, expected=HEAD + 1), HEAD, row)
    assert wrong is (Verdict.WRONG_POSITION if is_ is Verdict.APPENDED else is_)


@pytest.mark.parametrize(
    ("row", "is_"),
    [
        (None, Verdict.APPENDED),
        (OPEN, Verdict.APPENDED),
        (CLOSED, Verdict.FENCED_CLOSED),
        (CLOSED_UNWRITTEN, Verdict.FENCED_CLOSED),
    ],
)
def test_close_by_another_process(row: WriterRow | None, is_: Verdict) -> None:
    assert verdict(sample_append(closes="w"), HEAD, row) is is_
    wrong = verdict(sample_append(closes="w", expected=0), HEAD, row)
    assert wrong is (Verdict.WRONG_POSITION if is_ is Verdict.APPENDED else is_)


@pytest.mark.parametrize(
    ("row", "is_"),
    [
        (None, Verdict.FENCED_UNKNOWN),
        (OPEN, Verdict.APPENDED),
        (CLOSED, Verdict.FENCED_CLOSED),
        (CLOSED_UNWRITTEN, Verdict.FENCED_CLOSED),
    ],
)
@pytest.mark.parametrize("head", [0, HEAD])
def test_append_during_a_writer(head: int, row: WriterRow | None, is_: Verdict) -> None:
    assert verdict(sample_append(during="w"), head, row) is is_
    wrong = verdict(sample_append(during="w", expected=HEAD + 1), head, row)
    assert wrong is (Verdict.WRONG_POSITION if is_ is Verdict.APPENDED else is_)


HERE, THERE = Place("s", 2, 3, b"d"), Place("t", 2, 3, b"d")
PLAIN = Place("s", 2, 3, None)


@pytest.mark.parametrize(
    ("digests", "claims", "is_"),
    [
        ([b"d"], [None], Verdict.APPENDED),
        ([None], [None], Verdict.APPENDED),
        ([b"d"], [HERE], Verdict.REPEATED_KEY),
        ([b"x"], [HERE], Verdict.KEY_REUSED),
        ([None], [HERE], Verdict.KEY_REUSED),
        ([b"d"], [PLAIN], Verdict.KEY_REUSED),
        ([None], [PLAIN], Verdict.KEY_REUSED),
        ([b"d", b"d"], [HERE, None], Verdict.REPEATED_KEY),
        ([b"d", b"d"], [None, HERE], Verdict.REPEATED_KEY),
        ([b"d", b"d"], [HERE, HERE], Verdict.REPEATED_KEY),
        ([b"d", b"d"], [HERE, THERE], Verdict.KEY_REUSED),
        ([b"d", b"d"], [HERE, Place("s", 4, 4, b"d")], Verdict.KEY_REUSED),
        ([b"d", b"x"], [HERE, HERE], Verdict.KEY_REUSED),
        ([b"d", None], [HERE, None], Verdict.REPEATED_KEY),
        ([b"d", b"d"], [None, None], Verdict.APPENDED),
    ],
)
def test_keys_are_checked_first(digests: list[bytes | None], claims: list[Place | None], is_: Verdict) -> None:
    keys = tuple(Key("k", str(n), digest) for n, digest in enumerate(digests))
    assert verdict(sample_append(keys=keys), HEAD, None, *claims) is is_
    for refused in (
        sample_append(keys=keys, expected=1),
        sample_append(keys=keys, writer=Writer("w", 1, 1)),
        sample_append(keys=keys, closes="w"),
        sample_append(keys=keys, during="w"),
    ):
        if is_ is not Verdict.APPENDED:
            assert verdict(refused, HEAD, CLOSED, *claims) is is_
        else:
            assert verdict(refused, HEAD, CLOSED, *claims) is not Verdict.APPENDED


def test_every_key_needs_its_claim() -> None:
    with pytest.raises(ValueError, match="shorter"):
        check_append(sample_append(keys=(Key("k", "1"), Key("k", "2"))), HEAD, None, (None,))
