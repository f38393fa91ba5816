"""The server is stopped with SIGTERM and started again.

It must stop within its bound, end or hand over every run, and let every reader resume.
"""

import time

import trio
from trio_websocket import ConnectionClosed

from server.client.api import open_websocket
from tests.clients.http1 import Connection
from tests.faults.readers import SseReader, ask, assert_whole, read_log, wait_closed
from tests.faults.test_stalled_readers import _open
from tests.harness.databases import TestDatabase
from tests.harness.http import http_client
from tests.harness.servers import running

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
LONG = {"model": "demo", "parameters": {"tokens": 50_000, "rate": 200}}


async def test_unfinished_run_ends_as_server_stopped(database: TestDatabase) -> None:
    """With an SSE reader, a stalled reader and a WebSocket, all of which are ended in time."""
    async with running(database.app_url, {"TOKENTAPE_STOP_TIMEOUT": "2"}) as server:
        run = await ask(server.url, LONG)
        url = f"{server.url}/v1/generations/{run['id']}/events"
        reader = SseReader(url)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader.follow)
            stalled = await _open(server, f"/v1/generations/{run['id']}/events")
            codes: list[int] = []
            nursery.start_soon(_socket, f"{server.ws_url}/v1/conversations/{run['conversation']}/ws", codes)
            with trio.fail_after(20):
                while len(reader.events) < 50:
                    await trio.sleep(0.01)
            began = time.monotonic()
            assert await server.stop() == 0
            assert time.monotonic() - began < 3.5
            await server.start()
            log = await wait_closed(url)
            with trio.fail_after(20):
                await reader.done.wait()
            await stalled.aclose()
        assert reader.events == log
        assert_whole(log)
        assert log[-1]["error"]["code"] == "server_stopped"
        assert codes == [1012]
        assert "Traceback" not in server.logged()


async def test_short_run_completes_during_the_stop(database: TestDatabase) -> None:
    """The stop waits for runs, within its bound."""
    async with running(database.app_url) as server:
        run = await ask(server.url, {"model": "demo", "parameters": {"tokens": 100, "rate": 100}})
        assert await server.stop() == 0
        await server.start()
        log = await read_log(f"{server.url}/v1/generations/{run['id']}/events")
        assert log[-1]["type"] == "generation.completed"


async def test_draining_server_refuses_clients_in_their_own_form(database: TestDatabase) -> None:
    """An EventSource gets 200 and `retry:`, others 503 with Retry-After, new WebSockets too."""
    async with running(database.app_url, {"TOKENTAPE_STOP_TIMEOUT": "20"}) as server, http_client() as client:
        run = await ask(server.url, LONG)
        server.send_signal(15)
        with trio.fail_after(10):
            while (await client.get(f"{server.url}/readyz")).status_code != 503:
                await trio.sleep(0.02)
        events = f"{server.url}/v1/generations/{run['id']}/events"
        native = await client.get(events, headers={"Accept": "text/event-stream"})
        assert native.status_code == 200
        assert native.headers["Content-Type"].startswith("text/event-stream")
        assert native.text.startswith("retry: ")
        assert "data:" not in native.text
        lines = await client.get(events, headers={"Accept": "application/x-ndjson"})
        assert lines.status_code == 503
        assert int(lines.headers["Retry-After"]) >= 1
        again = await client.post(f"{server.url}/v1/generations", json={"model": "demo"})
        assert again.status_code == 503
        assert again.json()["code"] == "draining"
        wanted = {"Accept": "text/event-stream"}
        again = await client.post(f"{server.url}/v1/generations", json={"model": "demo"}, headers=wanted)
        assert (again.status_code, again.json()["code"]) == (503, "draining")
        assert int(again.headers["Retry-After"]) >= 1
        assert (await client.get(f"{server.url}/healthz")).status_code == 200
        async with await Connection.open(server.port) as connection:
            upgrade = await connection.ask("GET", f"/v1/conversations/{run['conversation']}/ws", UPGRADE)
            assert (upgrade.status, upgrade.headers["content-type"]) == (503, "application/problem+json")
            assert int(upgrade.headers["retry-after"]) >= 1
        await client.post(f"{server.url}/v1/generations/{run['id']}/cancel")
        assert await server.stop() == 0


async def _socket(url: str, codes: list[int]) -> None:
    try:
        async with open_websocket(url) as socket:
            while True:
                await socket.get_message()
    except ConnectionClosed as closed:
        codes.append(closed.reason.code if closed.reason else 0)
