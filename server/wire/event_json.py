"""The event object as JSON, the same on every transport; and the two formats that are made of it alone.

Owns the encoding of an event, once per event and process, and its two plain formats: the JSON page and the NDJSON
line (https://github.com/ndjson/ndjson-spec). Position, type, time and generation come from the store's columns,
the rest is the stored text: no event is parsed on its way out, except the few that hold `CARRY`, which is for this
server alone. Every transport, webhook and command encodes events here, so this is the one place that leaves
`CARRY` out. Pure.
"""

import re
from collections.abc import Sequence

import msgspec

from eventstore import Event
from server.event_types import CARRY, EventType

_LINE_ENDS = re.compile("[\x85\u2028\u2029]")
"""Line ends of Unicode. JSON allows them in a string unescaped, but some clients split text into lines at them."""


_decode_raw = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def encode(event: Event) -> bytes:
    """The event object as JSON: one line, UTF-8. It is kept with the event, for all readers of the tail cache."""
    found = event.memo.get("object") if event.memo is not None else None
    if found is None:
        found = _encode(event)
        event.memoize("object", found)
    return found


def _encode(event: Event) -> bytes:
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
    return b'{"events":[%b],%b}\n' % (b",".join(map(encode, events)), flags.encode())


NDJSON_HEARTBEAT = b"\n"
"""An empty line."""
NDJSON_MEDIA_TYPE = "application/x-ndjson"


def ndjson_line(event: Event) -> bytes:
    """One event as one line of NDJSON."""
    return encode(event) + b"\n"
