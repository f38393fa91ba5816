"""Hundreds of clients that disconnect at awkward moments.

Afterwards the server must hold no socket and no stream place of any of them, or they would add up.
"""

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


async def run_many(count: int, one: Callable[[], Awaitable[None]]) -> None:
    """Runs the function `count` times, at most `AT_ONCE` at a time."""
    limiter = trio.CapacityLimiter(AT_ONCE)

    async def limited() -> None:
        async with limiter:
            await one()

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(limited)


@asynccontextmanager
async def check_nothing_left(probe: Probe, logs: Logs) -> AsyncIterator[None]:
    """Checks that the code in the context leaves no open stream and no socket, and that the server still
    answers.
    """
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


async def test_websockets_reset_with_unanswered_commands_leave_nothing(probe: Probe, logs: Logs) -> None:
    """A hundred connections, each with forty commands in progress behind a log that it does not read."""
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

    async with check_nothing_left(probe, logs):
        await run_many(100, reset_with_commands)


async def test_streams_with_a_stray_line_end_after_the_request_leave_nothing(probe: Probe, logs: Logs) -> None:
    """Some old clients send CRLF after a request. Two hundred such clients read once and disconnect."""
    request = (
        f"GET /v1/diagnostics/stream?chunks=200&interval=0.05 HTTP/1.1\r\nHost: 127.0.0.1:{probe.port}\r\n\r\n\r\n"
    )

    async def read_once() -> None:
        async with await Peer.open(probe.port) as peer:
            await peer.send(request.encode())
            assert (await peer.read()).startswith(b"HTTP/1.1 200 ")

    async with check_nothing_left(probe, logs):
        await run_many(200, read_once)
