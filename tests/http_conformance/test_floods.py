"""Floods on the port of a server with limits: its memory stays bounded, and others are served meanwhile."""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import trio
from wsproto import ConnectionType
from wsproto.connection import Connection as WebSocketProtocol
from wsproto.events import TextMessage

from tests.clients.http1 import Connection
from tests.harness.databases import Postgres

from .conftest import ENV, make_logs
from .connection_end_clients import UPGRADE
from .server_probe import SECONDS, Probe, probed
from .tcp_peer import Peer

FLOODED = {
    **ENV,
    "TOKENTAPE_MAX_CONNECTIONS": "20000",
    "TOKENTAPE_MAX_CONNECTIONS_PER_ADDRESS": "20000",
    "TOKENTAPE_LIMITS": "user.requests=1000/s",
}
MEGABYTE = 1_048_576
MAX_SOCKET_BYTES = 48 * 1024
"""Memory of the server for a connection that has sent the beginning of a request."""


@pytest.fixture(scope="module")
def flooded(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probe]:
    """One server for all floods."""
    with probed(postgres, tmp_path_factory.mktemp("http"), FLOODED) as probe:
        yield probe


async def is_served(probe: Probe) -> None:
    """Somebody else's request."""
    with trio.fail_after(SECONDS):
        async with await Connection.open(probe.port) as connection:
            assert (await connection.ask("GET", "/healthz")).status == 200


@pytest.mark.parametrize("wanted", [500, pytest.param(10_000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("said", [b"", b"GET /v1/conversations HTTP/1.1\r\nHost: loc", b"PRI * HTTP/2.0\r\n"])
def test_half_open_sockets(flooded: Probe, wanted: int, said: bytes) -> None:
    """As many as this process may have files, at most."""
    count = min(wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 300)
    trio.run(is_served, flooded)
    before = flooded.memory()
    with ExitStack() as stack:
        for _ in range(count):
            peer = stack.enter_context(socket.create_connection(("127.0.0.1", flooded.port), SECONDS))
            peer.sendall(said)
        trio.run(is_served, flooded)
        grown = flooded.memory() - before
    assert grown < count * MAX_SOCKET_BYTES + 4 * MEGABYTE
    trio.run(is_served, flooded)


def header_names(number: int) -> bytes:
    return b"x-%d: y\r\n" % number


def header_length(number: int) -> bytes:
    return b"x" * 1000


@pytest.mark.parametrize("line", [header_names, header_length])
async def test_heads_without_an_end(flooded: Probe, line: Callable[[int], bytes]) -> None:
    """Header after header, or one that never ends: each connection is refused, and ended."""
    before = flooded.memory()
    ended = 0

    async def send_for_ever() -> None:
        nonlocal ended
        async with await Peer.open(flooded.port, None) as peer:
            assert await peer.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
            for number in range(100_000):
                if not await peer.send(line(number)):
                    ended += 1
                    return

    with trio.fail_after(3 * SECONDS):
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(send_for_ever)
            await is_served(flooded)
    assert ended == 50
    assert flooded.memory() - before < 16 * MEGABYTE


async def test_commands_without_a_pause(flooded: Probe) -> None:
    """Of a client that reads nothing, and has a limit besides: what it sends waits in its own socket."""
    logs = await make_logs(flooded.port)
    before = flooded.memory()
    websocket = WebSocketProtocol(ConnectionType.CLIENT)
    headers = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items())
    command = '{"id":"c","do":"x","key":"0123456789abcdef"}'
    async with await Peer.open(flooded.port, 4_096) as peer:
        await peer.send(f"GET {logs.small}/ws HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode())
        sent = 0
        with trio.move_on_after(3):
            while sent < 500_000:
                data = b"".join(websocket.send(TextMessage(command)) for _ in range(500))
                if not await peer.send(data):
                    break
                sent += 500
        assert sent < 500_000
        await is_served(flooded)
        assert flooded.memory() - before < 16 * MEGABYTE
