"""One HTTP/1.1 request at a time on a plain socket, for benchmarks in which the client must cost next to nothing.

It must not know what is measured.
"""

import socket
import time
from dataclasses import dataclass
from typing import Any

import msgspec

from bench.harness.server_process import Server

END = b"\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A response. `raw`: head and body as received; `seconds`: from the request to the last byte."""

    raw: bytes
    seconds: float

    @property
    def head(self) -> bytes:
        """Status line and headers."""
        return self.raw.partition(END)[0]

    @property
    def body(self) -> bytes:
        """The body, without the chunks' framing."""
        body = self.raw.partition(END)[2]
        if b"chunked" not in self.head.lower():
            return body
        parts = []
        while body:
            size, _, body = body.partition(b"\r\n")
            parts.append(body[: int(size, 16)])
            body = body[int(size, 16) + 2 :]
        return b"".join(parts)


def send_request(
    server: Server, method: str, path: str, accept: str = "application/json", body: Any = None
) -> HttpResponse:
    """Sends one request on a connection of its own. Raises `RuntimeError` for a status other than 2xx."""
    data = b"" if body is None else msgspec.json.encode(body)
    kind = "" if body is None else f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    if server.authorization:
        kind += f"Authorization: {server.authorization}\r\n"
    request = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nAccept: {accept}\r\n{kind}\r\n"
    with socket.create_connection(("127.0.0.1", server.port), TIMEOUT_SECONDS) as sock:
        began = time.perf_counter()
        sock.sendall(request.encode() + data)
        raw = _read(sock)
        seconds = time.perf_counter() - began
    if not raw.startswith(b"HTTP/1.1 2"):
        raise RuntimeError(f"{method} {path}: {raw[:500].decode(errors='replace')}")
    return HttpResponse(raw, seconds)


def _read(sock: socket.socket) -> bytes:
    parts: list[bytes] = []
    wanted = -1  # the response's length, once the head says it; a chunked body ends with the last chunk
    got = 0
    tail = b""
    while wanted < 0 or got < wanted:
        part = sock.recv(1 << 20)
        if not part:
            raise RuntimeError(f"the answer was cut: {b''.join(parts)[:300]!r}")
        parts.append(part)
        got += len(part)
        tail = (tail + part)[-5:] if len(part) < 5 else part[-5:]
        if tail == LAST_CHUNK:
            break
        if wanted < 0:
            wanted = _length(b"".join(parts[:4]))
    return b"".join(parts)


def _length(start: bytes) -> int:
    head, found, _ = start.partition(END)
    for line in head.split(b"\r\n") if found else ():
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return len(head) + len(END) + int(value)
    return -1
