"""A mock provider that speaks the OpenAI wire format and costs next to nothing.

    python -m bench.processes.mock_provider

The last message of a request says what its stream does: `{"run", "stream", "rate", "tokens", "delay"}` (`rate` in
tokens a second, 0 as fast as it goes; `delay` in seconds before the first token). Each token's text is the time at
which it was sent. A token that the socket does not take keeps its first timestamp, so that a server that pushes
back does not look fast. One thread, epoll, one heap of the tokens that are due.

Commands: `{"do": "log", "path": …}` writes what was sent since the last such command, as msgpack: stream →
[timestamps, how late each token was sent]. The answer's `asked` is the number of requests since the start.
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

from bench.analysis.token_delivery import TIMESTAMP_UNIT_NS, timestamp_text
from bench.processes import control_channel

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
class AnswerStream:
    """One answer that is being sent. Times in monotonic ns."""

    tokens: int
    period: int  # ns; 0 as fast as it goes
    due: int
    sent_at: list[int] = field(default_factory=list)
    late: list[int] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Connection:
    """One connection. `unsent`: bytes that its socket has not taken yet."""

    sock: socket.socket
    incoming: bytearray = field(default_factory=bytearray)
    unsent: bytearray = field(default_factory=bytearray)
    answer: AnswerStream | None = None


class MockProvider:
    """All connections, and the tokens that are due on them."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.setblocking(False)
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self._epoll.register(0, select.EPOLLIN)
        self._connections: dict[int, Connection] = {}
        self._due: list[tuple[int, int, Connection]] = []
        self._count = 0
        self._asked = 0
        self._log: dict[str, AnswerStream] = {}
        self._commands = bytearray()
        self.port = int(self._listener.getsockname()[1])

    def serve(self) -> None:
        """Serves until the input ends."""
        while True:
            wait = max(0.0, (self._due[0][0] - time.monotonic_ns()) / 1e9) if self._due else -1
            for number, event in self._epoll.poll(wait):
                if number == 0:
                    if not self._command():
                        return
                elif number == self._listener.fileno():
                    self._accept()
                elif number in self._connections:
                    self._ready(self._connections[number], event)
            for connection in self._take_due():
                self._send_next(connection)

    def _command(self) -> bool:
        data = os.read(0, 65_536)
        self._commands += data
        for command in control_channel.take_commands(self._commands):
            with open(command["path"], "wb") as file:
                log = {name: [answer.sent_at, answer.late] for name, answer in self._log.items()}
                file.write(msgspec.msgpack.encode(log))
            self._log = {}
            control_channel.send(written=command["path"], asked=self._asked)
        return bool(data)

    def _accept(self) -> None:
        try:
            while True:
                sock, _ = self._listener.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._connections[sock.fileno()] = Connection(sock)
                self._epoll.register(sock, select.EPOLLIN)
        except BlockingIOError:
            return

    def _ready(self, connection: Connection, event: int) -> None:
        if event & select.EPOLLOUT:
            self._send(connection, b"")
            return
        try:
            data = connection.sock.recv(65_536)
        except OSError:
            data = b""
        if not data:
            self._close(connection)
            return
        connection.incoming += data
        head, found, rest = connection.incoming.partition(b"\r\n\r\n")
        if not found or connection.answer is not None:
            return
        length = next(
            int(one.split(b":")[1]) for one in head.split(b"\r\n") if one.lower().startswith(b"content-length:")
        )
        if len(rest) >= length:
            connection.incoming.clear()
            self._begin(connection, msgspec.json.decode(rest[:length]))

    def _begin(self, connection: Connection, body: dict[str, Any]) -> None:
        script = msgspec.json.decode(body["messages"][-1]["content"], type=dict[str, Any])
        self._asked += 1
        now = time.monotonic_ns()
        period = int(1e9 / script["rate"]) if script["rate"] else 0
        answer = AnswerStream(script["tokens"], period, now + int(script["delay"] * 1e9))
        connection.answer = self._log[f"{script['run']}/{script['stream']}"] = answer
        self._schedule(connection)
        self._send(connection, HEAD)

    def _schedule(self, connection: Connection) -> None:
        assert connection.answer is not None
        self._count += 1  # a tie-breaker: the heap never compares two connections
        heapq.heappush(self._due, (connection.answer.due, self._count, connection))

    def _take_due(self) -> Iterator[Connection]:
        now = time.monotonic_ns()
        while self._due and self._due[0][0] <= now:
            yield heapq.heappop(self._due)[2]

    def _send_next(self, connection: Connection) -> None:
        answer = connection.answer
        if answer is None:  # the connection was closed meanwhile
            return
        now = time.monotonic_ns()
        out = b""
        for _ in range(1 if answer.period else min(BURST, answer.tokens - len(answer.sent_at))):
            timestamp = max(now, answer.sent_at[-1] + TIMESTAMP_UNIT_NS) if answer.sent_at else now
            answer.sent_at.append(timestamp)
            answer.late.append(now - answer.due)
            out += _chunked(_token(timestamp_text(timestamp)))
        if len(answer.sent_at) >= answer.tokens:
            connection.answer = None
            out += _last(answer.tokens)
        self._send(connection, out)
        if connection.answer is not None and (answer.period or not connection.unsent):
            answer.due = answer.due + answer.period if answer.period else now
            self._schedule(connection)

    def _send(self, connection: Connection, data: bytes) -> None:
        waiting = bool(connection.unsent)
        if waiting or not data:
            connection.unsent += data
            data = bytes(connection.unsent)
        try:
            sent = connection.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close(connection)
            return
        connection.unsent = bytearray(data[sent:])
        if bool(connection.unsent) != waiting:
            self._epoll.modify(connection.sock, select.EPOLLIN | (select.EPOLLOUT if connection.unsent else 0))
            if waiting and connection.answer is not None and not connection.answer.period:
                self._schedule(connection)  # a stream without a rate goes on when its socket has taken everything

    def _close(self, connection: Connection) -> None:
        connection.answer = None
        if self._connections.pop(connection.sock.fileno(), None) is not None:
            self._epoll.unregister(connection.sock)
            connection.sock.close()


if __name__ == "__main__":
    control_channel.prepare()
    provider = MockProvider()
    control_channel.send(port=provider.port)
    provider.serve()
