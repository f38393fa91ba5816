"""Clients that hold connections open and do nothing: `python -m bench.processes.idle_clients`.

Commands: `{"do": "open", "kind", "count", "at_once", "port", "conversation", "after"}` and `{"do": "close"}`. Each
is answered when it is done. Opening is done when each connection has received its first bytes. A long poll
receives none before its end, so the measuring process waits until the server is quiet. `at_once` connections are
opened before the first of them is waited for; of "HTTP/2 SSE" they are the streams of one connection.
"""

import socket
import time
from typing import Any

import h2.config
import h2.connection
import h2.events

from bench.processes import control_channel

TIMEOUT_SECONDS = 60.0


class IdleClients:
    """The connections that are held open."""

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def open(self, command: dict[str, Any]) -> None:
        """Opens connections, `at_once` at a time: the server's backlog is not what is measured."""
        kind, count = command["kind"], command["count"]
        while count:
            some = min(count, command["at_once"])
            count -= some
            if kind == "HTTP/2 SSE":
                self._held.append(_open_http2(command, some))
                continue
            new = [_open_connection(kind, command) for _ in range(some)]
            self._held += new
            if kind != "long poll":
                _wait_for_first_bytes(new)

    def close(self) -> None:
        """Closes all connections."""
        for sock in self._held:
            sock.close()
        self._held = []


def _request(kind: str, command: dict[str, Any]) -> bytes:
    conversation = f"/v1/conversations/{command['conversation']}"
    after = command["after"]
    end = f" HTTP/1.1\r\nHost: 127.0.0.1:{command['port']}\r\n"
    if authorization := command.get("authorization"):
        end += f"Authorization: {authorization}\r\n"
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


def _open_connection(kind: str, command: dict[str, Any]) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", command["port"]))
    sock.settimeout(TIMEOUT_SECONDS)
    sock.sendall(_request(kind, command))
    return sock


def _wait_for_first_bytes(socks: list[socket.socket]) -> None:
    """Waits until each has received bytes after the head of its response. Exits when one is refused."""
    for sock in socks:
        got = b""
        while got.partition(b"\r\n\r\n")[2] == b"":
            data = sock.recv(65_536)
            got += data
            if not data or got[9:12] not in (b"200", b"101"):
                raise SystemExit(f"a connection was refused: {got[:300]!r}")


def _open_http2(command: dict[str, Any], count: int) -> socket.socket:
    """Opens an HTTP/2 connection with prior knowledge (RFC 9113 section 3.3) and `count` streams on it."""
    sock = socket.create_connection(("127.0.0.1", command["port"]))
    http2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    http2.initiate_connection()
    path = f"/v1/conversations/{command['conversation']}/events?after={command['after']}"
    for _ in range(count):
        http2.send_headers(
            http2.get_next_available_stream_id(),
            [
                (":method", "GET"),
                (":path", path),
                (":scheme", "http"),
                (":authority", f"127.0.0.1:{command['port']}"),
                ("accept", "text/event-stream"),
            ],
            end_stream=True,
        )
    sock.sendall(http2.data_to_send())
    started: set[int | None] = set()
    until = time.monotonic() + TIMEOUT_SECONDS
    while len(started) < count and time.monotonic() < until:
        sock.settimeout(max(0.1, until - time.monotonic()))
        data = sock.recv(65_536)
        if not data:
            break
        for event in http2.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                started.add(event.stream_id)
        sock.sendall(http2.data_to_send())
    if len(started) < count:
        raise SystemExit(f"{len(started)} of {count} HTTP/2 streams began")
    return sock


def main() -> None:
    """Carries out commands until the input ends."""
    clients = IdleClients()
    for command in control_channel.commands():
        if command["do"] == "open":
            clients.open(command)
        else:
            clients.close()
        control_channel.send(done=command["do"])


if __name__ == "__main__":
    control_channel.prepare()
    main()
