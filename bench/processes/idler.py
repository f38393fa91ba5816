"""Clients that hold connections and do nothing with them: `python -m bench.processes.idler`.

Commands: `{"do": "open", "kind", "count", "at_once", "port", "conversation", "after"}` and `{"do": "close"}`; each
is answered when it is done: all are open when each has got its first bytes (a long poll gets none before its end;
for those the one who measures waits until the server is quiet). `at_once` are opened before the first of them is
waited for; of "HTTP/2 SSE" they are the streams of one connection.
"""

import os
import select
import socket
import time
from typing import Any

import h2.config
import h2.connection
import h2.events

from bench.processes import control

SECONDS = 60.0


class Idlers:
    """The connections that are held."""

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def open(self, command: dict[str, Any]) -> None:
        """Opens them, a few at a time: the server's backlog is not what is measured."""
        kind, count = command["kind"], command["count"]
        while count:
            some = min(count, command["at_once"])
            count -= some
            if kind == "HTTP/2 SSE":
                self._held.append(_many(command, some))
                continue
            new = [_one(kind, command) for _ in range(some)]
            self._held += new
            if kind != "long poll":
                _first_bytes(new)

    def close(self) -> None:
        """Closes them all."""
        for sock in self._held:
            sock.close()
        self._held = []


def _request(kind: str, command: dict[str, Any]) -> bytes:
    conversation = f"/v1/conversations/{command['conversation']}"
    after = command["after"]
    end = f" HTTP/1.1\r\nHost: 127.0.0.1:{command['port']}\r\n"
    match kind:
        case "HTTP/1.1 SSE":
            text = f"GET {conversation}/events?after={after}{end}Accept: text/event-stream\r\n\r\n"
        case "long poll":
            text = f"GET {conversation}/events?after={after}&wait=50{end}Accept: application/json\r\n\r\n"
        case "WebSocket":
            upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"  # RFC 6455's own example
            text = f"GET {conversation}/ws?after={after}{end}{upgrade}{key}\r\n"
        case _:
            raise SystemExit(f"no such kind of connection: {kind}")
    return text.encode()


def _one(kind: str, command: dict[str, Any]) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", command["port"]))
    sock.settimeout(SECONDS)
    sock.sendall(_request(kind, command))
    return sock


def _first_bytes(socks: list[socket.socket]) -> None:
    """Until each has got something behind its response's head. Fails when one is refused."""
    for sock in socks:
        got = b""
        while got.partition(b"\r\n\r\n")[2] == b"":
            data = sock.recv(65_536)
            got += data
            if not data or got[9:12] not in (b"200", b"101"):
                raise SystemExit(f"a connection was refused: {got[:300]!r}")


def _many(command: dict[str, Any], count: int) -> socket.socket:
    """One HTTP/2 connection with prior knowledge (RFC 9113 section 3.3) and so many streams."""
    sock = socket.create_connection(("127.0.0.1", command["port"]))
    talk = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    talk.initiate_connection()
    path = f"/v1/conversations/{command['conversation']}/events?after={command['after']}"
    for _ in range(count):
        talk.send_headers(
            talk.get_next_available_stream_id(),
            [
                (":method", "GET"),
                (":path", path),
                (":scheme", "http"),
                (":authority", f"127.0.0.1:{command['port']}"),
                ("accept", "text/event-stream"),
            ],
            end_stream=True,
        )
    sock.sendall(talk.data_to_send())
    begun: set[int | None] = set()
    until = time.monotonic() + SECONDS
    while len(begun) < count and time.monotonic() < until:
        sock.settimeout(max(0.1, until - time.monotonic()))
        data = sock.recv(65_536)
        if not data:
            break
        for event in talk.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                begun.add(event.stream_id)
        sock.sendall(talk.data_to_send())
    if len(begun) < count:
        raise SystemExit(f"{len(begun)} of {count} HTTP/2 streams began")
    return sock


def main() -> None:
    """Until the input ends."""
    idlers = Idlers()
    told = bytearray()
    while True:
        select.select([0], [], [])
        data = os.read(0, 65_536)
        if not data:
            return
        told += data
        for command in control.lines(told):
            if command["do"] == "open":
                idlers.open(command)
            else:
                idlers.close()
            control.say(done=command["do"])


if __name__ == "__main__":
    control.begin()
    main()
