"""The comparison finds every lost, repeated, reordered and strange token, and measures every token's latency."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.analysis.sse_recording import ReceivedEvent, parse_recording
from bench.analysis.token_delivery import (
    Loss,
    Recording,
    count_loss,
    measure_delivery,
    timestamp_text,
    total_loss,
)
from bench.benchmarks.capacity import holds
from bench.traffic import Outcome
from tests.bench.sse_responses import DONE, FIRST, HEAD, frame, frames, response, texts

MS = 1_000_000
STAMPS = [1_000 * MS + n * 20 * MS for n in range(20)]
TOKENS = frames([timestamp_text(stamp) for stamp in STAMPS])


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


def in_time(late_ms: int) -> list[tuple[int, bytes]]:
    """The pieces of a reader that gets each token so late."""
    pieces = [(990 * MS, HEAD)]
    pieces += [(stamp + late_ms * MS, chunk(token)) for stamp, token in zip(STAMPS, TOKENS, strict=True)]
    return [*pieces, (STAMPS[-1] + late_ms * MS, chunk(DONE) + b"0\r\n\r\n")]


def test_latency_is_from_the_sending_to_the_last_byte() -> None:
    found = measure_delivery([Recording(0, 400 * MS, 500 * MS, in_time(7), "")], {0: STAMPS}, 20)
    assert found.loss.clean
    assert found.first == [pytest.approx(7)]
    assert found.between == [pytest.approx(7)] * 19
    assert found.asked == [pytest.approx(607)]
    assert found.late_readers == 0
    assert found.frames_a_chunk == 1


def test_a_reader_that_is_let_in_late_hides_no_latency() -> None:
    """A server that answers only when all is over must not look fast, and must not hold."""
    pieces = [(5_000 * MS, response([b"".join(TOKENS) + DONE]))]
    found = measure_delivery([Recording(0, 400 * MS, 4_900 * MS, pieces, "")], {0: STAMPS}, 20)
    assert found.loss.clean
    assert found.late_readers == 1
    assert len(found.first) + len(found.between) == 20
    assert min(found.between) > 3_000
    assert not holds(Outcome(found))


def test_a_quick_clean_run_holds_and_one_with_a_loss_does_not() -> None:
    good = Recording(0, 400 * MS, 500 * MS, in_time(7), "")
    assert holds(Outcome(measure_delivery([good], {0: STAMPS}, 20)))
    bad = Recording(1, 400 * MS, 500 * MS, [*in_time(7)[:5], *in_time(7)[6:]], "")
    found = measure_delivery([good, bad], {0: STAMPS, 1: STAMPS}, 20)
    assert found.loss.lost == 1
    assert not holds(Outcome(found))


def test_a_run_in_which_nothing_came_does_not_hold() -> None:
    assert not holds(Outcome(measure_delivery([], {0: STAMPS}, 20)))


def test_a_refused_reader_has_lost_all_and_is_reported() -> None:
    refused = Recording(0, 0, 0, [], "HTTP/1.1 503 full")
    found = measure_delivery([refused], {0: STAMPS}, 20)
    assert found.loss.lost == 20
    assert found.loss.unended == 1
    assert "503" in found.problems[0]


def test_a_reader_whose_ask_never_reached_the_upstream_is_unended() -> None:
    found = measure_delivery([Recording(3, 0, 0, [], "the server closed the connection")], {}, 20)
    assert found.loss.unended == 1
    assert not found.loss.clean


def test_a_run_that_was_broken_off_is_reported_though_all_that_was_sent_arrived() -> None:
    found = measure_delivery([Recording(0, 400 * MS, 500 * MS, in_time(7), "")], {0: STAMPS}, 21)
    assert found.loss.clean
    assert "20 of 21 tokens" in found.problems[0]
    assert not holds(Outcome(found))


SENT = texts(50)


def loss_of(parts: list[bytes]) -> Loss:
    found = parse_recording([(1, response(parts))])
    return count_loss(SENT, found.events, ended=found.ended)


def test_a_whole_stream_is_clean() -> None:
    found = loss_of([*frames(SENT), DONE])
    assert found.clean
    assert found == Loss(sent=50)
    assert str(found) == "nothing lost or repeated"


@given(st.integers(0, 49))
def test_one_lost_token_is_found(n: int) -> None:
    parts = frames(SENT)
    del parts[n]
    found = loss_of([*parts, DONE])
    assert not found.clean
    assert found.lost == 1
    assert found.gaps == (1 if 0 < n < 49 else 0)


@given(st.integers(0, 49))
def test_a_lost_token_is_found_though_the_positions_hide_it(n: int) -> None:
    left = SENT[:n] + SENT[n + 1 :]
    found = loss_of([*frames(left), DONE])
    assert (found.lost, found.gaps) == (1, 0)
    assert not found.clean


@given(st.integers(0, 49), st.integers(0, 50))
def test_one_repeated_token_is_found(n: int, at: int) -> None:
    parts = frames(SENT)
    parts.insert(at, parts[n])
    found = loss_of([*parts, DONE])
    assert found.repeated == 1
    assert not found.clean


@given(st.integers(0, 49), st.integers(0, 50))
def test_a_text_that_comes_twice_is_found_though_the_positions_hide_it(n: int, at: int) -> None:
    found = loss_of([*frames([*SENT[:at], SENT[n], *SENT[at:]]), DONE])
    assert found.repeated == 1
    assert not found.clean


@given(st.integers(0, 48))
def test_two_that_changed_places_are_found(n: int) -> None:
    parts = frames(SENT)
    parts[n], parts[n + 1] = parts[n + 1], parts[n]
    found = loss_of([*parts, DONE])
    assert found.reordered == 1
    assert found.gaps > 0


@given(st.integers(0, 48))
def test_texts_that_changed_places_are_found_though_the_positions_hide_it(n: int) -> None:
    mixed = [*SENT]
    mixed[n], mixed[n + 1] = mixed[n + 1], mixed[n]
    found = loss_of([*frames(mixed), DONE])
    assert (found.reordered, found.gaps, found.lost) == (1, 0, 0)
    assert not found.clean


def test_a_text_that_was_never_sent_is_found() -> None:
    found = loss_of([*frames(SENT), frame(FIRST + 50, "ghost"), DONE])
    assert found.strange == 1
    assert not found.clean


def test_a_stream_without_its_end_is_found() -> None:
    found = loss_of(frames(SENT))
    assert found.unended == 1
    assert not found.clean


def test_a_reader_that_got_nothing_has_lost_all() -> None:
    assert count_loss(SENT, [], ended=False).lost == 50


def test_a_provider_that_repeats_a_text_is_an_error() -> None:
    with pytest.raises(ValueError, match="twice"):
        count_loss(["a", "a"], [ReceivedEvent(1, "a", 0)], ended=True)


def test_the_total_adds_every_count() -> None:
    found = total_loss([Loss(sent=5), Loss(sent=5, lost=1), Loss(sent=5, repeated=2, unended=1)])
    assert found == Loss(sent=15, lost=1, repeated=2, unended=1)
    assert str(found) == "1 lost, 2 repeated, 1 unended"
