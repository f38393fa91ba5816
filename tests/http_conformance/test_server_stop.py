"""SIGTERM while clients read streams, hold polls, keep WebSockets open, or do not read at all.

Every reader must get a clean end, and the process must exit with status 0 within its stop timeout.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, suppress

import pytest
import trio
from h2.exceptions import ProtocolError
from wsproto.events import CloseConnection

from tests.clients.http1 import Connection
from tests.clients.http2 import Connection as Http2Connection
from tests.clients.http2 import connect
from tests.clients.http2_websocket import opened
from tests.clients.websocket import talk
from tests.harness.databases import Postgres

from .conftest import make_logs
from .connection_end_clients import SMALL_BUFFER, UPGRADE, Logs
from .server_probe import Probe, probed
from .tcp_peer import Peer

STOP_SECONDS = 6.0
SLACK_SECONDS = 2.0
"""Added for a busy machine and for the interpreter's own exit."""
PATIENCE = STOP_SECONDS + SLACK_SECONDS
Begun = Callable[[], None]
"""A reader calls it once its response has started, or its request is sent."""


@pytest.fixture
def server_to_stop(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probe]:
    """A new server process for each test."""
    env = {"TOKENTAPE_STOP_TIMEOUT": str(STOP_SECONDS)}
    with probed(postgres, tmp_path_factory.mktemp("http"), env) as probe:
        yield probe


@pytest.fixture
def logs(server_to_stop: Probe) -> Logs:
    """Conversations on that server."""
    return trio.run(make_logs, server_to_stop.port)


# Readers: each reads to the end of its answer, which has to be a clean one


def check_poll(status: int, headers: Mapping[str, str], body: bytes) -> None:
    """A held poll ends with an empty page, or with 503 and Retry-After; never after a made-up wait."""
    if status == 503:
        assert int(headers["retry-after"]) >= 1
    else:
        assert status == 200
        assert json.loads(body)["events"] == []


async def http1_stream(port: int, logs: Logs, form: str, begun: Begun) -> None:
    """An SSE or NDJSON stream: its last chunk arrives, then the connection is closed."""
    async with await Connection.open(port) as connection:
        assert (await connection.ask("GET", f"{logs.quiet}/events?format={form}&after=now")).status == 200
        start = await connection.receive()
        begun()
        assert b"[DONE]" not in start + await connection.body()
        assert await connection.ended_within(PATIENCE)


async def http1_poll(port: int, logs: Logs, form: str, begun: Begun) -> None:
    """A held poll: it is answered, then the connection is closed."""
    async with await Connection.open(port) as connection:
        begun()
        head = await connection.ask("GET", f"{logs.quiet}/events?after=1&wait=50")
        check_poll(head.status, head.headers, await connection.body())
        assert await connection.ended_within(PATIENCE)


async def http1_websocket(port: int, logs: Logs, form: str, begun: Begun) -> None:
    """A WebSocket: closed with 1012 (service restart)."""
    async with talk(port, logs.quiet) as socket:
        await socket.until("caught_up")
        begun()
        assert (await socket.end())[0] == 1012


async def http2_stream(port: int, logs: Logs, form: str, begun: Begun) -> None:
    """An SSE or NDJSON stream: it ends, then the connection ends with GOAWAY."""
    async with connect(port) as connection:
        stream = await connection.request("GET", f"{logs.quiet}/events?format={form}&after=now")
        assert (await stream.head()).status == 200
        start = await stream.receive()
        begun()
        assert b"[DONE]" not in start + await stream.body()
        await check_goaway(connection)


async def http2_poll(port: int, logs: Logs, form: str, begun: Begun) -> None:
    """A held poll over HTTP/2."""
    async with connect(port) as connection:
        stream = await connection.request("GET", f"{logs.quiet}/events?after=1&wait=50")
        begun()
        head = await stream.head()
        check_poll(head.status, head.headers, await stream.body())
        await check_goaway(connection)


async def http2_websocket(port: int, logs: Logs, form: str, begun: Begun) -> None:
    """A WebSocket over HTTP/2."""
    async with connect(port) as connection:
        socket = await opened(connection, f"{logs.quiet}/ws?after=now")
        begun()
        while not isinstance(event := await socket.hear(), CloseConnection):
            pass
        assert event.code == 1012
        with suppress(ProtocolError):  # the server need not wait for it
            await socket.say(event.response())
        await check_goaway(connection)


async def check_goaway(connection: Http2Connection) -> None:
    """Checks that the server ended the connection with GOAWAY and no error."""
    await connection.ended()
    assert connection.goaway is not None
    assert connection.goaway.error_code == 0


Read = Callable[[int, Logs, str, Begun], Awaitable[None]]
READERS: list[tuple[Read, str]] = [
    (http1_stream, "sse"),
    (http1_stream, "ndjson"),
    (http1_poll, ""),
    (http1_websocket, ""),
    (http2_stream, "sse"),
    (http2_stream, "ndjson"),
    (http2_poll, ""),
    (http2_websocket, ""),
]


async def stop_with_readers(probe: Probe, logs: Logs) -> None:
    """Starts three readers of each kind, sends SIGTERM once all have started, and checks how all of them end."""
    ready = 0

    def begun() -> None:
        nonlocal ready
        ready += 1

    async with trio.open_nursery() as nursery:
        for read, form in READERS * 3:
            nursery.start_soon(read, probe.port, logs, form, begun)
        with trio.fail_after(20):
            while ready < 3 * len(READERS) or (await probe.readers()).get("long_poll", 0) < 6:
                await trio.sleep(0.02)
        await check_stops(probe)


async def check_stops(probe: Probe) -> None:
    """Sends SIGTERM and checks that the process ends in time, with status 0 and without a traceback."""
    process = probe.server.process
    assert process is not None
    began = time.monotonic()
    probe.server.send_signal(signal.SIGTERM)
    with trio.fail_after(PATIENCE):
        while process.poll() is None:
            await trio.sleep(0.02)
    assert process.returncode == 0
    assert time.monotonic() - began < PATIENCE
    assert "Traceback" not in probe.server.logged()


async def test_every_kind_of_reader_ends_cleanly(server_to_stop: Probe, logs: Logs) -> None:
    """Streams, held polls and WebSockets on both protocols."""
    await stop_with_readers(server_to_stop, logs)


async def test_readers_end_cleanly_beside_stalled_and_silent_clients(server_to_stop: Probe, logs: Logs) -> None:
    """Those clients cannot be told anything, but must delay neither the others nor the stop."""
    port = server_to_stop.port
    async with AsyncExitStack() as stack:

        async def peer(said: str, *, small: bool = False, answered: bool = False) -> None:
            one = await stack.enter_async_context(await Peer.open(port, SMALL_BUFFER if small else None))
            await one.send(said.replace("\n", "\r\n").encode())
            if answered:
                await one.peek()

        host = f"Host: 127.0.0.1:{port}"
        upgrade = "\n".join(f"{name}: {value}" for name, value in UPGRADE.items())
        large = f"{logs.large}/events?format"
        for _ in range(3):
            await peer("")
            await peer(f"GET /healthz HTTP/1.1\n{host}\n\n", answered=True)
            await peer(f"GET /healthz HTTP/1.1\n{host}\nX-Half: ")
            await peer(
                f"POST /v1/conversations HTTP/1.1\n{host}\nContent-Type: application/json\nContent-Length: 9\n\n"
            )
            for form in ("sse", "ndjson", "json"):
                await peer(f"GET {large}={form} HTTP/1.1\n{host}\n\n", small=True, answered=True)
            await peer(f"GET {logs.large}/ws?after=0 HTTP/1.1\n{host}\n{upgrade}\n\n", small=True, answered=True)
            stalled = await stack.enter_async_context(connect(port, window=0))
            for form in ("sse", "ndjson", "json"):
                await (await stalled.request("GET", f"{large}={form}")).head()
            await opened(stalled, f"{logs.large}/ws?after=0")
        await stop_with_readers(server_to_stop, logs)


async def test_stalled_clients_alone_do_not_delay_the_stop(server_to_stop: Probe, logs: Logs) -> None:
    """The process ends within the stop timeout."""
    async with AsyncExitStack() as stack:
        for _ in range(5):
            peer = await stack.enter_async_context(await Peer.open(server_to_stop.port, SMALL_BUFFER))
            target = f"{logs.large}/events?format=sse"
            await peer.send(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            await peer.peek()
            stalled = await stack.enter_async_context(connect(server_to_stop.port, window=0))
            await (await stalled.request("GET", target)).head()
        await check_stops(server_to_stop)
