"""Parsers of the wire formats, written from the standards and not from the encoders: bytes in, in any pieces,
events out.

`SseParser` follows the WHATWG's event stream interpretation (section 9.2.6 of the HTML standard),
`NdjsonParser` reads a value for each line. Both forget a piece that was cut off, and know the cursor to
resume from.
"""

import codecs
import json
import re
from dataclasses import dataclass, field
from typing import Any

_LINE_END = re.compile("\r\n|\r|\n")


@dataclass(frozen=True)
class Message:
    """What an EventSource dispatches."""

    event: str
    data: str
    last_event_id: str


class SseParser:
    """An event stream, fed in pieces.

    `messages` so far; `last_event_id` and `retry` as an EventSource keeps them.
    """

    def __init__(self, last_event_id: str = "") -> None:
        self.messages: list[Message] = []
        self.comments: list[str] = []
        self.last_event_id = last_event_id
        self.retry: int | None = None
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        self._begun = False
        self._rest = ""
        self._after_cr = False
        self._id = last_event_id
        self._event = ""
        self._data: list[str] = []

    def feed(self, piece: bytes) -> None:
        """The next bytes."""
        text = self._decode(piece)
        if not text:
            return
        if not self._begun:
            self._begun = True
            text = text.removeprefix("\ufeff")
        if self._after_cr:
            text = text.removeprefix("\n")
        self._after_cr = text.endswith("\r")
        *lines, self._rest = _LINE_END.split(self._rest + text)
        for line in lines:
            self._take(line)

    def _take(self, line: str) -> None:
        if not line:
            self._dispatch()
        elif line.startswith(":"):
            self.comments.append(line[1:])
        else:
            name, _, value = line.partition(":")
            self._set(name, value.removeprefix(" "))

    def _set(self, name: str, value: str) -> None:
        match name:
            case "event":
                self._event = value
            case "data":
                self._data.append(value)
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if value.isascii() and value.isdigit():
                self.retry = int(value)

    def _dispatch(self) -> None:
        self.last_event_id = self._id
        if self._data:
            message = Message(self._event or "message", "\n".join(self._data), self.last_event_id)
            self.messages.append(message)
        self._data, self._event = [], ""


@dataclass
class NdjsonParser:
    """Lines of JSON, fed in pieces. `values` so far; `pulses` counts the empty lines."""

    values: list[dict[str, Any]] = field(default_factory=list)
    pulses: int = 0
    _rest: bytes = b""

    def feed(self, piece: bytes) -> None:
        """The next bytes."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            if line:
                self.values.append(json.loads(line.decode()))
            else:
                self.pulses += 1

    @property
    def position(self) -> int:
        """That of the last whole event, 0 before any."""
        return self.values[-1]["position"] if self.values else 0
