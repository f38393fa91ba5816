"""Clients that leave in an awkward moment, hundreds of times: nothing is left of any, so nothing adds up."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio
from wsproto import ConnectionType
from wsproto.connection import Connection as WebSocketProtocol
from wsproto.events import TextMessage

from .connection_end_clients import SMALL_BUFFER, UPGRADE, Logs
from .server_probe import Probe
from .tcp_peer import Peer

AT_ONCE = 25
SECONDS = 15.0


async def many(count: int, one: Callable[[], Awaitable[None]]) -> None:
    """Does it so often, many at once."""
    limiter = trio.CapacityLimiter(AT_ONCE)

    async def limited() -> None:
        async with limiter:
            await one()

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(limited)


@asynccontextmanager
async def nothing_left(probe: Probe, logs: Logs) -> AsyncIterator[None]:
    """Behind what happens in the context no stream place and no descriptor may stay; and the server answers."""
    await probe.check_answers(logs.small)
    readers, sockets = Counter(await probe.readers()), probe.forgotten()
    yield
    found: tuple[object, ...] = ()
    with trio.move_on_after(SECONDS):
        while any(
            found := (probe.connections(), Counter(await probe.readers()) - readers, probe.forgotten() - sockets)
        ):
            await trio.sleep(0.1)
    assert not any(found), found
    await probe.check_answers(logs.small)


async def test_websockets_that_are_reset_with_commands_on_their_way(probe: Probe, logs: Logs) -> None:
    """A hundred: forty commands each that wait for an answer, behind a log that is not read."""
    head = [f"GET {logs.large}/ws?after=0 HTTP/1.1", f"Host: 127.0.0.1:{probe.port}"]
    head += [f"{name}: {value}" for name, value in UPGRADE.items()]
    request = "\r\n".join([*head, "", ""]).encode()

    async def reset_with_commands() -> None:
        async with await Peer.open(probe.port, SMALL_BUFFER) as peer:
            await peer.send(request)
            assert (await peer.peek()).startswith(b"HTTP/1.1 101 ")
            protocol = WebSocketProtocol(ConnectionType.CLIENT)
            for number in range(40):
                await peer.send(protocol.send(TextMessage(json.dumps({"id": str(number), "do": "x"}))))
            with trio.fail_after(SECONDS):  # until the server has filled the socket, and read what it will
                while not probe.waits_to_send(peer.port):
                    await trio.sleep(0.05)
            peer.rst()

    async with nothing_left(probe, logs):
        await many(100, reset_with_commands)


async def test_streams_with_a_stray_line_end_behind_their_request(probe: Probe, logs: Logs) -> None:
    """Two hundred: clients of old send one behind a body; then they read once, and go."""
    request = (
        f"GET /v1/diagnostics/stream?chunks=200&interval=0.05 HTTP/1.1\r\nHost: 127.0.0.1:{probe.port}\r\n\r\n\r\n"
    )

    async def read_once() -> None:
        async with await Peer.open(probe.port) as peer:
            await peer.send(request.encode())
            assert (await peer.read()).startswith(b"HTTP/1.1 200 ")

    async with nothing_left(probe, logs):
        await many(200, read_once)
