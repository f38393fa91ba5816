"""Clients that poll one address, in one cheap process: `python -m bench.processes.poller`.

One command: `{"port", "path", "pollers", "pause", "etag", "seconds", "out"}`. Each poller asks, waits for the
answer, pauses (0: not at all) and asks again, with the last ETag as If-None-Match where `etag`. Says
`{"written": out}` at last: msgpack, [[asked_at, ms, status], …].
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

from bench.processes import control

END = b"\r\n\r\n"


@dataclass(eq=False, slots=True)
class Poller:
    """One connection that is kept."""

    sock: socket.socket
    answer: bytes = b""
    etag: bytes = b""
    asked_at: int = 0


class Pollers:
    """All of them, and when each asks next."""

    def __init__(self, command: dict[str, Any]) -> None:
        host = b"Host: 127.0.0.1:%d\r\n" % command["port"]
        self._request = b"GET %b HTTP/1.1\r\n%b" % (command["path"].encode(), host)
        self._pause = int(command["pause"] * 1e9)
        self._conditional: bool = command["etag"]
        self._until = time.monotonic_ns() + int(command["seconds"] * 1e9)
        self._epoll = select.epoll()
        self._epoll.register(0, select.EPOLLIN)
        self._by_number: dict[int, Poller] = {}
        self._due: list[tuple[int, int, Poller]] = []
        self._rows: list[tuple[int, float, int]] = []
        now = time.monotonic_ns()
        for n in range(command["pollers"]):
            sock = socket.create_connection(("127.0.0.1", command["port"]))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            poller = Poller(sock)
            self._by_number[sock.fileno()] = poller
            self._epoll.register(sock, select.EPOLLIN)
            # Spread over the pause: real ones do not ask all at once.
            heapq.heappush(self._due, (now + self._pause * n // command["pollers"], n, poller))

    def run(self) -> list[tuple[int, float, int]]:
        """Until the time is over, or the input."""
        while (now := time.monotonic_ns()) < self._until:
            while self._due and self._due[0][0] <= now:
                self._ask(heapq.heappop(self._due)[2])
            wait = max(0, self._due[0][0] - now) / 1e9 if self._due else 0.1
            for number, _ in self._epoll.poll(min(wait, 0.1)):
                if number == 0:
                    if not os.read(0, 65_536):
                        sys.exit(0)
                else:
                    self._ready(number)
        return self._rows

    def _ask(self, poller: Poller) -> None:
        match = b"If-None-Match: %b\r\n" % poller.etag if self._conditional and poller.etag else b""
        poller.asked_at = time.monotonic_ns()
        poller.sock.sendall(self._request + match + b"\r\n")

    def _ready(self, number: int) -> None:
        poller = self._by_number[number]
        data = poller.sock.recv(1 << 18)
        if not data:
            raise SystemExit(f"the server closed a poller's connection after {poller.answer[:200]!r}")
        poller.answer += data
        head, found, rest = poller.answer.partition(END)
        if not found:
            return
        fields = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
        }
        status = int(head[9:12])
        if status != 304 and len(rest) < int(fields[b"content-length"]):
            return
        poller.answer = b""
        poller.etag = fields.get(b"etag", b"")
        now = time.monotonic_ns()
        self._rows.append((poller.asked_at, (now - poller.asked_at) / 1e6, status))
        heapq.heappush(self._due, (now + self._pause, number, poller))


if __name__ == "__main__":
    control.begin()
    told = bytearray()
    while not (commands := control.lines(told)):
        data = os.read(0, 65_536)
        if not data:
            raise SystemExit(0)
        told += data
    rows = Pollers(commands[0]).run()
    with open(commands[0]["out"], "wb") as file:
        file.write(msgspec.msgpack.encode(rows))
    control.say(written=commands[0]["out"])
