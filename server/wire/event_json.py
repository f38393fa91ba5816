"""The event object: one flat JSON object, the same on every transport, encoded once per event and process.

Position, type, time and generation come from the store's columns, the rest is the stored text as it is: no
event is parsed on its way out, but the few that carry what is for this server alone. Every transport, webhook and
command sends events through here, so this is the one place that leaves that out.
"""

import re

import msgspec

from eventstore import Event
from server.events import CARRY, Type

_LINE_ENDS = re.compile("[\x85\u2028\u2029]")
"""Line ends to Unicode, and so to clients that split text at them; JSON lets them stand in a string as they
are."""


_decode_raw = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def encode(event: Event) -> bytes:
    """The event object as JSON, one line, UTF-8. Kept with the event, for all readers of the shared tail."""
    found = event.memo.get("object") if event.memo is not None else None
    if found is None:
        found = _encode(event)
        event.keep("object", found)
    return found


def _encode(event: Event) -> bytes:
    at = event.at.isoformat(timespec="microseconds")[:26]  # without "+00:00"; strftime takes ten times as long
    # Types and ids are plain ASCII words of ours: no escaping is due.
    tag = f',"generation":"{event.tag}"' if event.tag is not None else ""
    data = event.data
    if event.type == Type.STEP_FINISHED and f'"{CARRY}"' in data:
        data = _without_carry(data)
    if not data.isascii():
        data = _LINE_ENDS.sub(lambda found: f"\\u{ord(found[0]):04x}", data)
    rest = "," + data[1:] if data != "{}" else "}"
    return f'{{"position":{event.position},"type":"{event.type}","at":"{at}Z"{tag}{rest}'.encode()


def _without_carry(data: str) -> str:
    """An event's fields without what a provider wants back; the values of the others stay as they are written.

    An app may use the word in a result of its own: only the event's own field is left out.
    """
    fields = _decode_raw(data)
    fields.pop(CARRY, None)
    return msgspec.json.encode(fields).decode()
