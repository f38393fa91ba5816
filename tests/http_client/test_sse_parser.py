"""The parser of event streams, against tables from the standard and a plain implementation of its rules."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.http_client.sse_parser import MAX_UNPARSED, SseMessage, SseMessageTooLong, SseParser

# Pieces that meet in every order: line ends, marks, fields, broken and whole UTF-8.
MARKS = [b"\r", b"\n", b"\r\n", b"\n\n", b":", b" ", b"\xef\xbb\xbf", b"\xff", "é😀".encode(), b"x"]
FIELDS = [
    b"data",
    b"data: ",
    b"data:",
    b"event: ",
    b"event",
    b"id: 7",
    b"id: \0",
    b"retry: 1",
    b": comment",
    b'{"a": 1}',
]
PIECE = st.sampled_from([*MARKS, *FIELDS, b"data: [DONE]\n\n"])
STREAM = st.lists(PIECE, max_size=40).map(b"".join)


def reference(stream: bytes) -> list[SseMessage]:
    """The standard's rules on a whole stream; an id or a retry alone makes a message without data."""
    lines = re.split(rb"\r\n|\n|\r", stream.removeprefix(b"\xef\xbb\xbf"))[:-1]
    messages = []
    data, event, last_id, retry = b"", "", None, None
    for line in lines:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if line == b"":
            if data or last_id is not None or retry is not None:
                messages.append(SseMessage(data.removesuffix(b"\n"), event or "message", last_id, retry))
            data, event, last_id, retry = b"", "", None, None
        elif name == b"data":
            data += value + b"\n"
        elif name == b"event":
            event = value.decode(errors="replace")
        elif name == b"id" and b"\0" not in value:
            last_id = value
        elif name == b"retry" and re.fullmatch(rb"[0-9]+", value):
            retry = int(value)
    return messages


def parse_in_pieces(stream: bytes, cuts: list[int], limit: int = 1 << 20) -> list[SseMessage] | str:
    parser = SseParser(limit)
    messages: list[SseMessage] = []
    for start, end in pairwise([0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]):
        try:
            messages += parser.feed(stream[start:end])
        except SseMessageTooLong as error:
            return f"{messages + error.messages}, then too long"
    return messages


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\n", [b"a"]),
        (b"data: a\r\n\r\ndata: b\r\rdata: c\n\n", [b"a", b"b", b"c"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a \n\n", [b" a "]),
        (b"data\n\n", [b""]),
        (b"data:\ndata:\n\n", [b"\n"]),
        (b": comment\n\n:\n\n", []),
        (b"event: x\n\ndata: y\n\n", [b"y"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),
        (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [b"a"]),
        (b"data: a\n", []),
        (b"data: a", []),
        (b"id: 1\nretry: 5\nfoo: bar\ndata: a\n\n", [b"a"]),
        (b" data: a\n\n", []),
        (b"data: a:b\n\n", [b"a:b"]),
        (b"dataset: a\n\n", []),
    ],
)
def test_messages(stream: bytes, expected: list[bytes]) -> None:
    assert [message.data for message in SseParser().feed(stream)] == expected


@pytest.mark.parametrize(
    ("stream", "messages", "unparsed"),
    [
        (b"data: a\n\n", [("message", b"a")], b""),
        (b'error: {"code":400}\n\ndata: a\n\n', [("error", b'{"code":400}'), ("message", b"a")], b""),
        (b'error: {"code":400}\n', [], b'{"code":400}'),  # its end never came
        (b'error: {"code":400}', [], b'{"code":400}'),
        (b"\xef\xbb\xbferror: x", [], b"x"),
        (b'{"error":\n {"code": 400}\n}', [], b'{"error":\n {"code": 400}\n}'),
        (b'{"a": 1}\n\ndata: b\n\nmore', [("message", b"b")], b'{"a": 1}\nmore'),
        (b"data: a", [], b""),
        (b"data: a\n", [], b""),
        (b": comment\nid: 1\nretry: 2\nevent: x", [], b""),
        (b"\xef\xbb\xbf<html>\r\n</html>", [], b"<html>\n</html>"),
        (b"x" * 70_000 + b"\ny\n", [], b"y"),
    ],
)
def test_body_that_is_no_event_stream_is_kept(
    stream: bytes, messages: list[tuple[str, bytes]], unparsed: bytes
) -> None:
    for cuts in ([], list(range(len(stream)))):
        parser, found = SseParser(), []
        for start, end in pairwise([0, *cuts, len(stream)]):
            found += parser.feed(stream[start:end])
        assert [(message.event, message.data) for message in found] == messages
        assert parser.unparsed() == unparsed


@pytest.mark.parametrize(("size", "kept"), [(MAX_UNPARSED - 2, True), (MAX_UNPARSED - 1, False)])
def test_most_that_is_kept_to_be_quoted(size: int, kept: bool) -> None:
    """The lines with their ends; what comes later and does not fit is left out."""
    parser = SseParser()
    parser.feed(b"{\n" + b"x" * size + b"\n")
    assert parser.unparsed() == (b"{\n" + b"x" * size if kept else b"{")


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"retry: 1000\n\n", [SseMessage(b"", retry_ms=1000)]),
        (b"id: 4\n\n: comment\n\n", [SseMessage(b"", id=b"4")]),
        (b"id: 5\ndata: a\n\ndata: b\n\n", [SseMessage(b"a", id=b"5"), SseMessage(b"b")]),
        (b"id: 9\nretry: 5\n: refused\n\n", [SseMessage(b"", id=b"9", retry_ms=5)]),
        (b"id\ndata: a\n\n", [SseMessage(b"a", id=b"")]),
        (b"id: 1\0\nretry: 1s\nretry:\nretry: -1\n\n", []),
        (b"id: 1\nid: 2\nretry: 1\nretry: 2\n\n", [SseMessage(b"", id=b"2", retry_ms=2)]),
        (b"retry: " + b"9" * 5_000 + b"\n\n", [SseMessage(b"", retry_ms=999_999_999)]),
        (b"event: token\nid: 6\r\ndata:x\r\n\r\n", [SseMessage(b"x", "token", b"6")]),
        (b"data: cut\nid: 10\nretry: 1\n", []),
    ],
)
def test_id_and_retry_belong_to_one_message(stream: bytes, expected: list[SseMessage]) -> None:
    assert SseParser().feed(stream) == expected


def test_event_type_is_the_last_one_and_for_one_message() -> None:
    stream = b"event: a\nevent: b\ndata: 1\n\ndata: 2\n\nevent:\ndata: 3\n\nevent: \xff\ndata: 4\n\n"
    assert [message.event for message in SseParser().feed(stream)] == ["b", "message", "message", "\ufffd"]


@given(STREAM)
@example(b"data: a\r\ndata: b\r\n\r\n")
@example("\ufeffdata: é😀\r\n\r\n: c\rdata\n\n".encode())
def test_byte_by_byte_equals_the_whole(stream: bytes) -> None:
    assert parse_in_pieces(stream, []) == parse_in_pieces(stream, list(range(len(stream)))) == reference(stream)


@given(STREAM, st.lists(st.integers(0, 10_000)), st.integers(1, 40))
def test_any_cut_gives_the_same_messages_and_limit(stream: bytes, cuts: list[int], limit: int) -> None:
    assert parse_in_pieces(stream, cuts) == reference(stream)
    assert parse_in_pieces(stream, cuts, limit) == parse_in_pieces(stream, [], limit)


@pytest.mark.parametrize("line", [b"data: ", b": ", b"event: ", b""])
def test_endless_line_is_refused(line: bytes) -> None:
    parser = SseParser(limit=100)
    first = parser.feed(b"data: kept\n\n" + line)
    for _ in range(100 - len(line)):
        assert parser.feed(b"x") == []
    with pytest.raises(SseMessageTooLong, match="100 bytes"):
        parser.feed(b"x")
    assert [message.data for message in first] == [b"kept"]


def test_too_long_message_keeps_the_messages_before_it() -> None:
    with pytest.raises(SseMessageTooLong) as caught:
        SseParser(limit=100).feed(b"data: kept\n\n" + b"data: 0123456789\n" * 20)
    assert [message.data for message in caught.value.messages] == [b"kept"]


def test_limit_is_for_each_message() -> None:
    assert len(SseParser(limit=20).feed(b": 0123456789\ndata: 1\n\n" * 100)) == 100
