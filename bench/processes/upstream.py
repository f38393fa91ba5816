"""A provider that speaks the OpenAI wire format and costs next to nothing: `python -m bench.processes.upstream`.

What a stream does stands in the last message of its request: `{"run", "stream", "rate", "tokens", "delay"}`
(tokens a second, 0 as fast as it goes; seconds before the first). Each token's text is the moment it was
sent. A token that the socket does not take is kept with its stamp, so that a server that pushes back does not
look fast. One thread, epoll, one heap of what is due.

Commands: `{"do": "log", "path": …}` writes what was sent since the last time, as msgpack: stream → [stamps],
and how late each was. The answer's `asked` is how many requests there were since the start.
"""

import heapq
import os
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from bench.figures.stamps import UNIT_NS, text_of
from bench.processes import control

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
BEFORE = b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1,"model":"bench","choices":'
TOKEN = (BEFORE + b'[{"index":0,"delta":{"content":"', b'"},"logprobs":null,"finish_reason":null}]}\n\n')
FINISH = BEFORE + b'[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}\n\n'
BURST = 64  # tokens that a stream without a rate sends in one go


def _chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


def _token(text: str) -> bytes:
    return TOKEN[0] + text.encode() + TOKEN[1]


def _last(tokens: int) -> bytes:
    usage = b'[],"usage":{"prompt_tokens":1,"completion_tokens":%d,"total_tokens":%d}}\n\n' % (tokens, tokens + 1)
    return _chunked(FINISH) + _chunked(BEFORE + usage) + _chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n"


@dataclass(eq=False, slots=True)
class Answer:
    """One stream that is being sent."""

    tokens: int
    period: int  # ns; 0 as fast as it goes
    due: int
    stamps: list[int] = field(default_factory=list)
    late: list[int] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Line:
    """One connection. `unsent` is what its socket did not take yet."""

    sock: socket.socket
    incoming: bytearray = field(default_factory=bytearray)
    unsent: bytearray = field(default_factory=bytearray)
    answer: Answer | None = None


class Upstream:
    """All connections, and what is due on them."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.setblocking(False)
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self._epoll.register(0, select.EPOLLIN)
        self._lines: dict[int, Line] = {}
        self._due: list[tuple[int, int, Line]] = []
        self._count = 0
        self._asked = 0
        self._log: dict[str, Answer] = {}
        self._commands = bytearray()
        self.port = int(self._listener.getsockname()[1])

    def serve(self) -> None:
        """Until the input ends."""
        while True:
            wait = max(0.0, (self._due[0][0] - time.monotonic_ns()) / 1e9) if self._due else -1
            for number, event in self._epoll.poll(wait):
                if number == 0:
                    if not self._command():
                        return
                elif number == self._listener.fileno():
                    self._accept()
                elif number in self._lines:
                    self._ready(self._lines[number], event)
            for line in self._take_due():
                self._send_next(line)

    def _command(self) -> bool:
        data = os.read(0, 65_536)
        self._commands += data
        for command in control.lines(self._commands):
            with open(command["path"], "wb") as file:
                log = {name: [answer.stamps, answer.late] for name, answer in self._log.items()}
                file.write(msgspec.msgpack.encode(log))
            self._log = {}
            control.say(written=command["path"], asked=self._asked)
        return bool(data)

    def _accept(self) -> None:
        try:
            while True:
                sock, _ = self._listener.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._lines[sock.fileno()] = Line(sock)
                self._epoll.register(sock, select.EPOLLIN)
        except BlockingIOError:
            return

    def _ready(self, line: Line, event: int) -> None:
        if event & select.EPOLLOUT:
            self._send(line, b"")
            return
        try:
            data = line.sock.recv(65_536)
        except OSError:
            data = b""
        if not data:
            self._close(line)
            return
        line.incoming += data
        head, found, rest = line.incoming.partition(b"\r\n\r\n")
        if not found or line.answer is not None:
            return
        length = next(
            int(one.split(b":")[1]) for one in head.split(b"\r\n") if one.lower().startswith(b"content-length:")
        )
        if len(rest) >= length:
            line.incoming.clear()
            self._begin(line, msgspec.json.decode(rest[:length]))

    def _begin(self, line: Line, body: dict[str, Any]) -> None:
        script = msgspec.json.decode(body["messages"][-1]["content"], type=dict[str, Any])
        self._asked += 1
        now = time.monotonic_ns()
        period = int(1e9 / script["rate"]) if script["rate"] else 0
        answer = Answer(script["tokens"], period, now + int(script["delay"] * 1e9))
        line.answer = self._log[f"{script['run']}/{script['stream']}"] = answer
        self._schedule(line)
        self._send(line, HEAD)

    def _schedule(self, line: Line) -> None:
        assert line.answer is not None
        self._count += 1  # two that are due at the same moment are never compared
        heapq.heappush(self._due, (line.answer.due, self._count, line))

    def _take_due(self) -> Iterator[Line]:
        now = time.monotonic_ns()
        while self._due and self._due[0][0] <= now:
            yield heapq.heappop(self._due)[2]

    def _send_next(self, line: Line) -> None:
        answer = line.answer
        if answer is None:  # its connection was closed meanwhile
            return
        now = time.monotonic_ns()
        out = b""
        for _ in range(1 if answer.period else min(BURST, answer.tokens - len(answer.stamps))):
            stamp = max(now, answer.stamps[-1] + UNIT_NS) if answer.stamps else now
            answer.stamps.append(stamp)
            answer.late.append(now - answer.due)
            out += _chunked(_token(text_of(stamp)))
        if len(answer.stamps) >= answer.tokens:
            line.answer = None
            out += _last(answer.tokens)
        self._send(line, out)
        if line.answer is not None and (answer.period or not line.unsent):
            answer.due = answer.due + answer.period if answer.period else now
            self._schedule(line)

    def _send(self, line: Line, data: bytes) -> None:
        waiting = bool(line.unsent)
        if waiting or not data:
            line.unsent += data
            data = bytes(line.unsent)
        try:
            sent = line.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close(line)
            return
        line.unsent = bytearray(data[sent:])
        if bool(line.unsent) != waiting:
            self._epoll.modify(line.sock, select.EPOLLIN | (select.EPOLLOUT if line.unsent else 0))
            if waiting and line.answer is not None and not line.answer.period:
                self._schedule(line)  # one without a rate goes on when its socket has taken everything

    def _close(self, line: Line) -> None:
        line.answer = None
        if self._lines.pop(line.sock.fileno(), None) is not None:
            self._epoll.unregister(line.sock)
            line.sock.close()


if __name__ == "__main__":
    control.begin()
    upstream = Upstream()
    control.say(port=upstream.port)
    upstream.serve()
