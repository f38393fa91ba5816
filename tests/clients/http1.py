"""An HTTP/1.1 client over a raw socket (RFC 9112): a test sees every byte and can cut after any of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import trio

READ = 65_536
PATIENCE = 40.0
"""Seconds without a byte after which a test fails."""


class Broken(Exception):
    """The server ended the connection within a response, or sent bytes that are not HTTP/1.1."""


@dataclass(frozen=True, slots=True)
class Head:
    """Status and headers of a response. Names are in lower case; repeated headers are joined by commas."""

    status: int
    headers: Mapping[str, str]


class Connection:
    """A connection. `receive` returns the body without its framing, and b"" at its clean end."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._raw = bytearray()
        self._left: int | None = None  # of this chunk or of the whole body; None: until the end of the connection
        self._chunked = False
        self._ended = True

    @classmethod
    async def open(cls, port: int) -> Self:
        """Connects to the server on this machine."""
        return cls(await trio.open_tcp_stream("127.0.0.1", port))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the socket at once; the server sees a cut."""
        await trio.aclose_forcefully(self.stream)

    async def send(self, data: bytes) -> None:
        """Sends any bytes."""
        await self.stream.send_all(data)

    async def ask(
        self, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Head:
        """Sends a request and reads the head of its response."""
        lines = [f"{method} {target} HTTP/1.1"]
        all_headers = {"Host": f"127.0.0.1:{self.stream.socket.getpeername()[1]}", **(headers or {})}
        if body is not None:
            all_headers.setdefault("Content-Length", str(len(body)))
        lines += [f"{name}: {value}" for name, value in all_headers.items()]
        await self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b""))
        return await self.head(bodyless=method == "HEAD")

    async def head(self, *, bodyless: bool = False) -> Head:
        """Reads the head of the next response; `receive` then reads that response's body."""
        while b"\r\n\r\n" not in self._raw:
            await self._more()
        raw, _, rest = bytes(self._raw).partition(b"\r\n\r\n")
        self._raw = bytearray(rest)
        status_line, *lines = raw.decode("latin-1").split("\r\n")
        version, status, *_ = status_line.split(" ", 2)
        if version != "HTTP/1.1" or not status.isdigit():
            raise Broken(f"not a status line: {status_line!r}")
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            name = name.lower()
            headers[name] = f"{headers[name]}, {value.strip()}" if name in headers else value.strip()
        self._expect_body(int(status), headers, bodyless)
        return Head(int(status), headers)

    def _expect_body(self, status: int, headers: Mapping[str, str], bodyless: bool) -> None:
        self._chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        length = headers.get("content-length")
        self._left = 0 if self._chunked else int(length) if length is not None else None
        self._ended = bodyless or status < 200 or status in (204, 304) or (not self._chunked and self._left == 0)

    async def receive(self) -> bytes:
        """Receives more of the body; b"" at its clean end. Raises `Broken` if the connection ends before."""
        while True:
            data = self._decode()
            if data or self._ended:
                return data
            try:
                await self._more()
            except Broken:
                if self._chunked or self._left is not None:
                    raise
                self._ended = True

    async def body(self) -> bytes:
        """Reads the rest of the body."""
        parts = []
        while data := await self.receive():
            parts.append(data)
        return b"".join(parts)

    async def ended_within(self, seconds: float) -> bool:
        """Whether the server ends the connection in time; what it sends before is ignored."""
        with trio.move_on_after(seconds):
            while await self.raw():
                pass
            return True
        return False

    async def raw(self) -> bytes:
        """Receives the next bytes without decoding; b"" at the end."""
        if not self._raw:
            try:
                await self._more()
            except Broken:
                return b""
        data = bytes(self._raw)
        self._raw.clear()
        return data

    def _decode(self) -> bytes:
        if self._ended:
            return b""
        if not self._chunked:
            taken = len(self._raw) if self._left is None else min(self._left, len(self._raw))
            data = bytes(self._raw[:taken])
            del self._raw[:taken]
            if self._left is not None:
                self._left -= taken
                self._ended = self._left == 0
            return data
        parts: list[bytes] = []
        while (part := self._next_chunk()) is not None:
            parts.append(part)
        return b"".join(parts)

    def _next_chunk(self) -> bytes | None:
        """A complete chunk, or None if its last byte has not arrived."""
        line_end = self._raw.find(b"\r\n")
        if line_end < 0 or self._ended:
            return None
        size = int(bytes(self._raw[:line_end]).split(b";")[0], 16)
        start = line_end + 2
        if len(self._raw) < start + size + 2:
            return None
        data = bytes(self._raw[start : start + size])
        if self._raw[start + size : start + size + 2] != b"\r\n":
            raise Broken("a chunk does not end where it says")
        del self._raw[: start + size + 2]
        if size == 0:
            self._ended = True
            return None
        return data

    async def _more(self) -> None:
        try:
            with trio.fail_after(PATIENCE):
                data = await self.stream.receive_some(READ)
        except trio.BrokenResourceError as error:
            raise Broken("the connection was reset") from error
        if not data:
            raise Broken(f"the connection ended; not read yet: {bytes(self._raw[:200])!r}")
        self._raw += data
