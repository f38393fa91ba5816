"""A fake provider on loopback, with OpenAI's wire format and, at `/v1/messages`, Anthropic's. The model's name in
a request chooses what it does.

Owns the server, its log and its controls; the behaviours are in `fake_behaviours`. In a test's own process: `fake
= await FakeProvider.listen()`, `nursery.start_soon(fake.serve)`; as a process, for end-to-end tests:

python -m tests.providers.fake_provider --port 0 [--host 127.0.0.1] [--key test-key] [--script ok-200-50]

which prints one JSON line, `{"port": …, "base_url": "http://127.0.0.1:…/v1"}`, and serves until it is killed;
Anthropic's base URL is the same without `/v1`. `--script` is the behaviour for model names that name none. `GET
/_log`: JSON lines, one a request (`Record`). `GET /_open`: `{"open": n}`, connections open now besides the asking
one. `GET` or `POST /_reset`: forgets the log.
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import httptools
import trio

from .fake_behaviours import steps
from .fake_wire_formats import (
    END,
    AnthropicFormat,
    Hang,
    OpenAIFormat,
    Pause,
    Request,
    Reset,
    Send,
    Step,
    WireFormat,
    status,
)
from .request_validation import has_files, reason_to_refuse

PATHS: dict[str, WireFormat] = {"/chat/completions": OpenAIFormat(), "/v1/messages": AnthropicFormat()}
Wrap = Callable[[trio.SocketStream], trio.abc.Stream]


@dataclass
class Record:
    """One request: what came, what was sent, how it ended. Times are Unix seconds. No key is kept."""

    path: str
    headers: dict[str, str]  # lower-case names, without Authorization and x-api-key
    authorization: str  # "right", "wrong" or "absent"
    body: Any
    opened_at: float = field(default_factory=time.time)
    tokens_sent: int = 0
    completed: bool = False  # all that the client needs was sent
    closed_by_client: bool = False  # before that
    closed_at: float | None = None  # when this side learned that the connection had ended


class FakeProvider:
    """The server and its state. It listens from the moment that it exists. Wait for a state with `until`."""

    def __init__(self, listeners: list[trio.SocketListener], key: str, script: str, wrap: Wrap | None) -> None:
        self.key = key
        self.script = script
        self.port = int(listeners[0].socket.getsockname()[1])
        self.open = 0
        self.accepted = 0
        self.log: list[Record] = []
        self._listeners = listeners
        self._wrap = wrap
        self._turns: Counter[bytes] = Counter()
        self._changed = trio.Event()

    @classmethod
    async def listen(
        cls,
        port: int = 0,
        host: str = "127.0.0.1",
        *,
        key: str = "test-key",
        script: str = "ok-200-50",
        wrap: Wrap | None = None,
    ) -> FakeProvider:
        """A listening fake; then run `serve`. `wrap` puts TLS around each connection."""
        return cls(await trio.open_tcp_listeners(port, host=host), key, script, wrap)

    async def serve(self) -> None:
        """Serve until cancelled."""
        await trio.serve_listeners(self._handle, self._listeners)

    async def _handle(self, stream: trio.SocketStream) -> None:
        self.open += 1
        self.accepted += 1
        self.changed()
        try:
            carrier, early = self._wrap(stream) if self._wrap else stream, bytearray()
            while await _serve_one(self, stream, carrier, early):
                continue
        except (trio.BrokenResourceError, httptools.HttpParserError):
            await trio.lowlevel.checkpoint()  # the client broke the connection; that must not stop the server
        finally:
            self.open -= 1
            self.changed()
            await trio.aclose_forcefully(stream)

    @property
    def base_url(self) -> str:
        """As OPENAI_BASE_URL takes it; Anthropic's is `root_url`."""
        return f"{self.root_url}/v1"

    @property
    def root_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def reset(self) -> None:
        self.log.clear()
        self._turns.clear()
        self.changed()

    def turn(self, body: bytes) -> int:
        """How many requests with this very body came before."""
        self._turns[body] += 1
        return self._turns[body] - 1

    def changed(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Return once the predicate holds; it is asked after every change."""
        await trio.lowlevel.checkpoint()
        while not predicate():
            await self._changed.wait()


class _Incoming:
    """Reads one request."""

    def __init__(self) -> None:
        self.url = ""
        self.headers: dict[str, str] = {}
        self.body = b""
        self.complete = False
        self._parser = httptools.HttpRequestParser(self)

    def feed(self, data: bytes | bytearray) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.url += url.decode()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True


async def _serve_one(
    fake: FakeProvider, sock: trio.SocketStream, stream: trio.abc.Stream, early: bytearray
) -> bool:
    """Serve one request; return whether another may follow. `early`: bytes received ahead of time, in and out."""
    incoming = _Incoming()
    incoming.feed(early)
    early.clear()
    while not incoming.complete:
        data = await stream.receive_some(65536)
        if not data:
            return False
        incoming.feed(data)
    if incoming.url.startswith("/_"):
        await stream.send_all(_control(fake, incoming.url))
        return False
    authorization = incoming.headers.pop("authorization", "") or incoming.headers.pop("x-api-key", "")
    right = "right" if authorization.removeprefix("Bearer ") == fake.key else "wrong"
    wire = next((wire for path, wire in PATHS.items() if incoming.url.partition("?")[0].endswith(path)), None)
    try:
        body = json.loads(incoming.body)
    except ValueError:
        body = None
    record = Record(incoming.url, incoming.headers, right if authorization else "absent", body)
    fake.log.append(record)
    fake.changed()
    if not isinstance(body, dict) or wire is None:
        plan: Iterator[Step] = iter([status(OpenAIFormat(), 404, f"no such path: {incoming.url}")])
    else:
        request = Request(body, authorization, fake.turn(incoming.body), wire)
        refused = reason_to_refuse(body) if has_files(body) else None
        plan = steps(str(body.get("model")), request, fake.script)
        if refused is not None:
            plan = iter([status(wire, 400, refused)])
    ended = False
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch, stream, record, early, nursery.cancel_scope)
            ended = await _play(fake, plan, sock, stream, record)
            nursery.cancel_scope.cancel()
    finally:
        record.closed_at = time.time()
    return ended and incoming.headers.get("connection") == "keep-alive"


async def _watch(stream: trio.abc.Stream, record: Record, early: bytearray, scope: trio.CancelScope) -> None:
    """Ends the behaviour when the client closes."""
    try:
        while data := await stream.receive_some(1024):
            early += data
    except trio.BrokenResourceError:
        await trio.lowlevel.checkpoint()
    record.closed_by_client = not record.completed
    scope.cancel()


async def _play(
    fake: FakeProvider, plan: Iterator[Step], sock: trio.SocketStream, stream: trio.abc.Stream, record: Record
) -> bool:
    """Carries the behaviour out. True if its last bytes were the end of a chunked body."""
    sent = b""
    for step in plan:
        match step:
            case Send():
                record.completed = record.completed or step.last
                try:
                    await stream.send_all(step.data)
                except trio.BrokenResourceError:
                    await trio.sleep_forever()  # the watcher sees the same and ends the behaviour
                sent = step.data
                record.tokens_sent += step.tokens
                fake.changed()
            case Pause():
                await trio.sleep(step.seconds)
            case Hang():
                await trio.sleep_forever()
            case Reset():
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await trio.lowlevel.checkpoint()
    return sent.endswith(END)


def _control(fake: FakeProvider, url: str) -> bytes:
    if url == "/_log":
        body = "".join(json.dumps(asdict(record)) + "\n" for record in fake.log)
    elif url == "/_open":
        body = json.dumps({"open": fake.open - 1})
    else:
        fake.reset()
        body = "{}"
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body.encode())}\r\n"
    return f"{head}Connection: close\r\n\r\n{body}".encode()


async def _main(options: argparse.Namespace) -> None:
    fake = await FakeProvider.listen(options.port, options.host, key=options.key, script=options.script)
    base_url = f"http://{options.host}:{fake.port}/v1"
    sys.stdout.write(json.dumps({"port": fake.port, "base_url": base_url}) + "\n")
    sys.stdout.flush()
    await fake.serve()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A fake provider; see the top of this file.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--key", default="test-key")
    parser.add_argument("--script", default="ok-200-50", help="the behaviour for model names that name none")
    trio.run(_main, parser.parse_args())
