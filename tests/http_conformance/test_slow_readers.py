"""Clients that read slowly or not at all, over HTTP/1.1, HTTP/2 and WebSockets.

The server may hold only a bounded number of bytes for them, must go on serving others, and must not cut a
client that is merely slow.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import pytest
import trio
from wsproto import ConnectionType
from wsproto.connection import Connection as WebSocketProtocol
from wsproto.events import TextMessage

from tests.clients.api import Api
from tests.clients.http1 import Broken, Connection
from tests.clients.http2 import Stream, connect
from tests.clients.http2_websocket import opened
from tests.harness.databases import Postgres
from tests.transports.module_servers import serving
from tests.transports.problem_checks import check_problem

from .conftest import make_logs
from .connection_end_clients import SMALL_BUFFER, UPGRADE, Logs
from .server_probe import Probe, probed
from .tcp_peer import Peer

MAX_GROWTH = 128 * 1_048_576
"""Most bytes by which the server's memory may grow: 64 MiB of unsent responses (`TOKENTAPE_MAX_UNSENT`), a few
large pages in preparation, the log's events with their JSON, and what the allocator keeps.
"""
PAGE = "events?limit=5000"
"""A page of four megabytes of the large log, which is the largest a page may be."""
HELD = 48
"""Number of unread four-megabyte responses: three times what may wait, and more than `MAX_GROWTH`."""
RESPONSE_SECONDS = 1.0
STALL_SECONDS = 3.0
SLOW_SECONDS = STALL_SECONDS + RESPONSE_SECONDS
Folders = pytest.TempPathFactory


@dataclass(frozen=True)
class FilledDatabase:
    """A template database with a conversation of ten megabytes in it."""

    name: str
    large: str


@pytest.fixture(scope="module")
def filled_database(postgres: Postgres, tmp_path_factory: Folders) -> Iterator[FilledDatabase]:
    """A filled database; the server that filled it has stopped."""
    with postgres.clone() as database, serving(database.app_url) as server:
        logs = trio.run(make_logs, server.port)
        trio.run(server.stop)
        yield FilledDatabase(database.name, logs.large)


@pytest.fixture
def fresh_server(
    postgres: Postgres, filled_database: FilledDatabase, tmp_path_factory: Folders
) -> Iterator[Probe]:
    """A new server process for each test, because memory once taken is not taken again."""
    with probed(postgres, tmp_path_factory.mktemp("http"), {}, template=filled_database.name) as probe:
        yield probe


@pytest.fixture
def large(fresh_server: Probe, filled_database: FilledDatabase) -> str:
    """The path of the ten-megabyte conversation, of which one page has already been requested."""
    trio.run(read_page, fresh_server.port, filled_database.large)
    return filled_database.large


async def read_page(port: int, conversation: str) -> bytes:
    """Requests a page of the conversation."""
    async with Api.open(port) as api:
        return (await api.http.get(f"{conversation}/{PAGE}")).content


@asynccontextmanager
async def memory_growth(probe: Probe) -> AsyncIterator[list[int]]:
    """Measures the server's highest memory use within the context, minus that before it."""
    before = probe.memory()
    probe.forget_peak()
    found: list[int] = []
    yield found
    found.append(probe.peak() - before)


async def check_others_are_served(probe: Probe) -> None:
    """Checks that other clients are served meanwhile."""
    async with Api.open(probe.port) as api:
        with trio.fail_after(20):
            assert (await api.http.get("/healthz")).status_code == 200
            await api.finished(await api.generate())


@pytest.mark.parametrize("target", [PAGE, ""])
async def test_unread_http2_pages_are_held_up_to_the_limit_and_then_refused(
    fresh_server: Probe, large: str, target: str
) -> None:
    """A refused request gets 503 and succeeds once the others are gone."""
    async with memory_growth(fresh_server) as grown, connect(fresh_server.port, window=0) as connection:
        path = f"{large}/{target}".rstrip("/")
        waiting = [await connection.request("GET", path) for _ in range(HELD)]
        heads = [await stream.head() for stream in waiting]
        refused = [head for head in heads if head.status != 200]
        assert len(refused) < len(heads)
        for head in refused:
            assert head.status == 503
            assert int(head.headers["retry-after"]) >= 1
        await check_others_are_served(fresh_server)
    assert grown[0] < MAX_GROWTH, f"{grown[0] / 1e6:.0f} MB"
    async with Api.open(fresh_server.port) as api:  # all is given back
        with trio.fail_after(20):
            while (await api.http.get(path)).status_code != 200:
                await trio.sleep(0.1)


@pytest.mark.parametrize("target", [PAGE, ""])
async def test_unread_http1_pages_are_held_up_to_the_limit_and_then_refused(
    fresh_server: Probe, large: str, target: str
) -> None:
    """A refused request gets 503."""
    path = f"{large}/{target}".rstrip("/")
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{fresh_server.port}\r\n\r\n".encode()
    async with memory_growth(fresh_server) as grown, AsyncExitStack() as stack:
        peers = [
            await stack.enter_async_context(await Peer.open(fresh_server.port, SMALL_BUFFER)) for _ in range(HELD)
        ]
        for peer in peers:
            await peer.send(request)
        statuses = [(await peer.peek(40))[9:12] for peer in peers]
        assert set(statuses) <= {b"200", b"503"}
        assert b"200" in statuses
        await check_others_are_served(fresh_server)
    assert grown[0] < MAX_GROWTH, f"{grown[0] / 1e6:.0f} MB"


STREAMS = 20


@pytest.mark.parametrize("form", ["sse", "ndjson", "websocket"])
async def test_unread_http1_streams_hold_little_of_the_log(fresh_server: Probe, large: str, form: str) -> None:
    """The log has ten megabytes, in events of one."""
    host = f"Host: 127.0.0.1:{fresh_server.port}"
    upgrade = "\r\n".join(f"{name}: {value}" for name, value in UPGRADE.items())
    head = {
        "websocket": f"GET {large}/ws?after=0 HTTP/1.1\r\n{host}\r\n{upgrade}\r\n\r\n",
        "sse": f"GET {large}/events?format=sse HTTP/1.1\r\n{host}\r\n\r\n",
        "ndjson": f"GET {large}/events?format=ndjson HTTP/1.1\r\n{host}\r\n\r\n",
    }[form]
    async with memory_growth(fresh_server) as grown, AsyncExitStack() as stack:
        for _ in range(STREAMS):
            peer = await stack.enter_async_context(await Peer.open(fresh_server.port, SMALL_BUFFER))
            await peer.send(head.encode())
            with trio.fail_after(20):
                while not fresh_server.waits_to_send(peer.port):
                    await trio.sleep(0.02)
        await check_others_are_served(fresh_server)
    assert grown[0] < MAX_GROWTH, f"{grown[0] / 1e6:.0f} MB"


@pytest.mark.parametrize("form", ["sse", "ndjson", "websocket"])
async def test_unread_http2_streams_hold_little_of_the_log(fresh_server: Probe, large: str, form: str) -> None:
    """The client gives the streams no window."""
    async with memory_growth(fresh_server) as grown, connect(fresh_server.port, window=0) as connection:
        for _ in range(STREAMS):
            if form == "websocket":
                await opened(connection, f"{large}/ws?after=0")
            else:
                stream = await connection.request("GET", f"{large}/events?format={form}")
                assert (await stream.head()).status == 200
        await check_others_are_served(fresh_server)
    assert grown[0] < MAX_GROWTH, f"{grown[0] / 1e6:.0f} MB"


async def test_refusal_is_a_problem_on_both_protocols(fresh_server: Probe, large: str) -> None:
    """Clients that do read are served on the same connection."""
    path = f"{large}/{PAGE}"
    async with connect(fresh_server.port, window=0) as holding, connect(fresh_server.port) as reading:
        for _ in range(HELD // 2):
            await (await holding.request("GET", path)).head()
        stream = await reading.request("GET", path)
        head = await stream.head()
        assert head.status == 503
        check_problem(503, head.headers, await stream.body())
        async with await Connection.open(fresh_server.port) as connection:
            head = await connection.ask("GET", path)
            check_problem(head.status, head.headers, await connection.body())
            assert head.status == 503
            assert (await connection.ask("GET", "/healthz")).status == 200


@pytest.fixture(scope="module")
def server_with_short_response_timeout(postgres: Postgres, tmp_path_factory: Folders) -> Iterator[Probe]:
    """A server whose framework would cut a response after 1 s if it could; its own stall timeout is 3 s."""
    env = {"EDGE_RESPONSE_SECONDS": str(RESPONSE_SECONDS), "TOKENTAPE_STALL_TIMEOUT": str(STALL_SECONDS)}
    with probed(postgres, tmp_path_factory.mktemp("http"), env) as probe:
        yield probe


@pytest.fixture(scope="module")
def logs(server_with_short_response_timeout: Probe) -> Logs:
    """Conversations on that server."""
    return trio.run(make_logs, server_with_short_response_timeout.port)


async def read_slowly_by_http1(port: int, path: str) -> bytes:
    """Reads a kilobyte at a time for `SLOW_SECONDS`, then all the rest. Returns the body."""
    async with await Peer.open(port, SMALL_BUFFER) as peer:
        await peer.send(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
        received = b""
        began = trio.current_time()
        while trio.current_time() - began < SLOW_SECONDS:
            received += await peer.read(1_024)
            await trio.sleep(0.05)
        received += await peer.read_all(30)
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    return body


async def read_slowly_by_http2(port: int, path: str) -> bytes:
    """The same over HTTP/2, with window for a kilobyte at a time."""
    async with connect(port, window=1_024) as connection:
        stream: Stream = await connection.request("GET", path)
        assert (await stream.head()).status == 200
        body = b""
        began = trio.current_time()
        while trio.current_time() - began < SLOW_SECONDS:
            body += await stream.receive()
            await trio.sleep(0.05)
        connection.h2.increment_flow_control_window(2**24, stream.stream_id)
        await connection.flush()
        with trio.fail_after(30):
            return body + await stream.body()


async def test_slow_reader_gets_its_whole_response(server_with_short_response_timeout: Probe, logs: Logs) -> None:
    """However long it takes: only a client that reads nothing for the stall timeout is cut."""
    expected = json.loads(await read_page(server_with_short_response_timeout.port, logs.large))
    came: dict[str, bytes] = {}

    async def follow(name: str, read: Callable[[int, str], Awaitable[bytes]]) -> None:
        came[name] = await read(server_with_short_response_timeout.port, f"{logs.large}/{PAGE}")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, "HTTP/1.1", read_slowly_by_http1)
        nursery.start_soon(follow, "HTTP/2", read_slowly_by_http2)
    assert {name for name, body in came.items() if json.loads(body) == expected} == {"HTTP/1.1", "HTTP/2"}


async def test_unread_http2_stream_is_reset_after_the_stall_timeout(
    server_with_short_response_timeout: Probe, logs: Logs
) -> None:
    """The connection goes on, and nothing of the response is held any more."""
    async with connect(server_with_short_response_timeout.port, window=0) as connection:
        stalled = await connection.request("GET", f"{logs.large}/{PAGE}")
        assert (await stalled.head()).status == 200
        began = trio.current_time()
        await stalled.reset_by_server()
        assert trio.current_time() - began > 0.8 * STALL_SECONDS
        assert (await (await connection.request("GET", "/healthz")).head()).status == 200


MAX_SOCKET_BYTES = 24 * 1_048_576
"""Most bytes held for a WebSocket whose client sends megabytes and reads nothing: the message arriving, those
queued, the one in progress and the log's next events, each in two or three forms.
"""
COMMAND = json.dumps({"id": "c", "do": "x", "padding": "x" * 1_000_000})
MAX_COMMANDS = 40
SENDERS = 8


async def test_http1_websockets_that_send_large_commands_without_reading(fresh_server: Probe, large: str) -> None:
    """The server stops reading from them and holds little of any."""
    head = [f"GET {large}/ws?after=0 HTTP/1.1", f"Host: 127.0.0.1:{fresh_server.port}"]
    head += [f"{name}: {value}" for name, value in UPGRADE.items()]

    async def send_commands(peer: Peer) -> None:
        await peer.send("\r\n".join([*head, "", ""]).encode())
        assert (await peer.peek()).startswith(b"HTTP/1.1 101 ")
        frame = WebSocketProtocol(ConnectionType.CLIENT).send(TextMessage(COMMAND))
        for _ in range(MAX_COMMANDS):
            with trio.move_on_after(2) as stuck:
                await peer.send(frame)
            if stuck.cancelled_caught:
                return

    async with memory_growth(fresh_server) as grown, AsyncExitStack() as stack, trio.open_nursery() as nursery:
        for _ in range(SENDERS):
            nursery.start_soon(
                send_commands, await stack.enter_async_context(await Peer.open(fresh_server.port, SMALL_BUFFER))
            )
    assert grown[0] < SENDERS * MAX_SOCKET_BYTES, f"{grown[0] / 1e6:.0f} MB"
    await check_others_are_served(fresh_server)


async def test_http2_websockets_that_send_large_commands_without_reading(fresh_server: Probe, large: str) -> None:
    """On streams of one connection, where flow control stops the client."""

    async def send_commands(socket: object) -> None:
        with suppress(Broken, trio.TooSlowError):
            for _ in range(MAX_COMMANDS):
                await socket.say(TextMessage(COMMAND))  # type: ignore[attr-defined]

    async with memory_growth(fresh_server) as grown, connect(fresh_server.port, window=1_024) as connection:
        sockets = [await opened(connection, f"{large}/ws?after=0") for _ in range(SENDERS)]
        with trio.move_on_after(4):
            async with trio.open_nursery() as nursery:
                for socket in sockets:
                    nursery.start_soon(send_commands, socket)
        await check_others_are_served(fresh_server)
    assert grown[0] < SENDERS * MAX_SOCKET_BYTES, f"{grown[0] / 1e6:.0f} MB"
