"""Both witnesses together: every token of every reader is in the figures, the late and the lost ones too."""

import pytest

from bench.figures.stamps import text_of
from bench.figures.verdict import Recording, judge
from bench.search import holds
from bench.traffic import Outcome
from tests.bench.sse_bytes import DONE, HEAD, frames, response

MS = 1_000_000
STAMPS = [1_000 * MS + n * 20 * MS for n in range(20)]
TOKENS = frames([text_of(stamp) for stamp in STAMPS])


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


def in_time(late_ms: int) -> list[tuple[int, bytes]]:
    """The pieces of a reader that gets each token so late."""
    pieces = [(990 * MS, HEAD)]
    pieces += [(stamp + late_ms * MS, chunk(token)) for stamp, token in zip(STAMPS, TOKENS, strict=True)]
    return [*pieces, (STAMPS[-1] + late_ms * MS, chunk(DONE) + b"0\r\n\r\n")]


def test_latency_is_from_the_sending_to_the_last_byte() -> None:
    found = judge([Recording(0, 400 * MS, 500 * MS, in_time(7), "")], {0: STAMPS}, 20)
    assert found.loss.clean
    assert found.first == [pytest.approx(7)]
    assert found.between == [pytest.approx(7)] * 19
    assert found.asked == [pytest.approx(607)]
    assert found.late_readers == 0
    assert found.frames_a_chunk == 1


def test_a_reader_that_is_let_in_late_hides_no_latency() -> None:
    """A server that answers only when all is over must not look fast, and must not hold."""
    pieces = [(5_000 * MS, response([b"".join(TOKENS) + DONE]))]
    found = judge([Recording(0, 400 * MS, 4_900 * MS, pieces, "")], {0: STAMPS}, 20)
    assert found.loss.clean
    assert found.late_readers == 1
    assert len(found.first) + len(found.between) == 20
    assert min(found.between) > 3_000
    assert not holds(Outcome(found))


def test_a_quick_clean_run_holds_and_one_with_a_loss_does_not() -> None:
    good = Recording(0, 400 * MS, 500 * MS, in_time(7), "")
    assert holds(Outcome(judge([good], {0: STAMPS}, 20)))
    bad = Recording(1, 400 * MS, 500 * MS, [*in_time(7)[:5], *in_time(7)[6:]], "")
    found = judge([good, bad], {0: STAMPS, 1: STAMPS}, 20)
    assert found.loss.lost == 1
    assert not holds(Outcome(found))


def test_a_run_in_which_nothing_came_does_not_hold() -> None:
    assert not holds(Outcome(judge([], {0: STAMPS}, 20)))


def test_a_refused_reader_has_lost_all_and_is_told() -> None:
    refused = Recording(0, 0, 0, [], "HTTP/1.1 503 full")
    found = judge([refused], {0: STAMPS}, 20)
    assert found.loss.lost == 20
    assert found.loss.unended == 1
    assert "503" in found.problems[0]


def test_a_reader_whose_ask_never_reached_the_upstream_is_unended() -> None:
    found = judge([Recording(3, 0, 0, [], "the server closed the connection")], {}, 20)
    assert found.loss.unended == 1
    assert not found.loss.clean


def test_a_run_that_was_broken_off_is_told_though_all_that_was_sent_arrived() -> None:
    found = judge([Recording(0, 400 * MS, 500 * MS, in_time(7), "")], {0: STAMPS}, 21)
    assert found.loss.clean
    assert "20 of 21 tokens" in found.problems[0]
    assert not holds(Outcome(found))
