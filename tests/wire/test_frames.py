"""Frames, byte by byte as the contract shows them: SSE, NDJSON, pages and the WebSocket's texts."""

import json

import msgspec
import pytest

from server import event_types
from server.wire import event_json, sse, websocket_messages
from server.wire.event_json import encode
from tests.conversations.event_builders import rows

from .parsers import SseParser

(EVENT,) = rows([event_types.token("gen_1", "The ")])
OBJECT = b'{"position":1,"type":"token","at":"2026-01-01T00:00:01.123456Z","generation":"gen_1","delta":"The "}'


def test_an_sse_frame() -> None:
    assert sse.frame(EVENT) == b"data: " + OBJECT + b"\nid: 1\n\n"


def test_a_named_frame_only_adds_its_name() -> None:
    assert sse.named_frame(EVENT) == b"event: token\n" + sse.frame(EVENT)


def test_the_opening_is_one_block_that_dispatches_nothing() -> None:
    """It names a cursor only to a client that cannot know it: some give out an empty message for each block."""
    assert sse.opening(1000) == b"retry: 1000\n\n"
    assert sse.opening(1000, 17) == b"retry: 1000\nid: 17\n\n"
    assert sse.opening(1000, 0) == b"retry: 1000\nid: 0\n\n"
    client = SseParser("5")
    client.feed(sse.opening(1000))
    assert (client.messages, client.last_event_id, client.retry) == ([], "5", 1000)
    client.feed(sse.opening(1000, 17))
    assert (client.messages, client.last_event_id) == ([], "17")


@pytest.mark.parametrize("pad", [0, 1, 2, 3, 4, 100, 4096, 65_536])
def test_padding_is_a_comment_of_that_size_before_everything(pad: int) -> None:
    text = sse.opening(1000, 0, pad)
    assert text.endswith(sse.opening(1000, 0))
    assert len(text) - len(sse.opening(1000, 0)) == (pad if pad >= 2 else 0)
    assert text.count(b"\n\n") == 1
    client = SseParser()
    client.feed(text)
    assert (client.messages, client.last_event_id) == ([], "0")
    assert len(client.comments) == (pad >= 2)


def test_the_end_is_told_without_an_id() -> None:
    client = SseParser("5")
    client.feed(sse.DONE)
    assert [(message.event, message.data) for message in client.messages] == [("message", "[DONE]")]
    assert client.last_event_id == "5"


def test_heartbeats_dispatch_nothing() -> None:
    client = SseParser("5")
    client.feed(sse.HEARTBEAT * 3)
    assert (client.messages, client.last_event_id, len(client.comments)) == ([], "5", 3)
    assert b"\n\n" not in sse.HEARTBEAT, "an empty line is an empty message to some clients"
    assert event_json.NDJSON_HEARTBEAT == b"\n"


def test_a_visible_heartbeat_moves_no_cursor() -> None:
    client = SseParser("5")
    client.feed(sse.frame(EVENT) + sse.HEARTBEAT_EVENT)
    assert [(message.event, message.data) for message in client.messages[1:]] == [("heartbeat", "{}")]
    assert client.last_event_id == "1"


def test_a_cut_at_every_byte_of_a_frame_for_a_client_that_takes_the_id_when_its_line_ends() -> None:
    """Such a client must never have the id of an event that it has not: the event would be lost."""
    text = sse.frame(EVENT)
    for cut in range(len(text)):
        if b"\nid: 1\n" in text[:cut]:
            assert OBJECT + b"\n" in text[:cut]


@pytest.mark.parametrize("odd", ["\x85", "\u2028", "\u2029"])
def test_line_ends_of_unicode_leave_escaped(odd: str) -> None:
    (event,) = rows([event_types.token("gen_1", f"a{odd}b\u00fc")])
    text = encode(event).decode()
    assert len(text.splitlines()) == 1
    assert json.loads(text)["delta"] == f"a{odd}b\u00fc"


def test_a_temporary_refusal() -> None:
    """Nothing to dispatch, and the cursor as it came: the client comes back with the one it had."""
    client = SseParser("5")
    client.feed(sse.refusal(1500, "draining: come back"))
    assert (client.messages, client.last_event_id, client.retry) == ([], "5", 1500)
    assert client.comments == [" draining: come back"]
    client.feed(sse.refusal(1500, "draining", "17"))
    assert (client.messages, client.last_event_id) == ([], "17")


def test_a_line_of_ndjson() -> None:
    assert event_json.ndjson_line(EVENT) == OBJECT + b"\n"


@pytest.mark.parametrize("up_to_date", [True, False])
@pytest.mark.parametrize("closed", [True, False])
def test_a_page(up_to_date: bool, closed: bool) -> None:
    body = json.loads(event_json.json_page([EVENT, EVENT], 42, up_to_date=up_to_date, closed=closed))
    assert list(body) == ["events", "next", "up_to_date", "closed"]
    assert body == {
        "events": [json.loads(OBJECT)] * 2,
        "next": 42,
        "up_to_date": up_to_date,
        "closed": closed,
    }


def test_an_empty_page() -> None:
    assert event_json.json_page([], 0, up_to_date=True, closed=False) == (
        b'{"events":[],"next":0,"up_to_date":true,"closed":false}\n'
    )


def test_websocket_messages() -> None:
    assert json.loads(websocket_messages.event(EVENT)) == {"kind": "event", "event": json.loads(encode(EVENT))}
    assert json.loads(websocket_messages.hello("conv_1", 3, 9)) == {
        "kind": "hello",
        "conversation": "conv_1",
        "after": 3,
        "head": 9,
    }
    assert json.loads(websocket_messages.caught_up(9)) == {"kind": "caught_up", "position": 9}


def test_presence_messages() -> None:
    """The list is encoded once, and stands in the frame of each as it is."""
    since = "2026-01-01T00:00:01.000000Z"
    listed = websocket_messages.people([websocket_messages.Person("c1", 'Ann "A"', "anonymous", since)])
    for you in ("c1", "c2"):
        assert json.loads(websocket_messages.presence(you, listed, 7)) == {
            "kind": "presence",
            "you": you,
            "count": 7,
            "people": [{"connection": "c1", "author": 'Ann "A"', "by": "anonymous", "since": since}],
        }
    assert json.loads(websocket_messages.presence("c1", websocket_messages.people([]), 0))["people"] == []


@pytest.mark.parametrize("command", ["c1", "", 0, 7, 'a"b'])
def test_replies_name_their_command(command: str | int) -> None:
    body = msgspec.Raw(b'{"a":1}')
    assert json.loads(websocket_messages.reply(command, {"status": 202, "body": body})) == {
        "kind": "reply",
        "id": command,
        "status": 202,
        "body": {"a": 1},
    }
    error = json.loads(websocket_messages.error(command, "not_found", "There is none.", {"status": 404}))
    assert error == {
        "kind": "error",
        "id": command,
        "code": "not_found",
        "detail": "There is none.",
        "status": 404,
    }


def test_an_error_of_no_command_has_no_id() -> None:
    assert json.loads(websocket_messages.error(None, "draining", "Come back.", {})) == {
        "kind": "error",
        "code": "draining",
        "detail": "Come back.",
    }
