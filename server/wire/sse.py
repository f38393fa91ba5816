"""Server-sent events, as the WHATWG EventSource reads them.

https://html.spec.whatwg.org/multipage/server-sent-events.html. One complete JSON object per `data:` line;
every event frame carries its position as `id:`, so that a cut stream is taken up exactly behind it.
"""

from eventstore import Event
from server.wire.event_json import encode

HEARTBEAT = b":\n\n"
DONE = b"data: [DONE]\n\n"
MEDIA_TYPE = "text/event-stream"
NO_BUFFERING = {
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",  # nginx holds back 32 KB otherwise
}


def opening(cursor: int, retry_ms: int, pad: int = 0) -> bytes:
    """What a stream begins with: the way to come back, and from where.

    The id-only frame dispatches nothing but is remembered: a client cut before its first event still comes
    back to where it began, also with `after=now`. `pad` bytes of comment first, for proxies that hold back
    the first kilobytes.
    """
    comment = b":" + b" " * (pad - 3) + b"\n\n" if pad >= 3 else b""
    return comment + f"retry: {retry_ms}\n\nid: {cursor}\n\n".encode()


def frame(event: Event) -> bytes:
    """One event, unnamed, so that `onmessage` gets all."""
    return b"id: %d\ndata: %b\n\n" % (event.position, encode(event))


def named_frame(event: Event) -> bytes:
    """One event with its type as the event's name, for `addEventListener`."""
    return b"event: %b\n" % event.type.encode() + frame(event)


def refusal(retry_ms: int, why: str) -> bytes:
    """A refusal that passes. A native EventSource gives up for ever on any status but 200, so it is one."""
    return f"retry: {retry_ms}\n: {why}\n\n".encode()
