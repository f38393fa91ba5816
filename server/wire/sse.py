"""Server-sent events, as the WHATWG EventSource reads them, and as widely used clients really read them.

https://html.spec.whatwg.org/multipage/server-sent-events.html. One complete JSON object per `data:` line, and the
event's position as `id:` behind it. The standard takes an id when its block ends; several clients take it when its
line is parsed. With `id:` first, such a client whose connection is cut inside the data line would come back behind
an event that it never gave out.
"""

from eventstore import Event
from server.wire.event_json import encode

HEARTBEAT = b":\n"
"""A comment, without an empty line behind it: several clients give out an empty message at each empty line."""
HEARTBEAT_EVENT = b"event: heartbeat\ndata: {}\n\n"
"""A sign of life that a page can see. It has no id, so it moves no cursor."""
DONE = b"data: [DONE]\n\n"
MEDIA_TYPE = "text/event-stream"


def opening(retry_ms: int, cursor: int | None = None, pad: int = 0) -> bytes:
    """What a stream begins with: one block without data, which dispatches nothing.

    `retry_ms` is how long a client waits before it comes back. `cursor` is told to a client that cannot know it
    (`after=now`): cut before its first event, it comes back to where it began. `pad` bytes of comment go first,
    for proxies that hold back the first kilobytes.
    """
    comment = b":" + b" " * (pad - 2) + b"\n" if pad >= 2 else b""
    told = b"" if cursor is None else b"id: %d\n" % cursor
    return b"%bretry: %d\n%b\n" % (comment, retry_ms, told)


def frame(event: Event) -> bytes:
    """One event, unnamed, so that `onmessage` gets all."""
    return b"data: %b\nid: %d\n\n" % (encode(event), event.position)


def named_frame(event: Event) -> bytes:
    """One event with its type as the event's name, for `addEventListener`."""
    return b"event: %b\n" % event.type.encode() + frame(event)


def refusal(retry_ms: int, why: str, cursor: str | None = None) -> bytes:
    """A refusal that passes, with the cursor as the client sent it, so that no client forgets it.

    A native EventSource gives up for ever on any status but 200, so this is the body of one.
    """
    told = "" if cursor is None else f"id: {cursor}\n"
    return f"{told}retry: {retry_ms}\n: {why}\n\n".encode()
