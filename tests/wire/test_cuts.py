"""Cut at every byte: what a client read before the cut, plus what it asks for after it, is the log. No more, no less.

The clients are `parsers`; the server is the encoders and a list of events.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given

from eventstore import Event
from server import events
from server.wire import ndjson, page, sse
from server.wire.event import encode
from tests.generation.rows import logs, patient, rows, said, started

from .parsers import Message, NdjsonParser, SseParser

RETRY = 1000
Frame = Callable[[Event], bytes]

ODD = [
    *(
        said(f"m{n}", text)
        for n, text in enumerate(['"\\', "a\n\ndata: b\r\n", "\u2028\u2029", "ü\U0001f600\ufeff"])
    ),
    events.conversation_started(None, None),
    started("gen_1"),
    *(events.token("gen_1", text) for text in ["", "é", "\U0001f469\u200d\U0001f680", "\x85", "[DONE]"]),
]


def known(log: Sequence[Event]) -> list[Event]:
    """Without the events whose data is no JSON (there to trouble the fold)."""
    return rows([event for event in log if event.data != "??"])  # type: ignore[misc]  # like new ones


def objects(log: Sequence[Event]) -> list[dict[str, Any]]:
    """The event objects of a log."""
    return [json.loads(encode(event)) for event in log]


def sse_bytes(log: Sequence[Event], after: int, frame: Frame, *, done: bool = False) -> bytes:
    """A whole response: the opening, a heartbeat here and there, the frames, the end."""
    frames = [frame(event) + sse.HEARTBEAT * (event.position % 3 == 0) for event in log if event.position > after]
    return sse.opening(after, RETRY) + b"".join(frames) + sse.DONE * done


def ndjson_bytes(log: Sequence[Event], after: int) -> bytes:
    """A whole response."""
    lines = [ndjson.line(event) + ndjson.HEARTBEAT * (event.position % 3 == 0) for event in log[after:]]
    return ndjson.HEARTBEAT + b"".join(lines)


def read(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The objects of an EventSource's messages."""
    return [json.loads(message.data) for message in messages if message.data != "[DONE]"]


def check_sse(log: list[Event], frame: Frame) -> None:
    """Every cut of the whole log's response."""
    whole, expected = sse_bytes(log, 0, frame, done=True), objects(log)
    for cut in range(len(whole) + 1):
        client = SseParser()
        client.feed(whole[:cut])
        before = read(client.messages)
        again = SseParser(client.last_event_id)
        again.feed(sse_bytes(log, int(client.last_event_id or 0), frame))
        assert before + read(again.messages) == expected, cut
        # The same connection, its bytes in two pieces.
        client.feed(whole[cut:])
        assert read(client.messages) == expected, cut
        assert client.messages[-1] == Message("message", "[DONE]", str(len(log)))


def check_ndjson(log: list[Event]) -> None:
    """The same for lines."""
    whole, expected = ndjson_bytes(log, 0), objects(log)
    for cut in range(len(whole) + 1):
        client = NdjsonParser()
        client.feed(whole[:cut])
        before = list(client.values)
        again = NdjsonParser()
        again.feed(ndjson_bytes(log, client.position))
        assert before + again.values == expected, cut
        client.feed(whole[cut:])
        assert client.values == expected, cut


@pytest.mark.parametrize("frame", [sse.frame, sse.named_frame])
def test_sse_with_odd_texts(frame: Frame) -> None:
    check_sse(rows(ODD), frame)


def test_ndjson_with_odd_texts() -> None:
    check_ndjson(rows(ODD))


@patient
@given(log=logs())
def test_sse_with_any_log(log: list[Event]) -> None:
    check_sse(known(log)[:12], sse.frame)


@patient
@given(log=logs())
def test_ndjson_with_any_log(log: list[Event]) -> None:
    check_ndjson(known(log)[:12])


@patient
@given(log=logs())
def test_byte_by_byte(log: list[Event]) -> None:
    log = known(log)
    stream, lines = SseParser(), NdjsonParser()
    for byte in sse_bytes(log, 0, sse.frame):
        stream.feed(bytes([byte]))
    for byte in ndjson_bytes(log, 0):
        lines.feed(bytes([byte]))
    assert read(stream.messages) == lines.values == objects(log)
    assert [message.last_event_id for message in stream.messages] == [str(event.position) for event in log]
    assert {message.event for message in stream.messages} <= {"message"}
    assert stream.retry == RETRY


@patient
@given(log=logs())
def test_pages_follow_one_another(log: list[Event]) -> None:
    """Page by page along `next`, of every size; a page that is cut is no JSON, and is asked for again."""
    log = known(log)
    for size in (1, 2, 7, len(log)):
        after, found = 0, []
        while after < len(log):
            part = log[after : after + size]
            text = page.page(part, part[-1].position, up_to_date=part[-1] is log[-1], closed=False)
            body = json.loads(text)
            found += body["events"]
            after = body["next"]
            assert body["up_to_date"] is (after == len(log))
        assert found == objects(log)
    for cut in range(len(text)):
        with pytest.raises(ValueError, match=r"."):
            json.loads(text[:cut])
