"""Readers whose connections break: `python -m bench.processes.interrupted_readers`.

One command: `{"port", "answers", "at_once", "tokens", "rate"}`. It requests that many answers of the demo,
`at_once` at a time, and reads each over SSE. After a third and after two thirds of its tokens the reader closes
the connection without notice and comes back with the last position as `Last-Event-ID`. It sends `{"ended": n}`
after each answer, and at the end `{"problems": [text, …]}`: answers with another number of tokens, positions that
did not rise.

One thread, epoll, plain sockets.
"""

import os
import re
import select
import socket
import sys
from dataclasses import dataclass, field
from typing import Any

import msgspec

from bench.processes import control_channel

END = b"\r\n\r\n"
POSITION = re.compile(rb'"position":(\d+),')
TOKEN = b'"type":"token"'


class BadChunk(Exception):
    """Bytes that are not a chunk of RFC 9112 section 7.1: the server is to blame."""


class Chunks:
    """Extracts the body from the bytes of a chunked response, as they arrive."""

    def __init__(self) -> None:
        self._raw = bytearray()

    def feed(self, data: bytes) -> bytes:
        """Returns the body of the chunks that are now complete. Raises `BadChunk`."""
        self._raw += data
        body = bytearray()
        while (line := self._raw.find(b"\r\n")) >= 0:
            try:
                size = int(self._raw[:line].split(b";")[0], 16)
            except ValueError:
                raise BadChunk(repr(bytes(self._raw[:80]))) from None
            if len(self._raw) < line + 2 + size + 2:
                break
            body += self._raw[line + 2 : line + 2 + size]
            del self._raw[: line + 2 + size + 2]
        return bytes(body)


@dataclass(eq=False, slots=True)
class Answer:
    """One answer: first its request, then its events, on one connection after another."""

    sock: socket.socket
    cuts: list[int]  # the numbers of tokens after which the connection is closed
    path: str = ""
    head: bytes | None = b""  # of the current response; None once it is complete
    chunks: Chunks = field(default_factory=Chunks)
    body: bytes = b""
    tokens: int = 0
    position: int = 0
    ended: bool = False


class InterruptedReaders:
    """All answers, `at_once` of them at a time."""

    def __init__(self, command: dict[str, Any]) -> None:
        self._port: int = command["port"]
        self._tokens: int = command["tokens"]
        parameters = {"tokens": self._tokens, "rate": command["rate"]}
        self._ask = msgspec.json.encode({"model": "demo", "input": "Tell me.", "parameters": parameters})
        self._left: int = command["answers"]
        self._at_once: int = command["at_once"]
        self._epoll = select.epoll()
        self._epoll.register(0, select.EPOLLIN)
        self._by_number: dict[int, Answer] = {}
        self._ended = 0
        self.problems: list[str] = []

    def run(self) -> None:
        """Runs until all answers have ended, or the input has."""
        while self._left or self._by_number:
            while self._left and len(self._by_number) < self._at_once:
                self._left -= 1
                self._begin()
            for number, _ in self._epoll.poll():
                if number == 0:
                    if not os.read(0, 65_536):
                        sys.exit(0)
                elif number in self._by_number:
                    self._ready(self._by_number[number])

    def _begin(self) -> None:
        answer = Answer(self._connect(), [self._tokens // 3, 2 * self._tokens // 3])
        self._watch(answer)
        kind = f"Content-Type: application/json\r\nContent-Length: {len(self._ask)}\r\n"
        answer.sock.sendall(f"POST /v1/generations HTTP/1.1\r\n{self._host}{kind}\r\n".encode() + self._ask)

    @property
    def _host(self) -> str:
        return f"Host: 127.0.0.1:{self._port}\r\n"

    def _connect(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self._port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def _watch(self, answer: Answer) -> None:
        self._by_number[answer.sock.fileno()] = answer
        self._epoll.register(answer.sock, select.EPOLLIN)

    def _disconnect(self, answer: Answer) -> None:
        self._epoll.unregister(answer.sock)
        del self._by_number[answer.sock.fileno()]
        answer.sock.close()

    def _read_on(self, answer: Answer) -> None:
        """Opens a new connection and reads on after the last event."""
        answer.sock, answer.head, answer.chunks, answer.body = self._connect(), b"", Chunks(), b""
        self._watch(answer)
        cursor = f"Last-Event-ID: {answer.position}\r\n" if answer.position else ""
        request = f"GET {answer.path}/events HTTP/1.1\r\n{self._host}Accept: text/event-stream\r\n{cursor}\r\n"
        answer.sock.sendall(request.encode())

    def _ready(self, answer: Answer) -> None:
        try:
            data = answer.sock.recv(65_536)
        except OSError:
            data = b""
        if not data:
            self._end(answer, "the server closed the connection")
            return
        if answer.head is not None:
            answer.head += data
            head, found, rest = answer.head.partition(END)
            if found:
                self._handle_head(answer, head, rest)
        else:
            self._handle_events(answer, data)

    def _handle_head(self, answer: Answer, head: bytes, rest: bytes) -> None:
        status = head[9:12]
        if status == b"202" and not answer.path:
            location = re.search(rb"(?i)\r\nlocation: *(\S+)", head)
            assert location is not None
            answer.path = location[1].decode()
            self._disconnect(answer)
            self._read_on(answer)
        elif status == b"204":
            self._end(answer, "")
        elif status != b"200" or not answer.path:
            self._end(answer, (head + END + rest).decode(errors="replace")[:300])
        else:
            answer.head = None
            self._handle_events(answer, rest)

    def _handle_events(self, answer: Answer, data: bytes) -> None:
        answer.body += answer.chunks.feed(data)
        *frames, answer.body = answer.body.split(b"\n\n")
        for frame in frames:
            if b"data: [DONE]" in frame:
                self._end(answer, "")
                return
            position = POSITION.search(frame)
            if position is None:
                continue
            if int(position[1]) <= answer.position:
                self.problems.append(f"{answer.path}: position {int(position[1])} came after {answer.position}")
            answer.position = int(position[1])
            answer.tokens += TOKEN in frame
            if answer.cuts and answer.tokens >= answer.cuts[0]:
                answer.cuts.pop(0)
                self._disconnect(answer)
                self._read_on(answer)
                return

    def _end(self, answer: Answer, problem: str) -> None:
        self._disconnect(answer)
        if problem or answer.tokens != self._tokens:
            self.problems.append(problem or f"{answer.path}: {answer.tokens} of {self._tokens} tokens")
        self._ended += 1
        control_channel.send(ended=self._ended)


def main() -> None:
    """Carries out one command."""
    readers = InterruptedReaders(control_channel.first_command())
    readers.run()
    control_channel.send(problems=readers.problems[:20])


if __name__ == "__main__":
    control_channel.prepare()
    main()
