"""Answers and commands of clients that take nothing, or little: bytes are bounded, and slowness is no fault."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

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
from tests.transports.problem_checks import check_problem

from .conftest import make_logs
from .connection_end_clients import SMALL_BUFFER, UPGRADE, Logs
from .server_probe import Probe, probed
from .tcp_peer import Peer

MOST_GROWTH = 128 * 1_048_576
"""64 MiB of answers that wait for their clients (`TOKENTAPE_MAX_UNSENT`), a few large pages that are being made,
the log's own events and their JSON, and what the allocator keeps."""
PAGE = "events?limit=5000"
"""Four megabytes of the large log: as much as a page may have."""
RESPONSE_SECONDS = 2.0
STALL_SECONDS = 3.0
SLOW_SECONDS = 3 * RESPONSE_SECONDS
Folders = pytest.TempPathFactory


@pytest.fixture
def fresh(postgres: Postgres, tmp_path_factory: Folders) -> Iterator[Probe]:
    """A server of the test's own: what one before held would not be asked for again."""
    with probed(postgres, tmp_path_factory.mktemp("http"), {}) as probe:
        yield probe


@pytest.fixture
def large(fresh: Probe) -> str:
    """A conversation of ten megabytes on it, of which a page has been asked for."""
    logs = trio.run(make_logs, fresh.port)
    trio.run(read_page, fresh.port, logs.large)
    return logs.large


async def read_page(port: int, conversation: str) -> bytes:
    """A page of it."""
    async with Api.open(port) as api:
        return (await api.http.get(f"{conversation}/{PAGE}")).content


@asynccontextmanager
async def growth(probe: Probe) -> AsyncIterator[list[int]]:
    """How much memory the server takes at most within the context, beyond what it had; there at its end."""
    before = probe.memory()
    probe.forget_peak()
    found: list[int] = []
    yield found
    found.append(probe.peak() - before)


async def check_lively(probe: Probe) -> None:
    """Others are answered meanwhile."""
    async with Api.open(probe.port) as api:
        with trio.fail_after(20):
            assert (await api.http.get("/healthz")).status_code == 200
            await api.finished(await api.generate())


@pytest.mark.parametrize("target", [PAGE, ""])
async def test_streams_of_http2_without_window(fresh: Probe, large: str, target: str) -> None:
    """256 on a connection, with megabytes for each: what cannot be held is refused, and can be asked again."""
    async with growth(fresh) as grown, connect(fresh.port, window=0) as connection:
        path = f"{large}/{target}".rstrip("/")
        waiting = [await connection.request("GET", path) for _ in range(256)]
        heads = [await stream.head() for stream in waiting]
        refused = [head for head in heads if head.status != 200]
        assert len(refused) < len(heads)
        for head in refused:
            assert head.status == 503
            assert int(head.headers["retry-after"]) >= 1
        await check_lively(fresh)
    assert grown[0] < MOST_GROWTH, f"{grown[0] / 1e6:.0f} MB"
    async with Api.open(fresh.port) as api:  # all is given back
        with trio.fail_after(20):
            while (await api.http.get(path)).status_code != 200:
                await trio.sleep(0.1)


@pytest.mark.parametrize("target", [PAGE, ""])
async def test_connections_of_http1_that_do_not_read(fresh: Probe, large: str, target: str) -> None:
    """A hundred."""
    path = f"{large}/{target}".rstrip("/")
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{fresh.port}\r\n\r\n".encode()
    async with growth(fresh) as grown, AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(await Peer.open(fresh.port, SMALL_BUFFER)) for _ in range(100)]
        for peer in peers:
            await peer.send(request)
        statuses = [(await peer.peek(40))[9:12] for peer in peers]
        assert set(statuses) <= {b"200", b"503"}
        assert b"200" in statuses
        await check_lively(fresh)
    assert grown[0] < MOST_GROWTH, f"{grown[0] / 1e6:.0f} MB"


STREAMS = 20


@pytest.mark.parametrize("form", ["sse", "ndjson", "websocket"])
async def test_streams_of_http1_that_are_not_read(fresh: Probe, large: str, form: str) -> None:
    """Behind ten megabytes of log, in events of one: a reader holds little of it at a time."""
    host = f"Host: 127.0.0.1:{fresh.port}"
    upgrade = "\r\n".join(f"{name}: {value}" for name, value in UPGRADE.items())
    head = {
        "websocket": f"GET {large}/ws?after=0 HTTP/1.1\r\n{host}\r\n{upgrade}\r\n\r\n",
        "sse": f"GET {large}/events?format=sse HTTP/1.1\r\n{host}\r\n\r\n",
        "ndjson": f"GET {large}/events?format=ndjson HTTP/1.1\r\n{host}\r\n\r\n",
    }[form]
    async with growth(fresh) as grown, AsyncExitStack() as stack:
        for _ in range(STREAMS):
            peer = await stack.enter_async_context(await Peer.open(fresh.port, SMALL_BUFFER))
            await peer.send(head.encode())
            with trio.fail_after(20):
                while not fresh.waits_to_send(peer.port):
                    await trio.sleep(0.02)
        await check_lively(fresh)
    assert grown[0] < MOST_GROWTH, f"{grown[0] / 1e6:.0f} MB"


@pytest.mark.parametrize("form", ["sse", "ndjson", "websocket"])
async def test_streams_of_http2_that_are_not_read(fresh: Probe, large: str, form: str) -> None:
    """The same without window."""
    async with growth(fresh) as grown, connect(fresh.port, window=0) as connection:
        for _ in range(STREAMS):
            if form == "websocket":
                await opened(connection, f"{large}/ws?after=0")
            else:
                stream = await connection.request("GET", f"{large}/events?format={form}")
                assert (await stream.head()).status == 200
        await check_lively(fresh)
    assert grown[0] < MOST_GROWTH, f"{grown[0] / 1e6:.0f} MB"


async def test_a_refusal_says_when_to_come_back(fresh: Probe, large: str) -> None:
    """In words, on both protocols; somebody who reads is served beside those who do not."""
    path = f"{large}/{PAGE}"
    async with connect(fresh.port, window=0) as holding, connect(fresh.port) as reading:
        for _ in range(60):
            await (await holding.request("GET", path)).head()
        stream = await reading.request("GET", path)
        head = await stream.head()
        assert head.status == 503
        check_problem(503, head.headers, await stream.body())
        async with await Connection.open(fresh.port) as connection:
            head = await connection.ask("GET", path)
            check_problem(head.status, head.headers, await connection.body())
            assert head.status == 503
            assert (await connection.ask("GET", "/healthz")).status == 200


@pytest.fixture(scope="module")
def patient(postgres: Postgres, tmp_path_factory: Folders) -> Iterator[Probe]:
    """A server under a framework that cuts a response after two seconds, if it is let; a stall is three."""
    env = {"EDGE_RESPONSE_SECONDS": str(RESPONSE_SECONDS), "TOKENTAPE_STALL_TIMEOUT": str(STALL_SECONDS)}
    with probed(postgres, tmp_path_factory.mktemp("http"), env) as probe:
        yield probe


@pytest.fixture(scope="module")
def logs(patient: Probe) -> Logs:
    """Conversations on it."""
    return trio.run(make_logs, patient.port)


async def slowly_by_http1(port: int, path: str) -> bytes:
    """The answer to a client that takes a kilobyte at a time for so long, and then all the rest."""
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


async def slowly_by_http2(port: int, path: str) -> bytes:
    """The same: window for a kilobyte at a time."""
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


@pytest.mark.parametrize("read", [slowly_by_http1, slowly_by_http2])
@pytest.mark.parametrize("target", [PAGE])
async def test_a_slow_reader_gets_its_whole_answer(patient: Probe, logs: Logs, read: object, target: str) -> None:
    """However long it takes: only who takes nothing for the stall time is given up."""
    expected = json.loads(await read_page(patient.port, logs.large))
    assert json.loads(await read(patient.port, f"{logs.large}/{target}")) == expected  # type: ignore[operator]


async def test_a_stream_of_http2_that_is_taken_by_nobody_is_given_up(patient: Probe, logs: Logs) -> None:
    """After the stall time, while the connection serves on; of its body nothing is held then."""
    async with connect(patient.port, window=0) as connection:
        stalled = await connection.request("GET", f"{logs.large}/{PAGE}")
        assert (await stalled.head()).status == 200
        began = trio.current_time()
        await stalled.reset_by_server()
        assert trio.current_time() - began > 0.8 * STALL_SECONDS
        assert (await (await connection.request("GET", "/healthz")).head()).status == 200


MOST_OF_SOCKET = 24 * 1_048_576
"""A WebSocket whose client sends megabytes and reads nothing: a message that comes, those that wait, the one
that is carried out, and the log's next events, each in two or three forms."""
COMMAND = json.dumps({"id": "c", "do": "x", "padding": "x" * 1_000_000})
MOST_COMMANDS = 40


async def test_websockets_that_send_large_commands_and_do_not_read(fresh: Probe, large: str) -> None:
    """Megabytes each, for answers that nobody takes: the server stops reading, and holds little of any."""
    head = [f"GET {large}/ws?after=0 HTTP/1.1", f"Host: 127.0.0.1:{fresh.port}"]
    head += [f"{name}: {value}" for name, value in UPGRADE.items()]

    async def send_commands(peer: Peer) -> None:
        await peer.send("\r\n".join([*head, "", ""]).encode())
        assert (await peer.peek()).startswith(b"HTTP/1.1 101 ")
        protocol = WebSocketProtocol(ConnectionType.CLIENT)
        for _ in range(MOST_COMMANDS):
            with trio.move_on_after(3) as stuck:
                await peer.send(protocol.send(TextMessage(COMMAND)))
            if stuck.cancelled_caught:
                return

    async with growth(fresh) as grown, AsyncExitStack() as stack, trio.open_nursery() as nursery:
        for _ in range(STREAMS):
            nursery.start_soon(
                send_commands, await stack.enter_async_context(await Peer.open(fresh.port, SMALL_BUFFER))
            )
    assert grown[0] < STREAMS * MOST_OF_SOCKET, f"{grown[0] / 1e6:.0f} MB"
    await check_lively(fresh)


async def test_websockets_of_http2_that_send_large_commands_and_do_not_read(fresh: Probe, large: str) -> None:
    """The same on the streams of one connection: the window is what stops the client."""

    async def send_commands(socket: object) -> None:
        with suppress(Broken, trio.TooSlowError):
            for _ in range(MOST_COMMANDS):
                await socket.say(TextMessage(COMMAND))  # type: ignore[attr-defined]

    async with growth(fresh) as grown, connect(fresh.port, window=1_024) as connection:
        sockets = [await opened(connection, f"{large}/ws?after=0") for _ in range(STREAMS)]
        with trio.move_on_after(5):
            async with trio.open_nursery() as nursery:
                for socket in sockets:
                    nursery.start_soon(send_commands, socket)
        await check_lively(fresh)
    assert grown[0] < STREAMS * MOST_OF_SOCKET, f"{grown[0] / 1e6:.0f} MB"
