"""Frames byte by byte as the contract shows them: SSE, NDJSON, pages and WebSocket messages."""

import json

import msgspec
import pytest

from server import event_types, wire_formats
from server.wire_formats import encode_event
from tests.conversations.event_builders import rows

from .parsers import SseParser

(EVENT,) = rows([event_types.token("gen_1", "The ")])
OBJECT = b'{"position":1,"type":"token","at":"2026-01-01T00:00:01.123456Z","generation":"gen_1","delta":"The "}'


def test_sse_frame() -> None:
    assert wire_formats.sse_frame(EVENT) == b"data: " + OBJECT + b"\nid: 1\n\n"


def test_named_sse_frame() -> None:
    assert wire_formats.sse_named_frame(EVENT) == b"event: token\n" + wire_formats.sse_frame(EVENT)


def test_sse_opening_dispatches_nothing() -> None:
    """It names a cursor only to a client that cannot know it.

    Some clients deliver an empty message for each block.
    """
    assert wire_formats.sse_opening(1000) == b"retry: 1000\n\n"
    assert wire_formats.sse_opening(1000, 17) == b"retry: 1000\nid: 17\n\n"
    assert wire_formats.sse_opening(1000, 0) == b"retry: 1000\nid: 0\n\n"
    client = SseParser("5")
    client.feed(wire_formats.sse_opening(1000))
    assert (client.messages, client.last_event_id, client.retry) == ([], "5", 1000)
    client.feed(wire_formats.sse_opening(1000, 17))
    assert (client.messages, client.last_event_id) == ([], "17")


@pytest.mark.parametrize("pad", [0, 1, 2, 3, 4, 100, 4096, 65_536])
def test_sse_padding_is_a_comment_before_everything(pad: int) -> None:
    text = wire_formats.sse_opening(1000, 0, pad)
    assert text.endswith(wire_formats.sse_opening(1000, 0))
    assert len(text) - len(wire_formats.sse_opening(1000, 0)) == (pad if pad >= 2 else 0)
    assert text.count(b"\n\n") == 1
    client = SseParser()
    client.feed(text)
    assert (client.messages, client.last_event_id) == ([], "0")
    assert len(client.comments) == (pad >= 2)


def test_sse_done_has_no_id() -> None:
    client = SseParser("5")
    client.feed(wire_formats.SSE_DONE)
    assert [(message.event, message.data) for message in client.messages] == [("message", "[DONE]")]
    assert client.last_event_id == "5"


def test_heartbeats_dispatch_nothing() -> None:
    client = SseParser("5")
    client.feed(wire_formats.SSE_HEARTBEAT * 3)
    assert (client.messages, client.last_event_id, len(client.comments)) == ([], "5", 3)
    assert b"\n\n" not in wire_formats.SSE_HEARTBEAT, "an empty line is an empty message to some clients"
    assert wire_formats.NDJSON_HEARTBEAT == b"\n"


def test_heartbeat_event_moves_no_cursor() -> None:
    client = SseParser("5")
    client.feed(wire_formats.sse_frame(EVENT) + wire_formats.SSE_HEARTBEAT_EVENT)
    assert [(message.event, message.data) for message in client.messages[1:]] == [("heartbeat", "{}")]
    assert client.last_event_id == "1"


def test_frame_cut_at_every_byte_never_gives_an_id_without_its_data() -> None:
    """Some clients take the id as soon as its line ends: with an id before the data they would skip the event."""
    text = wire_formats.sse_frame(EVENT)
    for cut in range(len(text)):
        if b"\nid: 1\n" in text[:cut]:
            assert OBJECT + b"\n" in text[:cut]


@pytest.mark.parametrize("odd", ["\x85", "\u2028", "\u2029"])
def test_unicode_line_separators_are_escaped(odd: str) -> None:
    (event,) = rows([event_types.token("gen_1", f"a{odd}b\u00fc")])
    text = encode_event(event).decode()
    assert len(text.splitlines()) == 1
    assert json.loads(text)["delta"] == f"a{odd}b\u00fc"


def test_sse_refusal_keeps_the_cursor() -> None:
    """It dispatches nothing, and the client comes back with the cursor that it had."""
    client = SseParser("5")
    client.feed(wire_formats.sse_refusal(1500, "draining: come back"))
    assert (client.messages, client.last_event_id, client.retry) == ([], "5", 1500)
    assert client.comments == [" draining: come back"]
    client.feed(wire_formats.sse_refusal(1500, "draining", "17"))
    assert (client.messages, client.last_event_id) == ([], "17")


def test_ndjson_line() -> None:
    assert wire_formats.ndjson_line(EVENT) == OBJECT + b"\n"


@pytest.mark.parametrize("up_to_date", [True, False])
@pytest.mark.parametrize("closed", [True, False])
def test_json_page(up_to_date: bool, closed: bool) -> None:
    body = json.loads(wire_formats.json_page([EVENT, EVENT], 42, up_to_date=up_to_date, closed=closed))
    assert list(body) == ["events", "next", "up_to_date", "closed"]
    assert body == {
        "events": [json.loads(OBJECT)] * 2,
        "next": 42,
        "up_to_date": up_to_date,
        "closed": closed,
    }


def test_empty_json_page() -> None:
    assert wire_formats.json_page([], 0, up_to_date=True, closed=False) == (
        b'{"events":[],"next":0,"up_to_date":true,"closed":false}\n'
    )


def test_websocket_messages() -> None:
    assert json.loads(wire_formats.ws_event(EVENT)) == {"kind": "event", "event": json.loads(encode_event(EVENT))}
    assert json.loads(wire_formats.ws_hello("conv_1", 3, 9)) == {
        "kind": "hello",
        "conversation": "conv_1",
        "after": 3,
        "head": 9,
    }
    assert json.loads(wire_formats.ws_caught_up(9)) == {"kind": "caught_up", "position": 9}


def test_presence_messages() -> None:
    """The list is encoded once, and inserted unchanged into each client's frame."""
    since = "2026-01-01T00:00:01.000000Z"
    listed = wire_formats.ws_people([wire_formats.Person("c1", 'Ann "A"', "anonymous", since)])
    for you in ("c1", "c2"):
        assert json.loads(wire_formats.ws_presence(you, listed, 7)) == {
            "kind": "presence",
            "you": you,
            "count": 7,
            "people": [{"connection": "c1", "author": 'Ann "A"', "by": "anonymous", "since": since}],
        }
    assert json.loads(wire_formats.ws_presence("c1", wire_formats.ws_people([]), 0))["people"] == []


@pytest.mark.parametrize("command", ["c1", "", 0, 7, 'a"b'])
def test_replies_name_their_command(command: str | int) -> None:
    body = msgspec.Raw(b'{"a":1}')
    assert json.loads(wire_formats.ws_reply(command, {"status": 202, "body": body})) == {
        "kind": "reply",
        "id": command,
        "status": 202,
        "body": {"a": 1},
    }
    error = json.loads(wire_formats.ws_error(command, "not_found", "There is none.", {"status": 404}))
    assert error == {
        "kind": "error",
        "id": command,
        "code": "not_found",
        "detail": "There is none.",
        "status": 404,
    }


def test_error_without_a_command_has_no_id() -> None:
    assert json.loads(wire_formats.ws_error(None, "draining", "Come back.", {})) == {
        "kind": "error",
        "code": "draining",
        "detail": "Come back.",
    }
