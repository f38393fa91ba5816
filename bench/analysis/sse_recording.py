"""Parses the recorded bytes of one SSE response into events, each with the moment at which it arrived. Pure.

The reading client only notes bytes and times while a benchmark runs; all parsing is here, afterwards. An event
has arrived with the socket read that brought its last byte.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

END = b"\r\n\r\n"
SocketRead = tuple[int, bytes]
"""When bytes were read from the socket (monotonic ns), and the bytes."""


class BadRecording(Exception):
    """The bytes are not an SSE response in HTTP/1.1 chunks: the server refused the request, or is at fault."""


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    """An event as a client received it. `text` is None unless it is a token; `at` in monotonic ns."""

    position: int
    text: str | None
    at: int


class _Event(msgspec.Struct):
    position: int
    type: str
    delta: str | None = None


_EVENT = msgspec.json.Decoder(_Event)


@dataclass(frozen=True, slots=True)
class SseRecording:
    """A parsed response. `chunks`: how many HTTP chunks had events. `ended`: the end of the stream came."""

    events: list[ReceivedEvent]
    chunks: int
    ended: bool


def parse_recording(pieces: Sequence[SocketRead]) -> SseRecording:
    """Parses a whole response, head included. From a response that was cut: the events that arrived whole.

    Raises `BadRecording`.
    """
    raw = b"".join(data for _, data in pieces)
    reads = _ends([len(data) for _, data in pieces])
    head, found, _ = raw.partition(END)
    if not found or not head.startswith(b"HTTP/1.1 200") or b"chunked" not in head.lower():
        raise BadRecording(raw[:300].decode(errors="replace"))
    body, starts, raw_starts = _dechunk(raw, len(head) + len(END))
    events: list[ReceivedEvent] = []
    chunks: set[int] = set()
    ended = False
    place = 0
    while (close := body.find(b"\n\n", place)) >= 0:
        data = _data(body[place:close])
        place = close + 2
        if data is None:
            continue
        if data == b"[DONE]":
            ended = True
            continue
        chunk = bisect_right(starts, close + 1) - 1
        at = pieces[_read_at(reads, raw_starts[chunk] + close + 1 - starts[chunk])][0]
        event = _EVENT.decode(data)
        events.append(ReceivedEvent(event.position, event.delta if event.type == "token" else None, at))
        chunks.add(chunk)
    return SseRecording(events, len(chunks), ended)


def _data(frame: bytes) -> bytes | None:
    for line in frame.split(b"\n"):
        if line.startswith(b"data: "):
            return line[6:]
    return None


def _dechunk(raw: bytes, start: int) -> tuple[bytes, list[int], list[int]]:
    """The body, and where each chunk starts, in the body and in the raw bytes (RFC 9112 section 7.1)."""
    parts: list[bytes] = []
    starts: list[int] = []
    raw_starts: list[int] = []
    length = 0
    while (line := raw.find(b"\r\n", start)) >= 0:
        try:
            size = int(raw[start:line].split(b";")[0], 16)
        except ValueError:
            raise BadRecording(f"no chunk size: {raw[start : line + 1]!r}") from None
        if size == 0:
            break
        part = raw[line + 2 : line + 2 + size]
        parts.append(part)
        starts.append(length)
        raw_starts.append(line + 2)
        length += len(part)
        start = line + 2 + size + 2
    return b"".join(parts), starts, raw_starts


def _ends(lengths: Sequence[int]) -> list[int]:
    ends: list[int] = []
    total = 0
    for length in lengths:
        total += length
        ends.append(total)
    return ends


def _read_at(ends: Sequence[int], offset: int) -> int:
    """The number of the read that brought the byte at an offset. `ends`: where each read ended."""
    return bisect_right(ends, offset)
