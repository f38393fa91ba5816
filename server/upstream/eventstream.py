"""An incremental parser for `text/event-stream`.

Owns the rules of the WHATWG HTML standard, section 9.2.6 "Interpreting an event stream": line ends CRLF, LF and
CR, a leading byte order mark, comments, data over several lines, fields without a colon; all of it however the
bytes were cut. `id` and `retry` are read over: nobody resumes at a provider. Beyond the standard, which drops
unknown fields: a field `error` is a message of the type `error` (llama.cpp's way to fail), and other lines are
kept for `outside`, for a body that is no event stream at all may say why. Pure: must not know HTTP or what data
holds; lines are cut as bytes, so UTF-8 that is split over packets needs no care.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["EventStream", "Message", "MessageTooLong"]

MAX_MESSAGE = 1 << 20  # bytes; a chunk of text has a few hundred, a provider gone mad has no end
MAX_OUTSIDE = 1 << 16  # bytes of lines that are no fields, kept to be quoted
_READ_OVER = (b"", b"id", b"retry")  # a comment is a line whose name is empty
_BOM = b"\xef\xbb\xbf"


class Message(NamedTuple):
    """One dispatched message: its data lines joined by LF, and its type (`message` if it named none)."""

    data: bytes
    event: str


class MessageTooLong(ValueError):
    """The provider sent a line or message over the limit. `messages` came whole before it, in the same bytes."""

    def __init__(self, limit: int, messages: list[Message]) -> None:
        super().__init__(f"a message of the event stream is longer than {limit} bytes")
        self.messages = messages


class EventStream:
    """One stream's parser: bytes in as they arrive, whole messages out. An unfinished last one is dropped."""

    __slots__ = ("_after_cr", "_data", "_event", "_first", "_limit", "_outside", "_outside_size", "_rest", "_size")

    def __init__(self, limit: int = MAX_MESSAGE) -> None:
        self._limit = limit
        self._rest: list[bytes] = []  # of a line whose end has not come; a list, so tiny packets do not cost n²
        self._size = 0  # bytes held for the message under way
        self._data: list[bytes] = []
        self._event = "message"
        self._after_cr = False
        self._first = True
        self._outside: list[bytes] = []
        self._outside_size = 0

    def outside(self) -> bytes:
        """What came so far that is part of no message and no comment, in lines; its end may not have come.

        To be asked when the stream is over: an unfinished last line that could be a field is left out.
        """
        lines = list(self._outside)
        if self._event == "error":
            lines += self._data  # the message's own end never came
        last = b"".join(self._rest)
        if self._first:
            last = last.removeprefix(_BOM)
        name, colon, value = last.partition(b":")
        if name == b"error" and colon:
            lines.append(value.strip())
        elif name not in (b"data", b"event", *_READ_OVER):
            lines.append(last)
        return b"\n".join(lines).strip()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that these bytes complete. Raises `MessageTooLong`; after that, feed no more."""
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")  # of a CRLF that was split over two packets
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = data.split(b"\n")
        last = lines.pop()
        messages: list[Message] = []
        if lines and self._rest:
            lines[0] = b"".join((*self._rest, lines[0]))
            self._size -= sum(map(len, self._rest))
            self._rest.clear()
        for line in lines:
            self._line(line, messages)
        if last:
            self._rest.append(last)
            self._hold(len(last), messages)
        return messages

    def _hold(self, size: int, messages: list[Message]) -> None:
        self._size += size
        if self._size > self._limit:
            raise MessageTooLong(self._limit, messages)

    def _line(self, line: bytes, messages: list[Message]) -> None:
        size = len(line)
        if self._first:
            self._first = False
            self._hold(size, messages)  # with the mark, as it was counted if it came in pieces
            self._size -= size
            line = line.removeprefix(_BOM)
        if line.startswith(b"data: "):  # what every provider sends, so asked first
            self._data.append(line[6:])
            self._hold(size, messages)
        elif line:
            self._field(line, size, messages)
        else:
            if self._data:
                messages.append(Message(b"\n".join(self._data), self._event))
                self._data.clear()
            self._event = "message"
            self._size = 0

    def _field(self, line: bytes, size: int, messages: list[Message]) -> None:
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
        elif name not in _READ_OVER and self._outside_size + size <= MAX_OUTSIDE:
            self._outside.append(line)
            self._outside_size += size + 1
        self._size -= size  # no part of the message; held only to refuse it, whole or in pieces, past the limit
