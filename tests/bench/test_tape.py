"""Bytes and times to events: however the network cut them, each event has the moment of its last byte."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.figures import tape
from bench.figures.tape import BadTape
from tests.bench.sse_bytes import DONE, FIRST, HEAD, frames, response, texts

SENT = texts(8)
PARTS = [b"retry: 1000\n\nid: 0\n\n", *frames(SENT[:3]), b"".join(frames(SENT)[3:]) + DONE]
RAW = response(PARTS)


@given(st.lists(st.integers(0, len(RAW)), max_size=30))
def test_it_does_not_matter_where_reads_end(cuts: list[int]) -> None:
    edges = sorted({0, len(RAW), *cuts})
    pieces = [(end, RAW[begin:end]) for begin, end in pairwise(edges)]
    found = tape.read(pieces)
    assert [event.text for event in found.events] == SENT
    assert [event.position for event in found.events] == list(range(FIRST, FIRST + 8))
    assert found.ended
    assert found.chunks == 4
    for event, made in zip(found.events, frames(SENT), strict=True):
        last = RAW.index(made) + len(made)
        assert event.at == min(edge for edge in edges if edge >= last)


def test_a_response_that_was_cut_gives_what_arrived_whole() -> None:
    cut = RAW.index(frames(SENT)[2]) + 5
    found = tape.read([(1, RAW[:cut])])
    assert [event.text for event in found.events] == SENT[:2]
    assert not found.ended


def test_events_of_other_types_count_as_positions_without_text() -> None:
    started = b'id: 3\ndata: {"position":3,"type":"generation.started","worker":"w"}\n\n'
    found = tape.read([(1, response([started, *frames(SENT)]))])
    assert found.events[0].text is None
    assert found.events[0].position == 3


def test_heartbeats_are_no_events() -> None:
    found = tape.read([(1, response([b":\n\n", *frames(SENT), b":\n\n", DONE]))])
    assert len(found.events) == 8


@pytest.mark.parametrize(
    "raw", [b"", b"HTTP/1.1 503 \r\n\r\nfull", HEAD + b"zz\r\nno size", HEAD.replace(b"chunked", b"none")]
)
def test_what_is_no_stream_is_said_with_its_words(raw: bytes) -> None:
    with pytest.raises(BadTape):
        tape.read([(1, raw)])
