"""How many connections there may be: in all, of one address, below the limit of files; and how long idle ones."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import psutil
import pytest
import trio

from server.config import Settings
from tests.clients.api import Api
from tests.clients.http1 import Broken, Connection
from tests.clients.http2 import connect
from tests.harness.databases import Postgres
from tests.transports.problem_checks import check_problem

from .server_probe import Probe, probed
from .tcp_peer import Peer

MAX_CONNECTIONS = 20
SECONDS = 10.0
Folders = pytest.TempPathFactory


@pytest.fixture(scope="module")
def limited(postgres: Postgres, tmp_path_factory: Folders) -> Iterator[Probe]:
    """A server of twenty connections, which may be idle for long."""
    with probed(
        postgres, tmp_path_factory.mktemp("http"), {"TOKENTAPE_MAX_CONNECTIONS": str(MAX_CONNECTIONS)}
    ) as probe:
        yield probe


async def is_open(connection: Connection) -> bool:
    """Whether the server keeps it: it answers once more."""
    try:
        with trio.fail_after(SECONDS):
            head = await connection.ask("GET", "/healthz")
            await connection.body()
    except (Broken, trio.BrokenResourceError):
        return False
    return head.status == 200


@asynccontextmanager
async def idle_connections(port: int, count: int) -> AsyncIterator[list[Connection]]:
    """Connections that have been answered one after the other, and ask nothing more; the first is the oldest."""
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(count):
            connection = await stack.enter_async_context(await Connection.open(port))
            assert await is_open(connection)
            found.append(connection)
        yield found


@asynccontextmanager
async def streams(port: int, count: int) -> AsyncIterator[list[Connection]]:
    """Event streams that have begun."""
    async with Api.open(port) as api:
        conversation = await api.conversation()
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(count):
            connection = await stack.enter_async_context(await Connection.open(port))
            assert (await connection.ask("GET", f"{conversation}/events?format=sse")).status == 200
            assert await connection.receive()
            found.append(connection)
        yield found


async def none_open(probe: Probe) -> None:
    """Waits until an earlier test's connections are gone."""
    with trio.fail_after(SECONDS):
        while probe.connections():
            await trio.sleep(0.02)


async def test_the_oldest_idle_connection_makes_room(limited: Probe) -> None:
    """In the order in which they became idle; who has a stream, or asked lately, is not touched."""
    await none_open(limited)
    async with streams(limited.port, 5), idle_connections(limited.port, MAX_CONNECTIONS - 5) as idle:
        assert await is_open(idle[0])  # asked again: the second is the oldest now
        async with idle_connections(limited.port, 3):
            ended: list[int] = []

            async def note_end(number: int, connection: Connection) -> None:
                if await connection.ended_within(0.5):
                    ended.append(number)

            async with trio.open_nursery() as nursery:
                for number, connection in enumerate(idle):
                    nursery.start_soon(note_end, number, connection)
            assert sorted(ended) == [1, 2, 3]
            assert (await limited.readers())["sse"] == 5  # this request made room for itself, too
            assert await is_open(idle[0])


async def test_where_all_are_busy_another_is_told_to_come_back(limited: Probe) -> None:
    """503 with when, in words; the streams stay, and a place that is free again is given away."""
    await none_open(limited)
    async with streams(limited.port, MAX_CONNECTIONS) as busy:
        for _ in range(3):
            async with await Connection.open(limited.port) as connection:
                with trio.fail_after(SECONDS):
                    head = await connection.ask("GET", "/healthz")
                    check_problem(head.status, head.headers, await connection.body())
                assert head.status == 503
                assert int(head.headers["retry-after"]) >= 1
                assert head.headers["connection"] == "close"
        await busy[0].close()
        with trio.fail_after(SECONDS):
            while True:
                async with await Connection.open(limited.port) as connection:
                    if await is_open(connection):
                        break
                await trio.sleep(0.02)
        assert (await limited.readers())["sse"] == MAX_CONNECTIONS - 1


async def test_clients_that_say_nothing_shut_nobody_out(limited: Probe) -> None:
    """As many as there may be, again and again: who asks is answered, at the latest when they are overdue."""
    await none_open(limited)
    peers: list[Peer] = []

    async def come_again(*, task_status: trio.TaskStatus[None]) -> None:
        while True:
            peers.append(await Peer.open(limited.port))
            if len(peers) == 2 * MAX_CONNECTIONS:
                task_status.started()
            await trio.sleep(0.05)

    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(come_again)
            answered = 0
            with trio.fail_after(40):
                while answered < 5:
                    async with await Connection.open(limited.port) as connection:
                        answered += await is_open(connection)
                    await trio.sleep(0.02)
            nursery.cancel_scope.cancel()
    finally:
        for peer in peers:
            peer.fin()


FILES = 300


@pytest.fixture(scope="module")
def few_files(postgres: Postgres, tmp_path_factory: Folders) -> Iterator[Probe]:
    """A server whose limit of open files is far below the connections that are set."""
    with probed(postgres, tmp_path_factory.mktemp("http"), {"EDGE_FILES": str(FILES)}) as probe:
        yield probe


@pytest.mark.parametrize("said", [b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"])
async def test_the_limit_of_files_is_never_reached(few_files: Probe, said: bytes) -> None:
    """Clients come by hundreds, silent or answered, and stay: the server answers, its database and all."""
    most = 0
    async with AsyncExitStack() as stack:
        for number in range(2 * FILES):
            peer = await stack.enter_async_context(await Peer.open(few_files.port))
            await peer.send(said)
            if number % 10 == 0:
                most = max(most, few_files.files())
        answered = 0
        with trio.fail_after(40):
            while answered < 5:
                async with await Connection.open(few_files.port) as connection:
                    try:
                        head = await connection.ask("GET", "/readyz")
                        await connection.body()
                        answered += head.status == 200
                    except (Broken, trio.BrokenResourceError):
                        pass  # refused without a word is no answer
                most = max(most, few_files.files())
                await trio.sleep(0.02)
        async with Api.open(few_files.port) as api:
            await api.finished(await api.generate())
    assert most < FILES
    assert "cannot accept" not in few_files.server.logged()
    assert "Too many open files" not in few_files.server.logged()


# Of one address


def own_address() -> str | None:
    """An address of this machine that is not its loopback: a client that connects to it comes from it."""
    for addresses in psutil.net_if_addrs().values():
        for each in addresses:
            if each.family == socket.AF_INET and not each.address.startswith("127."):
                return each.address
    return None


ADDRESS = own_address()
needs_address = pytest.mark.skipif(ADDRESS is None, reason="this machine has its loopback address only")
OF_ADDRESS = {"TOKENTAPE_MAX_CONNECTIONS_PER_ADDRESS": "5"}


async def admitted(address: str, port: int, count: int) -> int:
    """How many of so many connections that send half a head each, all at once, are not refused."""
    kept = 0

    async def wait_for_refusal(sock: trio.socket.SocketType) -> None:
        nonlocal kept
        try:
            await sock.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
            with trio.move_on_after(0.5):
                await sock.recv(1)  # the refusal, or the end
                return
        except OSError:
            return
        kept += 1

    async with AsyncExitStack() as stack:
        sockets = []
        for _ in range(count):
            sock = stack.enter_context(trio.socket.socket())
            await sock.connect((address, port))
            sockets.append(sock)
        async with trio.open_nursery() as nursery:
            for sock in sockets:
                nursery.start_soon(wait_for_refusal, sock)
    return kept


@needs_address
def test_connections_of_one_address(postgres: Postgres, tmp_path_factory: Folders) -> None:
    """Five of another's, as many as it likes of this machine's."""
    assert ADDRESS is not None
    folder = tmp_path_factory.mktemp("http")
    with probed(postgres, folder, OF_ADDRESS, address="0.0.0.0") as probe:
        assert trio.run(admitted, ADDRESS, probe.port, 10) == 5
        assert trio.run(admitted, "127.0.0.1", probe.port, 10) == 10


@needs_address
def test_connections_of_a_proxy_that_is_trusted(postgres: Postgres, tmp_path_factory: Folders) -> None:
    """It brings many clients: it is not counted."""
    assert ADDRESS is not None
    network = f"{ADDRESS.rpartition('.')[0]}.0/24"
    env = {**OF_ADDRESS, "TOKENTAPE_TRUSTED_PROXIES": f"10.255.255.254, {network}"}
    with probed(postgres, tmp_path_factory.mktemp("http"), env, address="0.0.0.0") as probe:
        assert trio.run(admitted, ADDRESS, probe.port, 10) == 10


# Idle ones

KEEP_ALIVE = 1.0


@pytest.fixture(scope="module")
def impatient(postgres: Postgres, tmp_path_factory: Folders) -> Iterator[Probe]:
    """A server that keeps idle connections for a second."""
    env = {"TOKENTAPE_KEEP_ALIVE": str(KEEP_ALIVE), "TOKENTAPE_HEARTBEAT": "0.5"}
    with probed(postgres, tmp_path_factory.mktemp("http"), env) as probe:
        yield probe


async def test_an_idle_connection_is_closed_after_its_time(impatient: Probe) -> None:
    """And not before; what it asks meanwhile makes it fresh."""
    async with idle_connections(impatient.port, 1) as [connection]:
        began = trio.current_time()
        while trio.current_time() - began < 1.5 * KEEP_ALIVE:
            assert await is_open(connection)
            await trio.sleep(0.05)
        asked_at = trio.current_time()
        assert await connection.ended_within(KEEP_ALIVE + SECONDS)
        assert trio.current_time() - asked_at > 0.8 * KEEP_ALIVE


async def test_an_idle_connection_of_http2_is_ended_in_words(impatient: Probe) -> None:
    """GOAWAY first: a request that crosses it can be sent again."""
    async with connect(impatient.port) as connection:
        assert (await (await connection.request("GET", "/healthz")).head()).status == 200
        asked_at = trio.current_time()
        with trio.fail_after(KEEP_ALIVE + SECONDS):
            await connection.ended()
        assert trio.current_time() - asked_at > 0.8 * KEEP_ALIVE
        assert connection.goaway is not None
        assert connection.goaway.error_code == 0


async def test_a_stream_or_a_held_poll_is_no_idleness(impatient: Probe) -> None:
    """Longer than the time for an idle one, with nothing from the client."""
    async with streams(impatient.port, 1) as [stream], await Connection.open(impatient.port) as poll:
        async with Api.open(impatient.port) as api:
            conversation = await api.conversation()
        began = trio.current_time()
        head = await poll.ask("GET", f"{conversation}/events?after=1&wait=3")
        assert trio.current_time() - began > 2 * KEEP_ALIVE
        assert head.status == 200
        assert await stream.receive()
        assert await stream.receive()


def test_it_outlasts_a_load_balancer() -> None:
    """Their idle time is 60 s: who closes first must be the one that sends the requests."""
    assert Settings().keep_alive > 60
