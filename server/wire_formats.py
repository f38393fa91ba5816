"""The bytes clients see: the event object as JSON, and its frame for each transport. Pure; no I/O, no web
framework.

**The event object** is the same on every transport. It is encoded once per event and process. Position, type, time
and generation come from the store's columns, the rest is the stored text: no event is parsed on its way out,
except the few that hold `CARRY`, which is for this server alone. Every transport, webhook and command encodes
events here, so this is the one place that leaves `CARRY` out. Two formats are made of it alone: the JSON page and
the NDJSON line (https://github.com/ndjson/ndjson-spec).

**Server-sent events** (`sse_…`) are as the WHATWG standard defines them and as widely used clients read them:
https://html.spec.whatwg.org/multipage/server-sent-events.html. Each event is one complete JSON object in one
`data:` line, followed by its position in an `id:` line. The order matters: by the standard an id counts when its
block ends, but for several clients it counts when its line is parsed. If `id:` came first, such a client, cut
inside the data line, would resume after an event that it never delivered.

**WebSocket messages** (`ws_…`) are JSON texts, each with its `kind`. Subprotocol `tokentape.v1`.
"""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from eventstore import Event
from server.event_types import CARRY, EventType

_LINE_ENDS = re.compile("[\x85\u2028\u2029]")
"""Line ends of Unicode. JSON allows them in a string unescaped, but some clients split text into lines at them."""


_decode_raw = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def encode_event(event: Event) -> bytes:
    """The event object as JSON: one line, UTF-8. It is kept with the event, for all readers of the tail cache."""
    found = event.memo.get("object") if event.memo is not None else None
    if found is None:
        found = _encode_event(event)
        event.memoize("object", found)
    return found


def _encode_event(event: Event) -> bytes:
    at = event.at.isoformat(timespec="microseconds")[
        :26
    ]  # without "+00:00"; strftime would take ten times as long
    # Types and ids are ASCII words of our own: they need no escaping.
    tag = f',"generation":"{event.tag}"' if event.tag is not None else ""
    data = event.data
    if event.type == EventType.STEP_FINISHED and f'"{CARRY}"' in data:
        data = _without_carry(data)
    if not data.isascii():
        data = _LINE_ENDS.sub(lambda found: f"\\u{ord(found[0]):04x}", data)
    rest = "," + data[1:] if data != "{}" else "}"
    return f'{{"position":{event.position},"type":"{event.type}","at":"{at}Z"{tag}{rest}'.encode()


def _without_carry(data: str) -> str:
    """An event's fields without `CARRY`, what the provider wants back; all other values stay as they are written.

    Only the event's own field is left out: an app may use the same name inside a result.
    """
    fields = _decode_raw(data)
    fields.pop(CARRY, None)
    return msgspec.json.encode(fields).decode()


def json_page(events: Sequence[Event], next_: int, *, up_to_date: bool, closed: bool) -> bytes:
    """A JSON page. `next_`: the position up to which the log was scanned. `closed`: nothing will ever follow."""
    flags = f'"next":{next_},"up_to_date":{str(up_to_date).lower()},"closed":{str(closed).lower()}'
    return b'{"events":[%b],%b}\n' % (b",".join(map(encode_event, events)), flags.encode())


NDJSON_HEARTBEAT = b"\n"
"""An empty line."""
NDJSON_MEDIA_TYPE = "application/x-ndjson"


def ndjson_line(event: Event) -> bytes:
    """One event as one line of NDJSON."""
    return encode_event(event) + b"\n"


SSE_HEARTBEAT = b":\n"
"""A comment without an empty line after it: several clients deliver an empty message at each empty line."""
SSE_HEARTBEAT_EVENT = b"event: heartbeat\ndata: {}\n\n"
"""A heartbeat that a page can see. It has no id, so it does not move the cursor."""
SSE_DONE = b"data: [DONE]\n\n"
SSE_MEDIA_TYPE = "text/event-stream"


def sse_opening(retry_ms: int, cursor: int | None = None, pad: int = 0) -> bytes:
    """The beginning of a stream: one block without data, for which a client delivers nothing.

    `retry_ms` is how long a client waits before it reconnects. `cursor` is the position of a client that began at
    `now` and cannot know it: cut before its first event, it then resumes at the right place. `pad` bytes of
    comment come first, for proxies that hold back the first kilobytes.
    """
    comment = b":" + b" " * (pad - 2) + b"\n" if pad >= 2 else b""
    id_line = b"" if cursor is None else b"id: %d\n" % cursor
    return b"%bretry: %d\n%b\n" % (comment, retry_ms, id_line)


def sse_frame(event: Event) -> bytes:
    """One event without a name, so that `onmessage` gets all types."""
    return b"data: %b\nid: %d\n\n" % (encode_event(event), event.position)


def sse_named_frame(event: Event) -> bytes:
    """One event with its type as the event's name, for `addEventListener`."""
    return b"event: %b\n" % event.type.encode() + sse_frame(event)


def sse_refusal(retry_ms: int, why: str, cursor: str | None = None) -> bytes:
    """A temporary refusal: the body of a 200, because an `EventSource` gives up for ever on any other status.

    `cursor` is the text that the client sent; it is sent back because some clients would forget it.
    """
    id_line = "" if cursor is None else f"id: {cursor}\n"
    return f"{id_line}retry: {retry_ms}\n: {why}\n\n".encode()


SUBPROTOCOL = "tokentape.v1"


class Person(msgspec.Struct, frozen=True):
    """Somebody who is connected. `since` is UTC; `author` a name to show, which whoever connected chose."""

    connection: str
    author: str | None
    by: str
    since: str


def ws_event(item: Event) -> str:
    """One event of the log."""
    return '{"kind":"event","event":' + encode_event(item).decode() + "}"


def ws_hello(conversation: str, after: int, head: int) -> str:
    """The first message: the position after which reading starts, and the head of the log."""
    return _text({"kind": "hello", "conversation": conversation, "after": after, "head": head})


def ws_caught_up(position: int) -> str:
    """All events up to the head have been sent."""
    return _text({"kind": "caught_up", "position": position})


def ws_people(listed: Sequence[Person]) -> msgspec.Raw:
    """Those who are connected, encoded once for the messages to all of them."""
    return msgspec.Raw(msgspec.json.encode(listed))


def ws_presence(you: str, listed: msgspec.Raw, count: int) -> str:
    """Who is connected now. `you` is the connection that gets this message; `listed` may be fewer than `count`."""
    return _text({"kind": "presence", "you": you, "count": count, "people": listed})


def ws_reply(command: Any, fields: dict[str, Any]) -> str:
    """The reply to a command that was carried out. `command` is the id that the client gave it."""
    return _text({"kind": "reply", "id": command, **fields})


def ws_error(command: Any, code: str, detail: str, extra: dict[str, Any]) -> str:
    """A command that was refused, or with `command` None the connection."""
    named = {} if command is None else {"id": command}
    return _text({"kind": "error", **named, "code": code, "detail": detail, **extra})


def _text(message: dict[str, Any]) -> str:
    return msgspec.json.encode(message).decode()
