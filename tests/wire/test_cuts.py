"""Cut at every byte: what a client read before the cut, plus what it asks for after it, is the log.

The clients are `parsers`; the server is the encoders and a list of events.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings

from eventstore import Event, NewEvent
from server import event_types
from server.wire import event_json, sse
from server.wire.event_json import encode
from tests.conversations.event_builders import no_deadline, rows, said, started
from tests.conversations.log_strategies import logs

from .parsers import Message, NdjsonParser, SseParser

RETRY = 1000
Frame = Callable[[Event], bytes]

ODD = [
    *(
        said(f"m{n}", text)
        for n, text in enumerate(['"\\', "a\n\ndata: b\r\n", "\u2028\u2029", "ü\U0001f600\ufeff"])
    ),
    event_types.conversation_started(None, None),
    started("gen_1"),
    *(event_types.token("gen_1", text) for text in ["", "é", "\U0001f469\u200d\U0001f680", "\x85", "[DONE]"]),
]


def known(log: Sequence[Event]) -> list[Event]:
    """Without the events whose data is no JSON (there to trouble the fold)."""
    return rows(NewEvent(event.type, event.data, event.tag) for event in log if event.data != "??")


def objects(log: Sequence[Event]) -> list[dict[str, Any]]:
    """The event objects of a log."""
    return [json.loads(encode(event)) for event in log]


def sse_bytes(log: Sequence[Event], after: int, frame: Frame, *, done: bool = False) -> bytes:
    """A whole response: the opening, a heartbeat here and there, the frames, the end."""
    frames = [frame(event) + sse.HEARTBEAT * (event.position % 3 == 0) for event in log if event.position > after]
    return sse.opening(RETRY) + b"".join(frames) + sse.DONE * done


def ndjson_bytes(log: Sequence[Event], after: int) -> bytes:
    """A whole response."""
    lines = [
        event_json.ndjson_line(event) + event_json.NDJSON_HEARTBEAT * (event.position % 3 == 0)
        for event in log[after:]
    ]
    return event_json.NDJSON_HEARTBEAT + b"".join(lines)


def read(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The objects of an EventSource's messages."""
    return [json.loads(message.data) for message in messages if message.data != "[DONE]"]


def check_sse(log: list[Event], frame: Frame) -> None:
    """Every cut of the whole log's response, whose bytes come one by one."""
    expected, rests = objects(log), {}
    for after in range(len(log) + 1):
        again = SseParser()
        again.feed(sse_bytes(log, after, frame))
        rests[str(after)] = read(again.messages)
    rests[""] = rests["0"]
    client = SseParser()
    for byte in sse_bytes(log, 0, frame, done=True):
        client.feed(bytes([byte]))
        assert read(client.messages) + rests[client.last_event_id] == expected
    assert client.messages[-1] == Message("message", "[DONE]", str(len(log)))
    assert (rests[client.last_event_id], client.retry) == ([], RETRY)


def check_ndjson(log: list[Event]) -> None:
    """The same for lines."""
    expected, rests = objects(log), []
    for after in range(len(log) + 1):
        again = NdjsonParser()
        again.feed(ndjson_bytes(log, after))
        rests.append(again.values)
    client = NdjsonParser()
    for byte in ndjson_bytes(log, 0):
        client.feed(bytes([byte]))
        assert client.values + rests[client.position] == expected
    assert rests[client.position] == []


@pytest.mark.parametrize("frame", [sse.frame, sse.named_frame])
def test_sse_with_odd_texts(frame: Frame) -> None:
    check_sse(rows(ODD), frame)


def test_ndjson_with_odd_texts() -> None:
    check_ndjson(rows(ODD))


@settings(no_deadline, max_examples=40)
@given(log=logs())
def test_sse_with_any_log(log: list[Event]) -> None:
    check_sse(known(log), sse.frame)


@no_deadline
@given(log=logs())
def test_ndjson_with_any_log(log: list[Event]) -> None:
    check_ndjson(known(log))


@settings(no_deadline, max_examples=20)
@given(log=logs())
def test_in_two_pieces_wherever_they_part(log: list[Event]) -> None:
    log = known(log)[:8]
    expected = objects(log)
    stream, lines = sse_bytes(log, 0, sse.frame, done=True), ndjson_bytes(log, 0)
    whole = SseParser()
    whole.feed(stream)
    assert read(whole.messages) == expected
    assert [message.last_event_id for message in whole.messages[:-1]] == [str(event.position) for event in log]
    assert {message.event for message in whole.messages} == {"message"}
    for cut in range(len(stream) + 1):
        parts = SseParser()
        parts.feed(stream[:cut])
        parts.feed(stream[cut:])
        assert (parts.messages, parts.last_event_id) == (whole.messages, whole.last_event_id)
    for cut in range(len(lines) + 1):
        pieces = NdjsonParser()
        pieces.feed(lines[:cut])
        pieces.feed(lines[cut:])
        assert pieces.values == expected


@no_deadline
@given(log=logs())
def test_pages_follow_one_another(log: list[Event]) -> None:
    """Page by page along `next`, of any size."""
    log = known(log)
    for size in (1, 2, 7, len(log)):
        after, found = 0, []
        while after < len(log):
            part = log[after : after + size]
            text = event_json.json_page(part, part[-1].position, up_to_date=part[-1] is log[-1], closed=False)
            body = json.loads(text)
            found += body["events"]
            after = body["next"]
            assert body["up_to_date"] is (after == len(log))
        assert found == objects(log)


def test_a_page_that_is_cut_is_no_json() -> None:
    """So it is asked for again, whole."""
    text = event_json.json_page(rows(ODD), len(ODD), up_to_date=True, closed=True)
    for cut in range(len(text.rstrip())):
        with pytest.raises(ValueError, match=r"."):
            json.loads(text[:cut])
