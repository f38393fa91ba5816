"""Bytes and times to events: however the network cut them, each event has the moment of its last byte."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.analysis.sse_recording import BadRecording, parse_recording
from tests.bench.sse_responses import DONE, FIRST, HEAD, frames, response, texts

SENT = texts(8)
PARTS = [b"retry: 1000\n\nid: 0\n\n", *frames(SENT[:3]), b"".join(frames(SENT)[3:]) + DONE]
RAW = response(PARTS)


@given(st.lists(st.integers(0, len(RAW)), max_size=30))
def test_events_are_the_same_wherever_reads_end(cuts: list[int]) -> None:
    edges = sorted({0, len(RAW), *cuts})
    pieces = [(end, RAW[begin:end]) for begin, end in pairwise(edges)]
    found = parse_recording(pieces)
    assert [event.text for event in found.events] == SENT
    assert [event.position for event in found.events] == list(range(FIRST, FIRST + 8))
    assert found.ended
    assert found.chunks == 4
    for event, made in zip(found.events, frames(SENT), strict=True):
        last = RAW.index(made) + len(made)
        assert event.at == min(edge for edge in edges if edge >= last)


def test_a_response_that_was_cut_gives_what_arrived_whole() -> None:
    cut = RAW.index(frames(SENT)[2]) + 5
    found = parse_recording([(1, RAW[:cut])])
    assert [event.text for event in found.events] == SENT[:2]
    assert not found.ended


def test_events_of_other_types_count_as_positions_without_text() -> None:
    started = b'id: 3\ndata: {"position":3,"type":"generation.started","worker":"w"}\n\n'
    found = parse_recording([(1, response([started, *frames(SENT)]))])
    assert found.events[0].text is None
    assert found.events[0].position == 3


def test_heartbeats_are_not_events() -> None:
    found = parse_recording([(1, response([b":\n\n", *frames(SENT), b":\n\n", DONE]))])
    assert len(found.events) == 8


@pytest.mark.parametrize(
    "raw", [b"", b"HTTP/1.1 503 \r\n\r\nfull", HEAD + b"zz\r\nno size", HEAD.replace(b"chunked", b"none")]
)
def test_a_response_that_is_no_stream_is_an_error(raw: bytes) -> None:
    with pytest.raises(BadRecording):
        parse_recording([(1, raw)])
