"""Readers that all reconnect at one moment: `python -m bench.processes.reconnecting_readers`.

Command `{"do": "storm", "port", "readers", "cursors", "at", "deadline", "out"}`, with `cursors` a list of
[conversation, after, head]: from the moment `at` (monotonic ns) it opens `readers` SSE streams, shared out among
the conversations. Each sends its cursor as `Last-Event-ID`, and is served when it has received the event `head`. A
reader that is turned away (no room, a reset, a `retry:`) comes again, as an EventSource would.

It sends `{"written": out}` when all are served, or after `deadline` seconds: msgpack, `{"began", "served": [s, …],
"unserved", "again"}`, seconds since `began` (monotonic ns); `again` counts the second and later attempts by
reason. The streams stay open until `{"do": "close"}`, answered with `{"closed": true}`.

One thread, epoll, and one search in the received bytes instead of parsing: it shares the cores with the server.
"""

import errno
import heapq
import os
import re
import select
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from bench.processes import control_channel

SOURCES = 16
"""Addresses 127.0.0.2 and up that the connections come from: each has its own 28,000 ports."""
AT_ONCE = 64  # new connections between two polls of the open ones
AGAIN_SECONDS = 1.0
LAST_CHUNK = b"0\r\n\r\n"
RETRY = re.compile(rb"\nretry: ?(\d+)\n")


@dataclass(eq=False, slots=True)
class Reader:
    """One reader. `wanted`: bytes that only the last event it lacks contains."""

    request: bytes
    wanted: bytes
    source: str
    sock: socket.socket | None = None
    asked: bool = False
    served: bool = False
    got: bytes = b""


class ReconnectingReaders:
    """All readers, and when those that were turned away come again."""

    def __init__(self, command: dict[str, Any]) -> None:
        self._address = ("127.0.0.1", command["port"])
        self._epoll = select.epoll()
        self._epoll.register(0, select.EPOLLIN)
        self._by_number: dict[int, Reader] = {}
        self._readers = readers(command["port"], command["readers"], command["cursors"])
        self._waiting: list[tuple[int, int, Reader]] = []
        self._at: int = command["at"]
        self._until = self._at + int(command["deadline"] * 1e9)
        self._count = 0
        self.served: list[float] = []
        self.again: dict[str, int] = {}

    def run(self) -> None:
        """Runs until all are served, the deadline, or the end of the input."""
        time.sleep(max(0.0, (self._at - time.monotonic_ns()) / 1e9))
        self._at = time.monotonic_ns()
        unconnected = list(reversed(self._readers))
        while len(self.served) < len(self._readers) and (now := time.monotonic_ns()) < self._until:
            for _ in range(min(AT_ONCE, len(unconnected))):
                self._connect(unconnected.pop())
            while self._waiting and self._waiting[0][0] <= now:
                self._connect(heapq.heappop(self._waiting)[2])
            for number, event in self._epoll.poll(0 if unconnected else 0.02):
                if number == 0:
                    if not os.read(0, 65_536):
                        sys.exit(0)
                elif number in self._by_number:
                    self._ready(self._by_number[number], event)

    def result(self) -> dict[str, Any]:
        """Returns the figures for the measuring process."""
        unserved = len(self._readers) - len(self.served)
        return {"began": self._at, "served": self.served, "unserved": unserved, "again": self.again}

    def close(self) -> None:
        """Closes all streams."""
        for reader in self._readers:
            if reader.sock is not None:
                reader.sock.close()

    def _connect(self, reader: Reader) -> None:
        reader.sock = sock = socket.socket()
        reader.asked, reader.got = False, b""
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind((reader.source, 0))
        failed = sock.connect_ex(self._address)
        if failed not in (0, errno.EINPROGRESS):
            sock.close()
            self._reconnect_after(reader, AGAIN_SECONDS, errno.errorcode.get(failed, str(failed)))
            return
        self._by_number[sock.fileno()] = reader
        self._epoll.register(sock, select.EPOLLIN | select.EPOLLOUT)

    def _ready(self, reader: Reader, event: int) -> None:
        assert reader.sock is not None
        if not reader.asked and not event & (select.EPOLLERR | select.EPOLLHUP):
            reader.asked = True
            self._epoll.modify(reader.sock, select.EPOLLIN)
            reader.sock.send(reader.request)
            return
        try:
            data = reader.sock.recv(65_536)
        except BlockingIOError:
            return
        except OSError as error:
            self._turned_away(reader, errno.errorcode.get(error.errno or 0, str(error)))
            return
        if not data:
            self._turned_away(reader, "closed")
        elif not reader.served:
            reader.got += data
            if reader.wanted in reader.got:
                reader.served, reader.got = True, b""
                self.served.append((time.monotonic_ns() - self._at) / 1e9)
            elif reader.got.endswith(
                LAST_CHUNK
            ):  # a temporary refusal: the body ends, the connection may stay open
                self._turned_away(reader, "refused")

    def _turned_away(self, reader: Reader, why: str) -> None:
        assert reader.sock is not None
        self._epoll.unregister(reader.sock)
        del self._by_number[reader.sock.fileno()]
        reader.sock.close()
        if not reader.served:
            retry = RETRY.search(reader.got)
            self._reconnect_after(reader, int(retry[1]) / 1e3 if retry else AGAIN_SECONDS, why)

    def _reconnect_after(self, reader: Reader, seconds: float, why: str) -> None:
        self.again[why] = self.again.get(why, 0) + 1
        self._count += 1  # a tie-breaker: the heap never compares two readers
        heapq.heappush(self._waiting, (time.monotonic_ns() + int(seconds * 1e9), self._count, reader))


def readers(port: int, count: int, cursors: Sequence[tuple[str, int, int]]) -> list[Reader]:
    """Makes `count` readers, shared out among the conversations."""
    found = []
    for n in range(count):
        conversation, after, head = cursors[n % len(cursors)]
        request = (
            f"GET /v1/conversations/{conversation}/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            f"Accept: text/event-stream\r\nLast-Event-ID: {after}\r\n\r\n"
        )
        found.append(Reader(request.encode(), b'"position":%d,' % head, f"127.0.0.{2 + n % SOURCES}"))
    return found


def main() -> None:
    """Carries out commands until the input ends."""
    storm: ReconnectingReaders | None = None
    for command in control_channel.commands():
        if command["do"] == "storm":
            storm = ReconnectingReaders(command)
            storm.run()
            with open(command["out"], "wb") as file:
                file.write(msgspec.msgpack.encode(storm.result()))
            control_channel.send(written=command["out"])
        elif storm is not None:
            storm.close()
            control_channel.send(closed=True)


if __name__ == "__main__":
    control_channel.prepare()
    main()
