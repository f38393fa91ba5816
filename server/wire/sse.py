"""Server-sent events, as the WHATWG standard defines them and as widely used clients read them. Pure.

https://html.spec.whatwg.org/multipage/server-sent-events.html. Owns the bytes of a stream: each event is one
complete JSON object in one `data:` line, followed by its position in an `id:` line. The order matters: by the
standard an id counts when its block ends, but for several clients it counts when its line is parsed. If `id:` came
first, such a client, cut inside the data line, would resume after an event that it never delivered.
"""

from eventstore import Event
from server.wire.event_json import encode

HEARTBEAT = b":\n"
"""A comment without an empty line after it: several clients deliver an empty message at each empty line."""
HEARTBEAT_EVENT = b"event: heartbeat\ndata: {}\n\n"
"""A heartbeat that a page can see. It has no id, so it does not move the cursor."""
DONE = b"data: [DONE]\n\n"
MEDIA_TYPE = "text/event-stream"


def opening(retry_ms: int, cursor: int | None = None, pad: int = 0) -> bytes:
    """The beginning of a stream: one block without data, for which a client delivers nothing.

    `retry_ms` is how long a client waits before it reconnects. `cursor` is the position of a client that began at
    `now` and cannot know it: cut before its first event, it then resumes at the right place. `pad` bytes of
    comment come first, for proxies that hold back the first kilobytes.
    """
    comment = b":" + b" " * (pad - 2) + b"\n" if pad >= 2 else b""
    id_line = b"" if cursor is None else b"id: %d\n" % cursor
    return b"%bretry: %d\n%b\n" % (comment, retry_ms, id_line)


def frame(event: Event) -> bytes:
    """One event without a name, so that `onmessage` gets all types."""
    return b"data: %b\nid: %d\n\n" % (encode(event), event.position)


def named_frame(event: Event) -> bytes:
    """One event with its type as the event's name, for `addEventListener`."""
    return b"event: %b\n" % event.type.encode() + frame(event)


def refusal(retry_ms: int, why: str, cursor: str | None = None) -> bytes:
    """A temporary refusal: the body of a 200, because an `EventSource` gives up for ever on any other status.

    `cursor` is the text that the client sent; it is sent back because some clients would forget it.
    """
    id_line = "" if cursor is None else f"id: {cursor}\n"
    return f"{id_line}retry: {retry_ms}\n: {why}\n\n".encode()
