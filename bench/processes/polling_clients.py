"""Clients that request one path again and again, in one cheap process.

    python -m bench.processes.polling_clients

One command: `{"port", "path", "pollers", "pause", "etag", "seconds", "out"}`. Each poller sends a request, waits
for the answer, pauses (0: not at all) and sends the next, with the last ETag as If-None-Match if `etag` is true.
With a `body` it posts that; with a `count` it ends after so many answers, at the latest after `seconds`. It sends
`{"written": out}` at the end: msgpack, `{"rows": [[asked_at, ms, status], …], "locations", "cpu", "reconnects"}`,
`cpu` being this process's CPU seconds while it polled.

The requests are bytes made in advance. Of an answer it reads only the length (and the ETag or Location where one
is wanted): with two cores, a client that parses takes CPU from the server that is measured.
"""

import heapq
import os
import select
import socket
import sys
import time
from dataclasses import dataclass
from typing import Any

import msgspec

from bench.processes import control_channel

END = b"\r\n\r\n"
LENGTH, ETAG, LOCATION = b"\r\ncontent-length: ", b"\r\netag: ", b"\r\nlocation: "
BODILESS = (204, 304)


@dataclass(eq=False, slots=True)
class Poller:
    """One poller with its connection, which is kept open."""

    sock: socket.socket
    answer: bytes = b""
    request: bytes = b""
    etag: bytes = b""
    asked_at: int = 0
    answers: int = 0  # on this connection


class Pollers:
    """All pollers, and when each sends its next request."""

    def __init__(self, command: dict[str, Any]) -> None:
        self._address = ("127.0.0.1", command["port"])
        self._first, self._rest = _request(command)
        self._pause = int(command["pause"] * 1e9)
        self._conditional: bool = command["etag"]
        self._until = time.monotonic_ns() + int(command["seconds"] * 1e9)
        self._left: int = command.get("count") or sys.maxsize
        self._to_ask = self._left
        self._epoll = select.epoll()
        self._epoll.register(0, select.EPOLLIN)
        self._by_number: dict[int, Poller] = {}
        self._due: list[tuple[int, int, Poller]] = []
        self.rows: list[tuple[int, float, int]] = []
        self.locations: list[str] = []
        self.reconnects = 0
        now = time.monotonic_ns()
        for n in range(command["pollers"]):
            poller = Poller(self._connect(), request=self._first)
            self._watch(poller)
            # Summary over the pause: real ones do not ask all at once.
            heapq.heappush(self._due, (now + self._pause * n // command["pollers"], n, poller))

    def run(self) -> None:
        """Runs until the time is over, the count is reached, or the input has ended."""
        poll, ready, by_number = self._epoll.poll, self._ready, self._by_number
        while self._left and (now := time.monotonic_ns()) < self._until:
            while self._due and self._due[0][0] <= now:
                self._ask(heapq.heappop(self._due)[2])
            wait = min(0.1, max(0, self._due[0][0] - now) / 1e9) if self._due else 0.1
            for number, _ in poll(wait):
                if number:
                    ready(by_number[number])
                elif not os.read(0, 65_536):
                    sys.exit(0)

    def _connect(self) -> socket.socket:
        sock = socket.create_connection(self._address)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def _watch(self, poller: Poller) -> None:
        self._by_number[poller.sock.fileno()] = poller
        self._epoll.register(poller.sock, select.EPOLLIN)

    def _ask(self, poller: Poller) -> None:
        if self._to_ask:
            self._to_ask -= 1
            poller.asked_at = time.monotonic_ns()
            poller.sock.send(poller.request)

    def _ready(self, poller: Poller) -> None:
        try:
            data = poller.sock.recv(1 << 18)
        except ConnectionResetError:
            data = b""
        if not data:
            self._closed(poller)
            return
        if poller.answer:
            data = poller.answer + data
        head = data.find(END)
        if head < 0:
            poller.answer = data
            return
        status = int(data[9:12])
        fields = data[: head + 2].lower() if status not in BODILESS else b""
        if fields and len(data) < head + 4 + int(_field(fields, LENGTH)):
            poller.answer = data
            return
        poller.answer = b""
        poller.answers += 1
        now = time.monotonic_ns()
        self.rows.append((poller.asked_at, (now - poller.asked_at) / 1e6, status))
        self._left -= 1
        if fields and self._conditional and (etag := _field(fields, ETAG)) != poller.etag:
            poller.etag = etag
            poller.request = b"%bif-none-match: %b\r\n%b" % (self._first[: -len(self._rest)], etag, self._rest)
        if fields and status in (201, 202) and LOCATION in fields:
            start = fields.find(LOCATION) + len(
                LOCATION
            )  # taken from the data: `fields` is in lower case, and a path is case-sensitive
            self.locations.append(data[start : data.find(b"\r\n", start)].decode())
        if self._pause:
            heapq.heappush(self._due, (now + self._pause, poller.sock.fileno(), poller))
        else:
            self._ask(poller)

    def _closed(self, poller: Poller) -> None:
        """A server may close a kept connection between two answers; the client then asks on a new one."""
        if poller.answer or not poller.answers:
            raise SystemExit(f"the server closed a poller's connection after {poller.answer[:200]!r}")
        self._epoll.unregister(poller.sock)
        del self._by_number[poller.sock.fileno()]
        poller.sock.close()
        asked, poller.asked_at = poller.asked_at, time.monotonic_ns()
        poller.sock, poller.answers = self._connect(), 0
        self._watch(poller)
        self.reconnects += 1
        if asked and not self._pause:
            poller.sock.send(poller.request)


def _request(command: dict[str, Any]) -> tuple[bytes, bytes]:
    """The request without If-None-Match, and the part of it that follows where that field goes."""
    body = command.get("body", "").encode()
    start = f"{'POST' if body else 'GET'} {command['path']} HTTP/1.1\r\nHost: 127.0.0.1:{command['port']}\r\n"
    kind = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body) if body else b""
    if authorization := command.get("authorization"):
        kind += f"authorization: {authorization}\r\n".encode()
    rest = b"accept: application/json\r\n%b\r\n%b" % (kind, body)
    return start.encode() + rest, rest


def _field(fields: bytes, name: bytes) -> bytes:
    """A field's value from a head in small letters. Exits when it is missing: all answers here have it."""
    start = fields.find(name)
    if start < 0:
        raise SystemExit(f"no {name.strip().decode()} in {fields[:300]!r}")
    start += len(name)
    return fields[start : fields.find(b"\r\n", start)]


if __name__ == "__main__":
    control_channel.prepare()
    command = control_channel.first_command()
    began = time.process_time()
    pollers = Pollers(command)
    pollers.run()
    found = {
        "rows": pollers.rows,
        "locations": pollers.locations,
        "cpu": time.process_time() - began,
        "reconnects": pollers.reconnects,
    }
    with open(command["out"], "wb") as file:
        file.write(msgspec.msgpack.encode(found))
    control_channel.send(written=command["out"])
