"""WebSocket messages sent in fragments, without a socket.

Covers what the app receives, how many bytes the server holds of an unfinished message, and when it stops reading.
"""

from __future__ import annotations

import tracemalloc

import pytest
from wsproto.frame_protocol import FrameProtocol, Opcode

from server.http import websocket
from server.http.asgi import http_scope
from server.http.websocket import WebSocket, WebSocketHandshake, WebSocketState

LIMIT = 4_096


def open_websocket(limit: int = LIMIT) -> WebSocket:
    """A WebSocket that its app has accepted but never reads from."""
    scope = http_scope("GET", b"/", b"", "1.1", [], secure=False, client=None, server=None)
    handshake = WebSocketHandshake([(b"sec-websocket-version", b"13")], needs_key=False)
    socket = WebSocket(scope, handshake, None, limit, lambda: None)  # type: ignore[arg-type]  # it sends nothing
    socket.state = WebSocketState.OPEN
    return socket


def frame(data: bytes, opcode: Opcode, *, last: bool) -> bytes:
    """One fragment as a client sends it."""
    frames = FrameProtocol(client=True, extensions=[])
    return bytes(frames._serialize_frame(opcode, data, fin=last))


def message(parts: list[bytes], opcode: Opcode) -> bytes:
    """A whole message, cut into these fragments."""
    opcodes = [opcode] + [Opcode.CONTINUATION] * (len(parts) - 1)
    return b"".join(
        frame(part, each, last=n == len(parts) - 1)
        for n, (part, each) in enumerate(zip(parts, opcodes, strict=True))
    )


@pytest.mark.parametrize("piece", [1, 3, 100_000])
@pytest.mark.parametrize("parts", [[b""], [b"", b"", b"ab", b"", b"c"], [b"\xc3", b"\xa4", b""], [b"x" * LIMIT]])
@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
def test_fragments_are_joined_to_one_message(parts: list[bytes], opcode: Opcode, piece: int) -> None:
    """Wherever they are cut, even inside a character, and up to the size limit itself."""
    socket = open_websocket()
    raw = message(parts, opcode)
    for start in range(0, len(raw), piece):
        assert socket.feed(raw[start : start + piece]) == b""
    whole = b"".join(parts)
    assert socket._queue == [whole.decode() if opcode is Opcode.TEXT else whole]
    assert not socket.over.is_set()


@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
@pytest.mark.parametrize("size", [0, 1, 2])
def test_endless_small_fragments_are_limited(opcode: Opcode, size: int) -> None:
    """Ten thousand empty fragments hold no memory; nonempty ones end the connection at the size limit."""
    socket = open_websocket(limit=20_000)
    begin = frame(b"", opcode, last=False)
    more = frame(b"a" * size, Opcode.CONTINUATION, last=False) * 200
    socket.feed(begin + more)
    tracemalloc.start()
    try:
        for _ in range(49):
            socket.feed(more)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2 * 10_000 * size + 20_000
    assert len(socket._partial) == 10_000 * size
    for _ in range(51):
        socket.feed(more)
    assert socket.over.is_set() is (size > 0)
    assert not socket._partial or size == 0


def test_unfinished_message_counts_as_queued_behind_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone it does not count: the app could do nothing to make room."""
    monkeypatch.setattr(websocket, "MAX_QUEUED_BYTES", 1_000)
    alone, behind = open_websocket(), open_websocket()
    behind.feed(message([b"one"], Opcode.TEXT))
    assert not behind.full
    for socket in (alone, behind):
        socket.feed(frame(b"x" * 1_500, Opcode.BINARY, last=False))
    assert (alone.full, behind.full) == (False, True)
