"""A stream cut at every byte: what a client read before the cut, plus what it reads after resuming, is the log.

The clients are the parsers; the server is the encoders and a list of events.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings

from eventstore import Event, NewEvent
from server import event_types, wire_formats
from server.wire_formats import encode_event
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


def parsable_events(log: Sequence[Event]) -> list[Event]:
    """The log without events whose data is no JSON (they are there to test the fold)."""
    return rows(NewEvent(event.type, event.data, event.tag) for event in log if event.data != "??")


def objects(log: Sequence[Event]) -> list[dict[str, Any]]:
    """The event objects of a log."""
    return [json.loads(encode_event(event)) for event in log]


def sse_bytes(log: Sequence[Event], after: int, frame: Frame, *, done: bool = False) -> bytes:
    """A whole SSE response: the opening, heartbeats here and there, the frames, the end."""
    frames = [
        frame(event) + wire_formats.SSE_HEARTBEAT * (event.position % 3 == 0)
        for event in log
        if event.position > after
    ]
    return wire_formats.sse_opening(RETRY) + b"".join(frames) + wire_formats.SSE_DONE * done


def ndjson_bytes(log: Sequence[Event], after: int) -> bytes:
    """A whole NDJSON response."""
    lines = [
        wire_formats.ndjson_line(event) + wire_formats.NDJSON_HEARTBEAT * (event.position % 3 == 0)
        for event in log[after:]
    ]
    return wire_formats.NDJSON_HEARTBEAT + b"".join(lines)


def message_objects(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The objects in an EventSource's messages."""
    return [json.loads(message.data) for message in messages if message.data != "[DONE]"]


def check_sse_cuts(log: list[Event], frame: Frame) -> None:
    """Cuts the response to the whole log after each byte, and resumes."""
    expected, rests = objects(log), {}
    for after in range(len(log) + 1):
        again = SseParser()
        again.feed(sse_bytes(log, after, frame))
        rests[str(after)] = message_objects(again.messages)
    rests[""] = rests["0"]
    client = SseParser()
    before = (-1, "")
    for byte in sse_bytes(log, 0, frame, done=True):
        client.feed(bytes([byte]))
        if before != (before := (len(client.messages), client.last_event_id)):
            assert message_objects(client.messages) + rests[client.last_event_id] == expected
    assert client.messages[-1] == Message("message", "[DONE]", str(len(log)))
    assert (rests[client.last_event_id], client.retry) == ([], RETRY)


def check_ndjson_cuts(log: list[Event]) -> None:
    """The same for NDJSON."""
    expected, rests = objects(log), []
    for after in range(len(log) + 1):
        again = NdjsonParser()
        again.feed(ndjson_bytes(log, after))
        rests.append(again.values)
    client = NdjsonParser()
    before = (-1, 0)
    for byte in ndjson_bytes(log, 0):
        client.feed(bytes([byte]))
        if before != (before := (len(client.values), client.position)):
            assert client.values + rests[client.position] == expected
    assert rests[client.position] == []


@pytest.mark.parametrize("frame", [wire_formats.sse_frame, wire_formats.sse_named_frame])
def test_sse_cut_in_unusual_texts(frame: Frame) -> None:
    check_sse_cuts(rows(ODD), frame)


def test_ndjson_cut_in_unusual_texts() -> None:
    check_ndjson_cuts(rows(ODD))


@settings(no_deadline, max_examples=settings().max_examples // 2)
@given(log=logs())
def test_sse_cut_in_any_log(log: list[Event]) -> None:
    check_sse_cuts(parsable_events(log), wire_formats.sse_frame)


@no_deadline
@given(log=logs())
def test_ndjson_cut_in_any_log(log: list[Event]) -> None:
    check_ndjson_cuts(parsable_events(log))


@settings(no_deadline, max_examples=settings().max_examples // 4)
@given(log=logs())
def test_any_two_pieces_are_parsed_alike(log: list[Event]) -> None:
    log = parsable_events(log)[:8]
    expected = objects(log)
    stream, lines = sse_bytes(log, 0, wire_formats.sse_frame, done=True), ndjson_bytes(log, 0)
    whole = SseParser()
    whole.feed(stream)
    assert message_objects(whole.messages) == expected
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
def test_pages_of_any_size_are_the_log(log: list[Event]) -> None:
    """Page after page by `next`."""
    log = parsable_events(log)
    for size in (1, 2, 7, len(log)):
        after, found = 0, []
        while after < len(log):
            part = log[after : after + size]
            text = wire_formats.json_page(part, part[-1].position, up_to_date=part[-1] is log[-1], closed=False)
            body = json.loads(text)
            found += body["events"]
            after = body["next"]
            assert body["up_to_date"] is (after == len(log))
        assert found == objects(log)


def test_cut_page_is_invalid_json() -> None:
    """So the client requests the whole page again."""
    text = wire_formats.json_page(rows(ODD), len(ODD), up_to_date=True, closed=True)
    for cut in range(len(text.rstrip())):
        with pytest.raises(ValueError, match=r"."):
            json.loads(text[:cut])
