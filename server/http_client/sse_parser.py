"""An incremental parser for `text/event-stream`, for every stream that this project reads.

Owns the rules of the WHATWG HTML standard, section 9.2.6 "Interpreting an event stream": line ends CRLF, LF and
CR, a leading byte order mark, comments, data over several lines, fields without a colon; wherever packets cut the
bytes. Two things go beyond the standard, which ignores unknown fields: a field `error` makes a message of the type
`error` (llama.cpp reports failures so), and lines that are no fields are kept for `unparsed`, because a body that
is no event stream at all may say why. Pure: must not know HTTP or what data means. Lines are cut as bytes, so
UTF-8 that is split over packets needs no care.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["SseMessage", "SseMessageTooLong", "SseParser"]

MAX_MESSAGE = 1 << 20  # bytes; a chunk of text has a few hundred, a broken server may send a message without end
MAX_UNPARSED = 1 << 16  # bytes of lines that are no fields, kept to be quoted
_COMMENT = b""  # a comment is a line whose field name is empty
_BOM = b"\xef\xbb\xbf"


class SseMessage(NamedTuple):
    """What stood between two empty lines, if it has data, an id or a retry.

    `data`: the data lines joined by LF; empty if there are none, and then a browser would dispatch no event.
    `event`: its type, `message` if it names none. `id`: None if it names none. `retry_ms`: how long to wait before
    reconnecting, None if it names no time.
    """

    data: bytes
    event: str = "message"
    id: bytes | None = None
    retry_ms: int | None = None


class SseMessageTooLong(ValueError):
    """A line or message is over the limit. `messages`: those that were complete before it, in the same bytes."""

    def __init__(self, limit: int, messages: list[SseMessage]) -> None:
        super().__init__(f"a message of the event stream is longer than {limit} bytes")
        self.messages = messages


class SseParser:
    """The parser of one stream: bytes in as they arrive, complete messages out.

    A last message without an empty line behind it is dropped, as the standard demands.
    """

    __slots__ = (
        "_after_cr",
        "_data",
        "_event",
        "_first_line",
        "_held",
        "_id",
        "_limit",
        "_rest",
        "_retry_ms",
        "_unparsed",
        "_unparsed_size",
    )

    def __init__(self, limit: int = MAX_MESSAGE) -> None:
        """`limit`: how many bytes one message may have."""
        self._limit = limit
        self._rest: list[bytes] = []  # pieces of a line whose end has not come; joining them each time costs n²
        self._held = 0  # bytes held for the message under way
        self._data: list[bytes] = []
        self._event = "message"
        self._id: bytes | None = None
        self._retry_ms: int | None = None
        self._after_cr = False
        self._first_line = True
        self._unparsed: list[bytes] = []
        self._unparsed_size = 0

    def unparsed(self) -> bytes:
        """What came so far and is neither part of a message nor a comment, line by line.

        Call it when the stream has ended. An unfinished last line that could have become a field is left out.
        """
        lines = list(self._unparsed)
        if self._event == "error":
            lines += self._data  # the empty line behind the error never came
        last = b"".join(self._rest)
        if self._first_line:
            last = last.removeprefix(_BOM)
        name, colon, value = last.partition(b":")
        if name == b"error" and colon:
            lines.append(value.strip())
        elif name not in (b"data", b"event", b"id", b"retry", _COMMENT):
            lines.append(last)
        return b"\n".join(lines).strip()

    def feed(self, data: bytes) -> list[SseMessage]:
        """Returns the messages that these bytes complete. Raises `SseMessageTooLong`; feed nothing after that."""
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")  # the LF of a CRLF that was split over two packets
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = data.split(b"\n")
        last = lines.pop()
        messages: list[SseMessage] = []
        if lines and self._rest:
            lines[0] = b"".join((*self._rest, lines[0]))
            self._held -= sum(map(len, self._rest))
            self._rest.clear()
        for line in lines:
            self._take_line(line, messages)
        if last:
            self._rest.append(last)
            self._hold(len(last), messages)
        return messages

    def _hold(self, size: int, messages: list[SseMessage]) -> None:
        self._held += size
        if self._held > self._limit:
            raise SseMessageTooLong(self._limit, messages)

    def _take_line(self, line: bytes, messages: list[SseMessage]) -> None:
        size = len(line)
        if self._first_line:
            self._first_line = False
            self._hold(size, messages)  # counted with the mark, as it was if it came in pieces
            self._held -= size
            line = line.removeprefix(_BOM)
        if line.startswith(b"data: "):  # almost every line that is not empty: asked first, and without `_hold`
            self._data.append(line[6:])
            self._held += size
            if self._held > self._limit:
                raise SseMessageTooLong(self._limit, messages)
        elif line:
            self._take_field(line, size, messages)
        else:
            if self._data or self._id is not None or self._retry_ms is not None:
                messages.append(SseMessage(b"\n".join(self._data), self._event, self._id, self._retry_ms))
                self._data.clear()
                self._id = self._retry_ms = None
            self._event = "message"
            self._held = 0

    def _take_field(self, line: bytes, size: int, messages: list[SseMessage]) -> None:
        self._hold(size, messages)
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            return
        if name == b"error":
            self._data.append(value)
            self._event = "error"
            return
        if name == b"event":
            self._event = value.decode(errors="replace") or "message"
        elif name == b"id":
            if b"\0" not in value:
                self._id = value
        elif name == b"retry":
            if value.isdigit():
                self._retry_ms = int(value[:9])
        elif name != _COMMENT and self._unparsed_size + size <= MAX_UNPARSED:
            self._unparsed.append(line)
            self._unparsed_size += size + 1
        self._held -= size  # it counts towards the limit only while it is read: a line of its own may be too long
