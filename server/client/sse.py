"""Server-sent events, read: bytes in, frames out, wherever the bytes were cut. Pure.

https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream, for UTF-8 streams whose
lines end with LF or CRLF, as ours do.
"""

from typing import NamedTuple

DONE = b"[DONE]"
"""The data of the frame behind a generation's last event."""


class Frame(NamedTuple):
    """What stood between two empty lines. A frame without data dispatches nothing, but its id counts."""

    id: bytes | None
    data: bytes | None
    retry_ms: int | None


class Frames:
    """A parser for one response."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []  # pieces of a line that is not whole yet
        self._id: bytes | None = None
        self._data: list[bytes] = []
        self._retry: int | None = None

    def feed(self, received: bytes) -> list[Frame]:
        """The frames that are whole now. A frame that is cut by the end of the stream is dropped, as it must."""
        if b"\n" not in received:
            self._rest.append(received)
            return []
        *lines, rest = b"".join([*self._rest, received]).split(b"\n")
        self._rest = [rest]
        found = []
        for raw in lines:
            line = raw[:-1] if raw.endswith(b"\r") else raw
            if line:
                self._take(line)
            elif self._id is not None or self._data or self._retry is not None:
                data = b"\n".join(self._data) if self._data else None
                found.append(Frame(self._id, data, self._retry))
                self._id, self._data, self._retry = None, [], None
        return found

    def _take(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if name == b"data":
            self._data.append(value)
        elif name == b"id" and b"\0" not in value:
            self._id = value
        elif name == b"retry" and value.isdigit():
            self._retry = int(value[:9])
