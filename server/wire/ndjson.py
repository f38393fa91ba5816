"""NDJSON: one event object a line; an empty line is a sign of life. https://github.com/ndjson/ndjson-spec"""

from eventstore import Event
from server.wire.event_json import encode

HEARTBEAT = b"\n"
MEDIA_TYPE = "application/x-ndjson"


def line(event: Event) -> bytes:
    """One event, one line."""
    return encode(event) + b"\n"
