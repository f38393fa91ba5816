"""A parser of event streams by the WHATWG: any line ending, cut anywhere, incomplete frames dropped."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field

_LINE_END = re.compile(r"\r\n|\n|\r")


@dataclass(slots=True)
class Frame:
    """The fields between two empty lines. An EventSource dispatches it only if `data` is not None."""

    id: str | None = None
    event: str | None = None
    data: str | None = None
    retry: str | None = None
    comments: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether no field is set."""
        return self == Frame()


class Parser:
    """Takes bytes and returns frames. `last_event_id` is what a reconnecting EventSource sends."""

    def __init__(self, last_event_id: str = "") -> None:
        self.last_event_id = last_event_id
        self.retry: int | None = None
        self._id_buffer = last_event_id
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
        self._text = ""
        self._frame = Frame()

    def feed(self, data: bytes) -> list[Frame]:
        """Returns the frames that these bytes complete."""
        self._text += self._decoder.decode(data)
        frames: list[Frame] = []
        start = 0
        for end in _LINE_END.finditer(self._text):
            if end.group() == "\r" and end.end() == len(self._text):
                break  # its "\n" may follow with the next bytes
            self._line(self._text[start : end.start()], frames)
            start = end.end()
        self._text = self._text[start:]
        return frames

    def _line(self, line: str, frames: list[Frame]) -> None:
        if not line:
            self.last_event_id = self._id_buffer
            if not self._frame.empty:
                frames.append(self._frame)
            self._frame = Frame()
            return
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not name:
            self._frame.comments.append(value)
        elif name == "data":
            self._frame.data = value if self._frame.data is None else f"{self._frame.data}\n{value}"
        elif name == "event":
            self._frame.event = value
        elif name == "id" and "\0" not in value:
            self._frame.id = self._id_buffer = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self._frame.retry = value
            self.retry = int(value)
