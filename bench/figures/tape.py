"""The bytes of one SSE response, as they came off the socket, to events with the moment each arrived. Pure.

The reading client only notes bytes and times while a benchmark runs; all parsing is here, afterwards. An event
has arrived with the read that brought its last byte.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from bench.figures.loss import Got

END = b"\r\n\r\n"
Piece = tuple[int, bytes]  # when it was read, in monotonic ns, and what


class BadTape(Exception):
    """The bytes are no SSE response in HTTP/1.1 chunks. The server is to blame, or it refused."""


class _Event(msgspec.Struct):
    position: int
    type: str
    delta: str | None = None


_EVENT = msgspec.json.Decoder(_Event)


@dataclass(frozen=True, slots=True)
class Tape:
    """A response, read. `chunks` counts those with events."""

    events: list[Got]
    chunks: int
    ended: bool


def read(pieces: Sequence[Piece]) -> Tape:
    """Parses a whole response, head included. One that was cut gives the events that arrived whole."""
    raw = b"".join(data for _, data in pieces)
    reads = _ends([len(data) for _, data in pieces])
    head, found, _ = raw.partition(END)
    if not found or not head.startswith(b"HTTP/1.1 200") or b"chunked" not in head.lower():
        raise BadTape(raw[:300].decode(errors="replace"))
    body, starts, raw_starts = _dechunk(raw, len(head) + len(END))
    events: list[Got] = []
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
        at = pieces[_read_of(reads, raw_starts[chunk] + close + 1 - starts[chunk])][0]
        event = _EVENT.decode(data)
        events.append(Got(event.position, event.delta if event.type == "token" else None, at))
        chunks.add(chunk)
    return Tape(events, len(chunks), ended)


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
            raise BadTape(f"no chunk size: {raw[start : line + 1]!r}") from None
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


def _read_of(ends: Sequence[int], offset: int) -> int:
    """Which read brought the byte at an offset."""
    return bisect_right(ends, offset)
