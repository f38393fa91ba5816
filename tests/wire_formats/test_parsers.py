"""The parsers on the standard's examples and edge cases: a test with a lax parser would prove nothing."""

import pytest

from .parsers import Message, NdjsonParser, SseParser


def parse_in_pieces(text: bytes) -> list[Message]:
    """The messages of a stream, the same however its bytes are cut."""
    whole = SseParser()
    whole.feed(text)
    for cut in range(len(text) + 1):
        pieces = SseParser()
        pieces.feed(text[:cut])
        pieces.feed(text[cut:])
        assert pieces.messages == whole.messages
        assert pieces.last_event_id == whole.last_event_id
    single = SseParser()
    for byte in text:
        single.feed(bytes([byte]))
    assert single.messages == whole.messages
    return whole.messages


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [Message("message", "YHOO\n+2\n10", "")]),
        (
            b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
            [
                Message("message", "first event", "1"),
                Message("message", "second event", ""),
                Message("message", " third event", ""),
            ],
        ),
        (b"data\n\ndata\ndata\n\ndata:", [Message("message", "", ""), Message("message", "\n", "")]),
        (b"data:test\n\ndata: test\n\n", [Message("message", "test", "")] * 2),
        (b"event: add\ndata: 1\n\ndata: 2\n\n", [Message("add", "1", ""), Message("message", "2", "")]),
        (b"data: 1\r\n\r\ndata: 2\r\rdata: 3\n\n", [Message("message", str(n), "") for n in (1, 2, 3)]),
        (b"\xef\xbb\xbfdata: 1\n\n", [Message("message", "1", "")]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: 1\n\n", []),
        (b"id: 7\n\ndata: 1\n\n", [Message("message", "1", "7")]),
        (b"id: a\0b\ndata: 1\n\n", [Message("message", "1", "")]),
        ("data: \u2028ü\U0001f600\n\n".encode(), [Message("message", "\u2028ü\U0001f600", "")]),
        (b"id: 1\ndata: cut", []),
        (b"id: 1\ndata: cut\n", []),
    ],
)
def test_sse_messages(text: bytes, messages: list[Message]) -> None:
    assert parse_in_pieces(text) == messages


def test_cut_block_sets_no_id() -> None:
    parser = SseParser("5")
    parser.feed(b"id: 6\ndata: x\n")
    assert parser.last_event_id == "5"
    parser.feed(b"\n")
    assert parser.last_event_id == "6"


def test_comments_retry_and_unknown_fields() -> None:
    parser = SseParser()
    parser.feed(b": hello\nretry: 1500\nretry: x\nwhat: ever\n\n")
    assert (parser.comments, parser.retry, parser.messages) == ([" hello"], 1500, [])


def test_ndjson_lines() -> None:
    parser = NdjsonParser()
    for byte in b'{"position":1}\n\n\n{"position":2}\n{"pos':
        parser.feed(bytes([byte]))
    assert (parser.values, parser.pulses, parser.position) == ([{"position": 1}, {"position": 2}], 2, 2)
