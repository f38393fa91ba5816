"""The checker finds every lost, repeated, reordered and strange token, whatever else is right."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.figures import loss, tape
from bench.figures.loss import Got, Loss
from tests.bench.sse_bytes import DONE, FIRST, frame, frames, response, texts

SENT = texts(50)


def judge(parts: list[bytes]) -> Loss:
    found = tape.read([(1, response(parts))])
    return loss.check(SENT, found.events, ended=found.ended)


def test_a_whole_stream_is_clean() -> None:
    found = judge([*frames(SENT), DONE])
    assert found.clean
    assert found == Loss(sent=50)
    assert str(found) == "nothing lost or repeated"


@given(st.integers(0, 49))
def test_one_lost_token_is_found(n: int) -> None:
    parts = frames(SENT)
    del parts[n]
    found = judge([*parts, DONE])
    assert not found.clean
    assert found.lost == 1
    assert found.gaps == (1 if 0 < n < 49 else 0)


@given(st.integers(0, 49))
def test_a_lost_token_is_found_though_the_positions_hide_it(n: int) -> None:
    left = SENT[:n] + SENT[n + 1 :]
    found = judge([*frames(left), DONE])
    assert (found.lost, found.gaps) == (1, 0)
    assert not found.clean


@given(st.integers(0, 49), st.integers(0, 50))
def test_one_repeated_token_is_found(n: int, at: int) -> None:
    parts = frames(SENT)
    parts.insert(at, parts[n])
    found = judge([*parts, DONE])
    assert found.repeated == 1
    assert not found.clean


@given(st.integers(0, 49), st.integers(0, 50))
def test_a_text_that_comes_twice_is_found_though_the_positions_hide_it(n: int, at: int) -> None:
    found = judge([*frames([*SENT[:at], SENT[n], *SENT[at:]]), DONE])
    assert found.repeated == 1
    assert not found.clean


@given(st.integers(0, 48))
def test_two_that_changed_places_are_found(n: int) -> None:
    parts = frames(SENT)
    parts[n], parts[n + 1] = parts[n + 1], parts[n]
    found = judge([*parts, DONE])
    assert found.reordered == 1
    assert found.gaps > 0


@given(st.integers(0, 48))
def test_texts_that_changed_places_are_found_though_the_positions_hide_it(n: int) -> None:
    mixed = [*SENT]
    mixed[n], mixed[n + 1] = mixed[n + 1], mixed[n]
    found = judge([*frames(mixed), DONE])
    assert (found.reordered, found.gaps, found.lost) == (1, 0, 0)
    assert not found.clean


def test_a_text_that_was_never_sent_is_found() -> None:
    found = judge([*frames(SENT), frame(FIRST + 50, "ghost"), DONE])
    assert found.strange == 1
    assert not found.clean


def test_a_stream_without_its_end_is_found() -> None:
    found = judge(frames(SENT))
    assert found.unended == 1
    assert not found.clean


def test_a_reader_that_got_nothing_has_lost_all() -> None:
    assert loss.check(SENT, [], ended=False).lost == 50


def test_an_upstream_that_repeats_a_text_is_refused_as_a_witness() -> None:
    with pytest.raises(ValueError, match="twice"):
        loss.check(["a", "a"], [Got(1, "a", 0)], ended=True)


def test_the_total_hides_nothing() -> None:
    found = loss.total([Loss(sent=5), Loss(sent=5, lost=1), Loss(sent=5, repeated=2, unended=1)])
    assert found == Loss(sent=15, lost=1, repeated=2, unended=1)
    assert str(found) == "1 lost, 2 repeated, 1 unended"
