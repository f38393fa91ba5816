"""Clients for the table of connection ends: each brings a connection into its state, and leaves as it says."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived
from h2.settings import SettingCodes
from hyperframe.frame import DataFrame
from wsproto import ConnectionType
from wsproto.connection import Connection as WebSocketProtocol
from wsproto.events import TextMessage

from .connection_end_table import Row
from .tcp_peer import Peer

COMMANDS = 40
SECONDS = 20.0
DRIP_SECONDS = 0.05
SMALL_BUFFER = 4_096
"""Bytes of receive buffer of a client that does not read: the kernel makes a little more of it."""
POSTED = json.dumps({"role": "user", "content": "posted"}).encode()
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg==",
}
H2C = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAAQAAP__"}


@dataclass(frozen=True)
class Logs:
    """Paths of conversations: with megabytes, with little, with nothing that ever comes, and one to post to."""

    large: str
    small: str
    quiet: str
    posts: str

    def target(self, row: Row) -> str:
        """What the row asks for."""
        log = self.large if row.large else self.small
        wait = 3 if row.ending == "silence" else 50
        return {
            "sse": f"{log}/events?format=sse",
            "ndjson": f"{log}/events?format=ndjson",
            "held poll": f"{self.quiet}/events?after=1&wait={wait}",
            "json page": f"{log}/events?limit=4",
            "websocket": f"{log}/ws?after=0",
            "post": f"{self.posts}/messages",
        }[row.request]


class EndClient:
    """One row's connection."""

    def __init__(self, row: Row, peer: Peer, logs: Logs, server_port: int) -> None:
        self.row = row
        self.peer = peer
        self.target = logs.target(row)
        self.authority = f"127.0.0.1:{server_port}"
        self.websocket = WebSocketProtocol(ConnectionType.CLIENT)

    @classmethod
    async def connect(cls, row: Row, logs: Logs, port: int) -> EndClient:
        """A connection for that row, with nothing sent yet."""
        small = row.state in ("zero window", "slow reader", "full command queue")
        peer = await Peer.open(port, SMALL_BUFFER if small else None)
        return (Http1Client if row.protocol == "http1" else Http2Client)(row, peer, logs, port)

    async def bring(self) -> None:
        """Brings the connection into the row's state."""
        raise NotImplementedError

    def leave(self) -> None:
        """Ends it as the row says; silence leaves it as it is."""
        if self.row.ending == "fin":
            self.peer.fin()
        elif self.row.ending == "rst":
            self.peer.rst()

    async def drip(self, data: bytes, count: int) -> None:
        """Sends bytes one by one: the first few, and in silence one a second until the server ends it."""
        for at in range(count):
            await self.peer.send(data[at : at + 1])
            await trio.sleep(DRIP_SECONDS)
        if self.row.ending == "silence":
            for at in range(count, len(data)):
                if not await self.peer.send(data[at : at + 1]):
                    return
                await trio.sleep(1)

    def commands(self) -> bytes:
        """More of them than any queue of the server holds."""
        command = json.dumps({"id": "c", "key": secrets.token_hex(16), "do": "x"})
        return b"".join(self.websocket.send(TextMessage(command)) for _ in range(COMMANDS))

    async def begun(self) -> None:
        """Waits for the first byte of the answer; of a poll that is held there is none. It stays unread."""
        if self.row.request == "held poll":
            return
        with trio.fail_after(SECONDS):
            while not self.is_answer(data := await self.peer.peek()):
                if not data and self.row.may_be_refused:
                    return
                assert data, f"{self.row}: the server ended the connection instead of answering"
                await trio.sleep(0.02)

    def is_answer(self, data: bytes) -> bool:
        """Whether these bytes of the server hold the beginning of the answer."""
        raise NotImplementedError


class Http1Client(EndClient):
    """HTTP/1.1."""

    def is_answer(self, data: bytes) -> bool:
        """One that is no refusal."""
        answered = len(data) >= len("HTTP/1.1 200")
        assert not answered or self.row.may_be_refused or data[9:10] in b"12", data[:300]
        return answered

    def head(self, extra: Mapping[str, str], method: str = "GET") -> bytes:
        headers = {"Host": self.authority, **extra}
        lines = [f"{method} {self.target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode()

    def request(self, extra: Mapping[str, str]) -> bytes:
        if self.row.request == "post":
            sized = {"Content-Type": "application/json", "Content-Length": str(len(POSTED)), **extra}
            return self.head(sized, "POST") + POSTED
        return self.head({**(UPGRADE if self.row.request == "websocket" else {}), **extra})

    async def bring(self) -> None:
        state = self.row.state
        request = self.request(H2C if state == "upgrade" and self.row.request != "websocket" else {})
        if state == "a byte a second":
            if self.row.request == "post":
                head = self.head({"Content-Type": "application/json", "Content-Length": "100"}, "POST")
                await self.peer.send(head)
                await self.drip(b" " * 100, 5)
            else:
                await self.drip(request[:-4] + b"\r\nX-Slow: " + b"x" * 100, 5)
            return
        behind = {"extra byte": b"G", "pipelined request": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"}
        await self.peer.send(request + behind.get(state, b""))
        await self.begun()
        if state == "full command queue":
            await self.peer.send(self.commands())
        elif state == "half close":
            self.peer.half_close()
        elif state == "slow reader":
            for _ in range(5):
                assert await self.peer.read(512)
                await trio.sleep(DRIP_SECONDS)


class Http2Client(EndClient):
    """HTTP/2 with prior knowledge. It gives window only where its state says so."""

    async def bring(self) -> None:
        state, post = self.row.state, self.row.request == "post"
        h2 = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        window = {"zero window": 0, "full command queue": 1_024, "slow reader": 1_024}.get(state, 65_535)
        h2.local_settings[SettingCodes.INITIAL_WINDOW_SIZE] = window
        h2.local_settings.acknowledge()
        h2.initiate_connection()
        await self.peer.send(h2.data_to_send())
        # A body that is still to come keeps the stream open, and so does a WebSocket.
        ended = self.row.request != "websocket" and not post
        h2.send_headers(1, self.headers(), end_stream=ended)
        if state == "a byte a second":
            if post:
                await self.peer.send(h2.data_to_send())
                await self.drip_frames(h2)
            else:
                # The frame says that it is longer than what comes in any time that a test has.
                frame = h2.data_to_send()
                await self.drip((200).to_bytes(3, "big") + frame[3:] + bytes(191), 12)
            return
        if post:
            h2.send_data(1, POSTED, end_stream=True)
        await self.peer.send(h2.data_to_send())
        if state == "extra byte" and ended:
            await self.peer.send(DataFrame(1, b"x").serialize())
        elif state == "extra byte":
            await self.peer.send(b"x")
        await self.begun()
        if state == "full command queue":
            h2.send_data(1, self.commands())
            await self.peer.send(h2.data_to_send())
        elif state == "half close":
            self.peer.half_close()
        elif state == "slow reader":
            for _ in range(5):
                for event in h2.receive_data(await self.peer.read(2_048)):
                    if isinstance(event, DataReceived):
                        h2.acknowledge_received_data(event.flow_controlled_length, 1)
                await self.peer.send(h2.data_to_send())
                await trio.sleep(DRIP_SECONDS)

    def is_answer(self, data: bytes) -> bool:
        """Whether there is a HEADERS frame among them, or the end of what was refused (RFC 9113 section 6)."""
        headers, reset, goaway = 1, 3, 7
        types = set()
        while len(data) >= 9:
            types.add(data[3])
            data = data[9 + int.from_bytes(data[:3], "big") :]
        return headers in types or (self.row.may_be_refused and bool(types & {reset, goaway}))

    def headers(self) -> list[tuple[str, str]]:
        """The request's head."""
        method = {"websocket": "CONNECT", "post": "POST"}.get(self.row.request, "GET")
        fields = [(":method", method), (":scheme", "http"), (":path", self.target), (":authority", self.authority)]
        if self.row.request == "websocket":
            fields += [(":protocol", "websocket"), ("sec-websocket-version", "13")]
        if self.row.request == "post":
            fields += [("content-type", "application/json")]
        return fields

    async def drip_frames(self, h2: H2Connection) -> None:
        """A body of one byte a frame."""
        for at in range(100):
            h2.send_data(1, b" ")
            if not await self.peer.send(h2.data_to_send()):
                return
            if at >= 5 and self.row.ending != "silence":
                return
            await trio.sleep(DRIP_SECONDS if at < 5 else 1)
