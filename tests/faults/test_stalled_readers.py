"""Readers that do not read while thousands of tokens arrive.

The server's memory must stay bounded, and a reader that goes on must get every token.
"""

import socket
from dataclasses import dataclass

import psutil
import pytest
import trio

from tests.faults.readers import ask, read_log
from tests.harness.databases import TestDatabase
from tests.harness.http import http_client
from tests.harness.servers import Server, running


@dataclass(frozen=True)
class Stall:
    """How long readers do not read, how many they are, and how much memory the server may need meanwhile.

    A token is an event of 180 bytes. The kernel takes 2.7 MB of them for a client that reads none. What a
    server without limits would hold of the rest, for all readers, must be more than `max_growth`.
    """

    seconds: int
    rate: int  # tokens a second
    readers: int
    catch_up: int  # how many of them read it all in the end
    max_growth: int  # bytes of resident memory


SHORT = Stall(seconds=6, rate=5_000, readers=10, catch_up=3, max_growth=16 * 1_048_576)
A_MINUTE = Stall(seconds=60, rate=1_000, readers=20, catch_up=20, max_growth=100 * 1_048_576)


@pytest.mark.parametrize(
    "stall", [pytest.param(SHORT, id="short"), pytest.param(A_MINUTE, id="a minute", marks=pytest.mark.soak)]
)
async def test_stalled_readers_hold_bounded_memory_and_catch_up(database: TestDatabase, stall: Stall) -> None:
    """SSE readers stop reading, the server's memory stays within `max_growth`, then they get everything."""
    async with running(database.app_url) as server:
        tokens = stall.seconds * stall.rate
        run = await ask(server.url, {"model": "demo", "parameters": {"tokens": tokens, "rate": stall.rate}})
        path = f"/v1/generations/{run['id']}/events"
        async with trio.open_nursery() as nursery:
            readers = [await _open(server, path) for _ in range(stall.readers)]
            assert server.process is not None
            process = psutil.Process(server.process.pid)
            await _wait_tokens(server, run["id"], tokens // 10)
            before = process.memory_info().rss
            await _wait_tokens(server, run["id"], tokens)
            growth = process.memory_info().rss - before
            assert growth < stall.max_growth, f"grew by {growth / 1e6:.0f} MB"
            log = await read_log(server.url + path)
            expected = [event["position"] for event in log]
            for reader in readers[stall.catch_up :]:
                await reader.aclose()
            for reader in readers[: stall.catch_up]:
                nursery.start_soon(_catch_up, reader, expected)
        assert "Traceback" not in server.logged()


async def test_reader_that_never_reads_is_cut_after_the_stall_timeout(database: TestDatabase) -> None:
    """Its place among the streams is free then."""
    env = {"TOKENTAPE_STALL_TIMEOUT": "2", "TOKENTAPE_HEARTBEAT": "0.5"}
    async with running(database.app_url, env) as server:
        run = await ask(server.url, {"model": "demo", "parameters": {"tokens": 60_000, "rate": 0}})
        stalled = await _open(server, f"/v1/generations/{run['id']}/events")
        assert server.process is not None
        process = psutil.Process(server.process.pid)
        local = stalled.socket.getsockname()[1]
        with trio.fail_after(60):
            while any(link.raddr and link.raddr.port == local for link in process.net_connections("tcp")):
                await trio.sleep(0.1)
        await stalled.aclose()


async def _open(server: Server, path: str) -> trio.SocketStream:
    sock = trio.socket.socket()
    # A small window, so that the server feels the stall at once.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await sock.connect(("127.0.0.1", server.port))
    stream = trio.SocketStream(sock)
    ask_for = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nAccept: text/event-stream\r\n\r\n"
    await stream.send_all(ask_for.encode())
    return stream


async def _catch_up(stream: trio.SocketStream, expected: list[int]) -> None:
    data = bytearray()
    with trio.fail_after(90):
        while not data.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
            part = await stream.receive_some(262_144)
            assert part, "the server gave up a reader that was only slow"
            data += part
    await stream.aclose()
    # Chunk sizes stand between the frames or in the middle of none: a frame is sent whole.
    got = [int(line[4:]) for line in data.split(b"\n") if line.startswith(b"id: ")]
    assert got == expected


async def _wait_tokens(server: Server, generation: str, least: int) -> None:
    async with http_client() as client:
        with trio.fail_after(110):
            while True:
                snapshot = (await client.get(f"{server.url}/v1/generations/{generation}")).json()
                if snapshot["tokens"] >= least:
                    return
                await trio.sleep(0.2)
