"""The readers of many answers, all in one cheap process: `python -m bench.processes.stream_readers`.

It requests generations, opens readers on each, and records bytes and times; they are parsed after the measurement.
One thread, epoll, plain sockets.

One command: `{"port", "asks": [body, …], "ramp": s, "readers": n, "deadline": s, "path": …}`. Each ask is a
`POST /v1/generations`; all are sent within `ramp` seconds. `readers` streams of events are opened for each answer,
the first on the connection of the ask. It sends `{"open", "ended"}` as it goes and `{"written": path}` at the end:
msgpack, a list of [ask, asked_at, opened_at, [[at, bytes], …], problem].
"""

import os
import select
import socket
import time
from dataclasses import dataclass, field
from typing import Any

import msgspec

from bench.processes import control_channel

PROGRESS_NS = 250_000_000
LAST = b"0\r\n\r\n"


@dataclass(eq=False, slots=True)
class Reader:
    """One connection: first an ask (if it made one), then one response of events."""

    ask: int
    sock: socket.socket
    asked_at: int
    opened_at: int = 0
    reading: bool = False
    answer: bytearray = field(default_factory=bytearray)
    pieces: list[tuple[int, bytes]] = field(default_factory=list)
    tail: bytes = b""
    problem: str = ""


class StreamReaders:
    """All readers, and the asks that are still to be made."""

    def __init__(self, command: dict[str, Any]) -> None:
        self._port: int = command["port"]
        self._asks: list[Any] = command["asks"]
        self._readers: int = command["readers"]
        self._gap = int(command["ramp"] * 1e9 / max(1, len(self._asks)))
        self._epoll = select.epoll()
        self._epoll.register(0, select.EPOLLIN)
        self._all: list[Reader] = []
        self._by_number: dict[int, Reader] = {}
        self._progress: tuple[int, int] = (0, 0)
        self._open = self._ended = 0
        self._to_open: list[tuple[int, bytes]] = []
        self._until = time.monotonic_ns() + int(command["deadline"] * 1e9)

    def run(self) -> None:
        """Runs until all streams have ended, the deadline, or the end of the input."""
        wanted = len(self._asks) * self._readers
        next_ask = next_progress = time.monotonic_ns()
        asked = 0
        while self._ended < wanted:
            now = time.monotonic_ns()
            if now >= self._until:
                break
            if asked < len(self._asks) and now >= next_ask:
                self._ask(asked)
                asked += 1
                next_ask += self._gap
            if self._to_open:  # one in each turn of the loop, or the open ones would wait for the rest
                self._join(*self._to_open.pop())
            if now >= next_progress:
                next_progress = now + PROGRESS_NS
                self._send_progress()
            soon = 0.0 if self._to_open else max(0, next_ask - now) / 1e9 if asked < len(self._asks) else 0.25
            for number, _ in self._epoll.poll(min(soon, 0.25)):
                if number == 0:
                    if not os.read(0, 65_536):
                        return
                else:
                    self._ready(self._by_number[number])
        self._send_progress()

    def write(self, path: str) -> None:
        """Writes all recordings to a file."""
        rows = [
            (one.ask, one.asked_at, one.opened_at, one.pieces, one.problem or self._unended(one))
            for one in self._all
        ]
        with open(path, "wb") as file:
            file.write(msgspec.msgpack.encode(rows))
        control_channel.send(written=path)

    def _unended(self, reader: Reader) -> str:
        return "" if reader.tail == LAST else "no end within the time"

    def _send_progress(self) -> None:
        now = (self._open, self._ended)
        if now != self._progress:
            self._progress = now
            control_channel.send(open=self._open, ended=self._ended)

    def _connect(self, ask: int) -> Reader:
        sock = socket.create_connection(("127.0.0.1", self._port))
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = Reader(ask, sock, time.monotonic_ns())
        self._all.append(reader)
        self._by_number[sock.fileno()] = reader
        self._epoll.register(sock, select.EPOLLIN)
        return reader

    def _ask(self, number: int) -> None:
        reader = self._connect(number)
        body = msgspec.json.encode(self._asks[number])
        head = (
            f"POST /v1/generations HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nContent-Type: application/json\r\n"
        )
        reader.sock.send(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    def _join(self, ask: int, path: bytes) -> None:
        self._open_events(self._connect(ask), path)

    def _open_events(self, reader: Reader, path: bytes) -> None:
        host = b"Host: 127.0.0.1:%d\r\n" % self._port
        reader.reading = True
        reader.opened_at = time.monotonic_ns()
        reader.sock.send(b"GET %b/events HTTP/1.1\r\n%bAccept: text/event-stream\r\n\r\n" % (path, host))
        self._open += 1

    def _ready(self, reader: Reader) -> None:
        try:
            data = reader.sock.recv(262_144)
        except BlockingIOError:
            return
        except OSError as error:
            data = b""
            reader.problem = repr(error)
        if not data:
            self._end(reader, reader.problem or "the server closed the connection")
        elif reader.reading:
            reader.pieces.append((time.monotonic_ns(), data))
            reader.tail = data[-5:] if len(data) >= 5 else (reader.tail + data)[-5:]
            if reader.tail == LAST:
                self._end(reader, "")
        else:
            reader.answer += data
            self._answered(reader)

    def _answered(self, reader: Reader) -> None:
        head, found, rest = bytes(reader.answer).partition(b"\r\n\r\n")
        if not found:
            return
        fields = {
            name.strip().lower(): value.strip()
            for name, _, value in (one.partition(b":") for one in head.split(b"\r\n")[1:])
        }
        if len(rest) < int(fields.get(b"content-length", b"0")):
            return
        if not head.startswith(b"HTTP/1.1 202"):
            self._end(reader, (head.split(b"\r\n")[0] + b" " + rest).decode(errors="replace")[:300])
            return
        location = fields[b"location"]
        self._open_events(reader, location)
        self._to_open += [(reader.ask, location)] * (self._readers - 1)

    def _end(self, reader: Reader, problem: str) -> None:
        reader.problem = problem
        self._ended += 1
        self._epoll.unregister(reader.sock)
        del self._by_number[reader.sock.fileno()]
        reader.sock.close()


if __name__ == "__main__":
    control_channel.prepare()
    command = control_channel.first_command()
    readers = StreamReaders(command)
    readers.run()
    readers.write(command["path"])
