"""A proxy that cuts responses at planned bytes, in place of a bad network between a library and the server.

It speaks HTTP/1.1, one request a connection, and re-encodes each body, so that a cut falls on an exact byte of the
body, whatever chunks the server sent. WebSocket bytes pass unchanged. The first segment of a path names the
follower (`/f7/v1/…`) and is removed; each follower has its own plan of cuts. The proxy knows no library.
"""

from __future__ import annotations

import re
import socket
import struct
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import trio

NETWORK = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)
FRAME_BEGINS = {
    b"text/event-stream": b"\n\n",
    b"application/x-ndjson": b"\n",
}


@dataclass(frozen=True)
class Cut:
    """Ends the connection `byte` bytes into the frame of the event at `position`.

    `how`: "fin" ends it in order at TCP, but without HTTP's end of the body; "rst" resets it; "half" announces a
    chunk (or, with a Content-Length, the whole body) of which only a part comes, then FIN; "stall" leaves it open,
    and nothing comes any more.
    """

    position: int | None
    byte: int
    how: str = "fin"

    def place(self, body: bytes, begins: bytes | None) -> int | None:
        """How many bytes of a body may pass, once that can be told. Position None: the frame of `[DONE]`."""
        mark = b"data: [DONE]" if self.position is None else rb'"position": ?%d\b' % self.position
        found = re.search(re.escape(mark) if self.position is None else mark, body)
        if found is None:
            return None
        if begins is None:
            start = body.rfind(b'{"kind"', 0, found.start())
            start = max(start - 4, 0) if start >= 0 else body.rfind(b"{", 0, found.start())
        else:
            start = body.rfind(begins, 0, found.end())
            start = start + len(begins) if start >= 0 else 0
        return start + self.byte if start + self.byte <= len(body) else None


@dataclass(frozen=True)
class Request:
    """What a follower asked for."""

    follower: str
    method: str
    target: str
    headers: dict[str, str]


@dataclass(eq=False)
class CuttingProxy:
    """`plans`: the cuts that are still to be made, by follower. `requests`: all that were made of it."""

    target_port: int
    port: int = 0
    plans: dict[str, list[Cut]] = field(default_factory=lambda: defaultdict(list))
    requests: list[Request] = field(default_factory=list)

    def url(self, follower: str, path: str, scheme: str = "http") -> str:
        """Where a follower finds a path of the server."""
        return f"{scheme}://127.0.0.1:{self.port}/{follower}{path}"

    async def handle(self, client: trio.SocketStream) -> None:
        """One connection: one request and its answer."""
        async with client:
            with suppress(*NETWORK):
                head, body = await _read_head(client)
                if not head:
                    return
                server = await trio.open_tcp_stream("127.0.0.1", self.target_port)
                async with server:
                    await self._exchange(client, server, head, body)

    async def _exchange(
        self, client: trio.SocketStream, server: trio.SocketStream, head: bytes, body: bytes
    ) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        _, follower, path = target.split("/", 2)
        headers = dict(_header_lines(lines))
        self.requests.append(Request(follower, method, "/" + path, headers))
        kept = [line for line in lines if not line.lower().startswith(("connection:", "keep-alive:"))]
        upgrade = "upgrade" in headers
        kept.append("Connection: Upgrade" if upgrade else "Connection: close")
        sent = "\r\n".join([f"{method} /{path} HTTP/1.1", *kept, "", ""]).encode("latin-1")
        await server.send_all(sent + body)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_pass_on, client, server, nursery.cancel_scope)
            with suppress(*NETWORK):
                await _Answer(client, server, self.plans[follower]).pass_on(upgrade=upgrade)
            nursery.cancel_scope.cancel()


@dataclass(eq=False)
class _Answer:
    """An answer on its way to the client."""

    client: trio.SocketStream
    server: trio.SocketStream
    plan: list[Cut]

    async def pass_on(self, *, upgrade: bool) -> None:
        head, rest = await _read_head(self.server)
        if not head:
            return
        headers = dict(_header_lines(head.decode("latin-1").split("\r\n")[1:]))
        status = int(head.split(b" ", 2)[1])
        await self.client.send_all(head + b"\r\n\r\n")
        if status == 101 and upgrade:
            await self._body(_Plain(None), rest, None, chunked=False)
        elif status not in (204, 304):
            chunked = headers.get("transfer-encoding", "") == "chunked"
            length = headers.get("content-length")
            unpack = _Chunks() if chunked else _Plain(int(length) if length else None)
            media_type = headers.get("content-type", "").partition(";")[0].encode()
            await self._body(unpack, rest, FRAME_BEGINS.get(media_type), chunked=chunked)

    async def _body(self, unpack: _Chunks | _Plain, rest: bytes, begins: bytes | None, *, chunked: bool) -> None:
        heard = bytearray()
        sent = 0
        data = rest
        while True:
            heard += unpack.feed(data)
            for cut in self.plan[:1]:
                place = cut.place(bytes(heard), begins)
                if place is not None:
                    self.plan.pop(0)
                    await self._cut(bytes(heard[sent : max(place, sent)]), cut.how, chunked=chunked)
                    return
            if len(heard) > sent:
                await self._send(bytes(heard[sent:]), chunked=chunked)
                sent = len(heard)
            if unpack.over:
                break
            data = await self.server.receive_some(65_536)
            if not data:
                break
        if chunked and unpack.over:
            await self.client.send_all(b"0\r\n\r\n")

    async def _send(self, data: bytes, *, chunked: bool) -> None:
        await self.client.send_all(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)

    async def _cut(self, data: bytes, how: str, *, chunked: bool) -> None:
        if how == "half" and chunked:
            await self.client.send_all(b"%x\r\n%b" % (len(data) + 100, data))
        elif data:
            await self._send(data, chunked=chunked)
        if how == "stall":
            await trio.sleep_forever()  # until the client gives up
        if how == "rst":
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class _Plain:
    """A body of a known length, or one that ends with its connection."""

    def __init__(self, length: int | None) -> None:
        self._left = length
        self.over = length == 0

    def feed(self, data: bytes) -> bytes:
        if self._left is not None:
            self._left -= len(data)
            self.over = self._left <= 0
        return data


class _Chunks:
    """RFC 9112 section 7.1, without trailers and extensions, which the server does not send."""

    def __init__(self) -> None:
        self._raw = b""
        self.over = False

    def feed(self, data: bytes) -> bytes:
        self._raw += data
        body = b""
        while not self.over:
            size, found, rest = self._raw.partition(b"\r\n")
            if not found or len(rest) < int(size, 16) + 2:
                break
            body += rest[: int(size, 16)]
            self._raw = rest[int(size, 16) + 2 :]
            self.over = int(size, 16) == 0
        return body


async def _read_head(stream: trio.SocketStream) -> tuple[bytes, bytes]:
    """The head without its empty line, and what came behind it; empty when the peer ended before."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = await stream.receive_some(65_536)
        if not more:
            return b"", b""
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def _header_lines(lines: list[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        name, _, value = line.partition(":")
        yield name.lower(), value.strip()


async def _pass_on(source: trio.SocketStream, sink: trio.SocketStream, both: trio.CancelScope) -> None:
    """The client's bytes; its end is the end of both."""
    with suppress(*NETWORK):
        while data := await source.receive_some(65_536):
            await sink.send_all(data)
    both.cancel()


@asynccontextmanager
async def cutting(target_port: int) -> AsyncIterator[CuttingProxy]:
    """A proxy in front of a port, for as long as the context."""
    proxy = CuttingProxy(target_port)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=1000)
        proxy.port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, proxy.handle, listeners)
        yield proxy
        nursery.cancel_scope.cancel()
