"""The bytes of a reader's response, made from tokens, so that a test can damage them."""

from collections.abc import Sequence

from bench.analysis.token_delivery import timestamp_text

HEAD = b"HTTP/1.1 200 \r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"
FIRST = 4  # the first token's position, behind what begins a generation


def texts(count: int) -> list[str]:
    """What an upstream sends in a stream, 20 ms apart."""
    return [timestamp_text(1_000_000_000 + n * 20_000_000) for n in range(count)]


def frames(sent: Sequence[str]) -> list[bytes]:
    """One SSE frame a token, at positions in a row."""
    return [frame(FIRST + n, text) for n, text in enumerate(sent)]


def frame(position: int, text: str) -> bytes:
    """One token's."""
    return b'id: %d\ndata: {"position":%d,"type":"token","delta":"%b"}\n\n' % (position, position, text.encode())


def response(parts: Sequence[bytes]) -> bytes:
    """Head, each part as one HTTP chunk, the last chunk."""
    return HEAD + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
