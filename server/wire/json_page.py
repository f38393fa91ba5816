"""A JSON page of the log: for clients that speak plain JSON over GET."""

from collections.abc import Sequence

from eventstore import Event
from server.wire.event_json import encode


def page(events: Sequence[Event], following: int, *, up_to_date: bool, closed: bool) -> bytes:
    """`next` is how far the log was scanned; `closed` that nothing will ever follow."""
    flags = f'"next":{following},"up_to_date":{str(up_to_date).lower()},"closed":{str(closed).lower()}'
    return b'{"events":[%b],%b}\n' % (b",".join(map(encode, events)), flags.encode())
