"""TLS and HTTP/2 on a real server when things go wrong: stalled streams, SIGTERM, WebSockets, a busy page."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest
import trio
from trio_websocket import ConnectionClosed
from wsproto.events import CloseConnection, TextMessage

from server.client.api import open_websocket
from tests.clients import sse
from tests.clients.http2 import Connection, Stream, connect, trusting
from tests.clients.http2_websocket import opened
from tests.faults.readers import ask, read_log, wait_closed
from tests.harness.browser import CHROMIUM, NO_CHROMIUM, open_tab
from tests.harness.databases import TestDatabase
from tests.harness.servers import Server, running

SSE = {"accept": "text/event-stream"}
JSON = {"content-type": "application/json"}
MAX_GROWTH = 30 * 1024 * 1024


@pytest.fixture
def secure(tmp_path: Path) -> Mapping[str, str]:
    """Settings for TLS with a certificate of this machine."""
    return {"TOKENTAPE_TLS": "true", "TOKENTAPE_DATA_DIR": str(tmp_path)}


def authority(server: Server) -> Path:
    """The certificate file to trust."""
    return Path(server.env["TOKENTAPE_DATA_DIR"]) / "tls" / "ca.pem"


async def open_event_stream(connection: Connection, run: str) -> Stream:
    """Opens an event stream of the run."""
    stream = await connection.request("GET", f"/v1/generations/{run}/events", SSE)
    assert (await stream.head()).status == 200
    return stream


async def test_stalled_streams_hold_little_memory_beside_one_that_reads(database: TestDatabase) -> None:
    """Thirty streams without window, with megabytes for each."""
    async with running(database.app_url) as server:
        run = (await ask(server.url, {"model": "demo", "parameters": {"tokens": 10_000, "rate": 0}}))["id"]
        log = await wait_closed(f"{server.url}/v1/generations/{run}/events")
        assert server.process is not None
        process = psutil.Process(server.process.pid)
        async with connect(server.port, window=10_000) as connection:
            reads = await open_event_stream(connection, run)
            assert await reads.body()
            before = process.memory_info().rss
            stalled = [await open_event_stream(connection, run) for _ in range(30)]
            for stream in stalled:
                with trio.fail_after(20):
                    while stream.received < 10_000:
                        await trio.sleep(0.01)
            reads = await open_event_stream(connection, run)
            parser = sse.Parser()
            data = [frame.data for frame in parser.feed(await reads.body()) if frame.data]
            assert [json.loads(line) for line in data[:-1]] == log
            assert process.memory_info().rss - before < MAX_GROWTH
            # One that stalled for so long goes on where it was.
            data = [frame.data for frame in sse.Parser().feed(await stalled[0].body()) if frame.data]
            assert [json.loads(line) for line in data[:-1]] == log
        assert "Traceback" not in server.logged()


async def test_sigterm_ends_reading_streams_cleanly_despite_stalled_ones(
    database: TestDatabase, secure: Mapping[str, str]
) -> None:
    """Readers get the clean end of each stream and GOAWAY, and resume exactly after the restart."""
    async with running(database.app_url, {**secure, "TOKENTAPE_STOP_TIMEOUT": "2"}) as server:
        trust = trusting(authority(server))
        runs = [
            (await ask(server.url, {"model": "demo", "parameters": {"tokens": 50_000, "rate": 100}}))["id"]
            for _ in range(5)
        ]
        got: dict[str, bytes] = {}

        async def read(stream: Stream, run: str) -> None:
            got[run] = await stream.body()

        async with connect(server.port, trust) as reading, connect(server.port, trust, window=0) as stalling:
            for run in runs:
                await open_event_stream(stalling, run)
            async with trio.open_nursery() as nursery:
                streams = [await open_event_stream(reading, run) for run in runs]
                for stream in streams:
                    assert await stream.receive()
                for run in runs:
                    nursery.start_soon(read, await open_event_stream(reading, run), run)
                for stream in streams:
                    nursery.start_soon(stream.body)
                began = time.monotonic()
                assert await server.stop() == 0
                assert time.monotonic() - began < 3.5
            await reading.ended()
            assert reading.goaway is not None
            assert reading.goaway.error_code == 0
        await server.start()
        for run in runs:
            parser = sse.Parser()
            events = [
                json.loads(frame.data) for frame in parser.feed(got[run]) if frame.data not in (None, "[DONE]")
            ]
            url = f"{server.url}/v1/generations/{run}/events"
            rest = await read_log(url, after=int(parser.last_event_id))
            assert events + rest == await read_log(url)
        assert "Traceback" not in server.logged()


async def test_websocket_over_tls_resumes_after_a_restart(
    database: TestDatabase, secure: Mapping[str, str]
) -> None:
    """From its last position."""
    async with running(database.app_url, {**secure, "TOKENTAPE_STOP_TIMEOUT": "2"}) as server:
        run = await ask(server.url, {"model": "demo", "parameters": {"tokens": 50_000, "rate": 100}})
        trust = trusting(authority(server), "http/1.1")
        path = f"/v1/conversations/{run['conversation']}/ws"
        events: list[dict[str, object]] = []

        async def read_until_stopped() -> None:
            async with open_websocket(f"{server.ws_url}{path}?after=0", trust=trust) as socket:
                while True:
                    frame = json.loads(await socket.get_message())
                    if frame["kind"] == "event":
                        events.append(frame["event"])
                    if len(events) == 30:
                        server.send_signal(15)

        with pytest.raises(ConnectionClosed) as closed:
            await read_until_stopped()
        assert closed.value.reason is not None
        assert closed.value.reason.code == 1012
        assert server.process is not None
        assert await trio.to_thread.run_sync(server.process.wait) == 0
        await server.start()
        async with open_websocket(f"{server.ws_url}{path}?after={events[-1]['position']}", trust=trust) as socket:
            while (frame := json.loads(await socket.get_message()))["kind"] != "caught_up":
                if frame["kind"] == "event":
                    events.append(frame["event"])
        assert events == await read_log(f"{server.url}/v1/conversations/{run['conversation']}/events")
        assert "Traceback" not in server.logged()


async def test_thirty_websockets_on_one_http2_connection(
    database: TestDatabase, secure: Mapping[str, str]
) -> None:
    """RFC 8441. A command on each, and its tokens as they come."""
    async with running(database.app_url, secure) as server:
        async with connect(server.port, trusting(authority(server))) as connection:
            assert (await (await connection.request("GET", "/healthz")).head()).status == 200
            assert connection.h2.remote_settings.enable_connect_protocol == 1
            heard: dict[str, list[dict[str, object]]] = {}

            async def converse(number: int) -> None:
                made = await connection.request("POST", "/v1/conversations", JSON, b"{}")
                place = (await made.head()).headers["location"]
                socket = await opened(connection, f"{place}/ws?after=0")
                command = {"id": number, "key": f"key-{number:020}", "do": "generate", "model": "demo"}
                await socket.say(
                    TextMessage(data=json.dumps(command | {"parameters": {"tokens": 50, "rate": 100}}))
                )
                events = heard.setdefault(place, [])
                while not events or events[-1]["type"] != "generation.completed":
                    frame = json.loads((await socket.hear()).data)
                    if frame["kind"] == "event":
                        events.append(frame["event"])
                await socket.say(CloseConnection(code=1000))
                assert isinstance(await socket.hear(), CloseConnection)
                assert await socket.stream.receive() == b""

            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    for number in range(30):
                        nursery.start_soon(converse, number)
        assert len(heard) == 30
        for place, events in heard.items():
            assert events == await read_log(f"{server.url}{place}/events")
        assert "Traceback" not in server.logged()


MANY = """
async paths => {
    window.got = paths.map(() => []); window.done = 0;
    window.sources = paths.map((path, n) => {
        const source = new EventSource(path);
        source.onmessage = message => {
            if (message.data !== '[DONE]') { got[n].push(JSON.parse(message.data)); return }
            done += 1;
            source.close();
        };
        return source;
    });
}
"""


@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
async def test_browser_page_with_thirty_event_streams(database: TestDatabase, secure: Mapping[str, str]) -> None:
    """Over HTTP/1.1 a browser opens six connections to a server; the seventh EventSource would never open."""
    async with running(database.app_url, secure) as server:
        made = [
            await ask(server.url, {"model": "demo", "parameters": {"tokens": 100_000, "rate": 20}})
            for _ in range(30)
        ]
        async with open_tab(f"{server.url}/healthz", trusting=True) as tab:
            await tab.evaluate(MANY, [f"/v1/generations/{run['id']}/events?after=0" for run in made])
            await tab.until("got.every(events => events.length >= 10)")
            protocols = await tab.evaluate(
                "performance.getEntries().filter(e => e.nextHopProtocol).map(e => e.nextHopProtocol)"
            )
            assert set(protocols) == {"h2"}
            assert server.process is not None
            links = psutil.Process(server.process.pid).net_connections("tcp")
            ours = [link for link in links if link.laddr.port == server.port and link.raddr]
            assert len({link.raddr.port for link in ours if link.status == "ESTABLISHED"}) <= 2
            # Commands go on the same connection, beside all of them.
            await tab.evaluate(
                """ids => Promise.all(ids.map(id =>
                    fetch(`/v1/generations/${id}/cancel`, {method: 'POST', body: '{}',
                          headers: {'Content-Type': 'application/json'}}).then(answer => answer.json())))""",
                [run["id"] for run in made],
            )
            await tab.until("done === 30")
            seen = await tab.evaluate("got")
        for run, events in zip(made, seen, strict=True):
            assert events == await read_log(f"{server.url}/v1/generations/{run['id']}/events")
        assert "Traceback" not in server.logged()
