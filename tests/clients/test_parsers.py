"""Tests of the test clients' own parsers, so that a bug of theirs is not taken for one of the server."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from . import ndjson, sse
from .raw_websocket import frame_ends

STREAM = (
    "\ufeff: a comment\r\nretry: 10\r\n\r\nid: 0\n\nid: 1\rdata: one\rdata:two\r\r"
    "event: named\ndata: é\n\ndata\n\nid\n\nid: 9\0\nretry: 1x\nunknown: 5\ndata:  x\n\nid: 7\ndata: cut off"
).encode()


def test_sse_fields_line_endings_and_ignored_lines() -> None:
    """As the WHATWG specification demands."""
    parser = sse.Parser("start")
    frames = parser.feed(STREAM)
    assert frames == [
        sse.Frame(comments=["a comment"], retry="10"),
        sse.Frame(id="0"),
        sse.Frame(id="1", data="one\ntwo"),
        sse.Frame(event="named", data="é"),
        sse.Frame(data=""),
        sse.Frame(id=""),
        sse.Frame(data=" x"),
    ]
    assert parser.retry == 10
    assert parser.last_event_id == ""


def test_sse_id_counts_only_once_its_frame_is_complete() -> None:
    """Otherwise a client that is cut within a frame would never see that frame's event."""
    parser = sse.Parser()
    parser.feed(b"id: 1\ndata: a\n\nid: 2\ndata: b\n")
    assert parser.last_event_id == "1"
    parser.feed(b"\n")
    assert parser.last_event_id == "2"


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_sse_bytes_may_be_split_anywhere(splits: list[int]) -> None:
    """Even within a line ending or a character."""
    parser = sse.Parser()
    frames: list[sse.Frame] = []
    edges = [0, *sorted(splits), len(STREAM)]
    for start, end in pairwise(edges):
        frames += parser.feed(STREAM[start:end])
    assert frames == sse.Parser().feed(STREAM)


def test_ndjson_returns_complete_lines_only() -> None:
    """Empty lines are counted."""
    parser = ndjson.Parser()
    assert parser.feed(b'\n{"a"') == []
    assert parser.feed(b': 1}\n\n{"b": 2}') == [{"a": 1}]
    assert (parser.signs, parser.rest) == (2, b'{"b": 2}')


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_websocket_frame_ends_for_all_length_forms(size: int) -> None:
    length = (
        bytes([size])
        if size < 126
        else bytes([126]) + size.to_bytes(2)
        if size < 65_536
        else b"\x7f" + size.to_bytes(8)
    )
    frame = b"\x81" + length + b"x" * size
    assert frame_ends(frame + frame) == [len(frame), 2 * len(frame)]
    assert frame_ends(frame[:-1] if size else b"\x81") == []
