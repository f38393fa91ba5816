"""Streams that the server ends or refuses: at a maximum duration, above a maximum number, and before a stop."""

from __future__ import annotations

import json
import signal

import pytest
import trio
from trio_websocket import ConnectionRejected

from tests.clients import ndjson, sse
from tests.clients.api import Api, Event, demo
from tests.clients.http1 import Connection
from tests.clients.websocket import talk
from tests.harness.databases import TestDatabase
from tests.harness.servers import running

TEMPORARY = (429, 503)


async def read_stream(port: int, target: str, form: str, cursor: str) -> tuple[int, list[Event], str, bool]:
    """Reads one stream to its clean end. Returns status, events, the cursor afterwards, and whether `[DONE]`
    came.
    """
    events: list[Event] = []
    parser, lines, done = sse.Parser(cursor), ndjson.Parser(), False
    async with await Connection.open(port) as connection:
        head = await connection.ask("GET", f"{target}?format={form}", {"Last-Event-ID": cursor})
        body = await connection.body()
    if form == "ndjson":
        events = lines.feed(body)
        return head.status, events, str(events[-1]["position"]) if events else cursor, False
    for frame in parser.feed(body):
        if frame.data == "[DONE]":
            done = True
        elif frame.data is not None:
            events.append(json.loads(frame.data))
    return head.status, events, parser.last_event_id, done


@pytest.mark.parametrize("form", ["sse", "ndjson"])
async def test_streams_of_limited_duration_resume_exactly(database: TestDatabase, form: str) -> None:
    """`TOKENTAPE_STREAM_MAX_SECONDS`: a clean end after that time, and the next stream goes on."""
    async with running(database.app_url, {"TOKENTAPE_STREAM_MAX_SECONDS": "0.4"}) as server:
        async with Api.open(server.port) as api:
            generation = await api.generate(tokens=100, rate=50)
            found: list[Event] = []
            cursor, status, ends, rounds = "", 200, 0, 0
            with trio.fail_after(60):
                while status == 200:
                    status, events, cursor, done = await read_stream(
                        server.port, f"{generation}/events", form, cursor
                    )
                    found += events
                    ends += done
                    rounds += 1
            assert status == 204
            assert found == await api.finished(generation)
            assert rounds >= 4
            assert ends == (form == "sse")


async def test_refused_stream_tells_the_client_to_retry(database: TestDatabase) -> None:
    """An EventSource gets a 200 that ends with `retry`; others get a status with `Retry-After`."""
    async with running(database.app_url, {"TOKENTAPE_MAX_STREAMS": "1"}) as server:
        async with Api.open(server.port) as api, await Connection.open(server.port) as first:
            conversation = await api.conversation()
            await first.ask("GET", f"{conversation}/events?format=sse")
            with trio.fail_after(20):
                assert await first.receive()
                refused = await api.http.get(f"{conversation}/events?format=sse")
                lines = await api.http.get(f"{conversation}/events?format=ndjson")
            assert (refused.status_code, refused.headers["Content-Type"].split(";")[0]) == (
                200,
                "text/event-stream",
            )
            frames = sse.Parser().feed(refused.content)
            assert [frame.data for frame in frames if frame.data or frame.id] == []
            assert [frame.retry is not None for frame in frames].count(True) == 1
            assert sum(len(frame.comments) for frame in frames) == 1
            assert lines.status_code in TEMPORARY
            assert int(lines.headers["Retry-After"]) >= 1
            assert lines.headers["Content-Type"] == "application/problem+json"
            assert "1" in lines.json()["detail"]


@pytest.mark.parametrize("form", ["sse", "ndjson", "ws", "diagnostics"])
async def test_stream_limit_holds_for_concurrent_requests(database: TestDatabase, form: str) -> None:
    """Each stream is counted before the next request is checked; refused clients are told to retry."""
    most = 3
    begun: list[object] = []
    refused: list[object] = []

    async def begin(port: int, conversation: str, stop: trio.Event) -> None:
        if form == "ws":
            try:
                async with talk(port, conversation) as talking:
                    begun.append(await talking.receive())
                    await stop.wait()
            except* ConnectionRejected as rejected:
                refused.append(rejected)
            return
        path = "/v1/diagnostics/stream" if form == "diagnostics" else f"{conversation}/events?format={form}"
        async with await Connection.open(port) as connection:
            head = await connection.ask("GET", path)
            body = b""
            while b"{" not in body:  # one that has a place shows its first object; all others end
                if head.status != 200 or not (more := await connection.receive()):
                    break
                body += more
            (begun if head.status == 200 and b"{" in body else refused).append(head.status)
            await stop.wait()

    async with running(database.app_url, {"TOKENTAPE_MAX_STREAMS": str(most)}) as server:
        async with Api.open(server.port) as api, trio.open_nursery() as nursery:
            conversation, stop = await api.conversation(), trio.Event()
            for _ in range(40):
                nursery.start_soon(begin, server.port, conversation, stop)
            with trio.fail_after(30):
                while len(begun) + len(refused) < 40:
                    await trio.sleep(0.01)
            assert len(begun) == most
            stop.set()


async def test_run_above_the_limit_is_refused_and_not_recorded(database: TestDatabase) -> None:
    """The error names the limit."""
    async with running(database.app_url, {"TOKENTAPE_MAX_RUNS": "1"}) as server, Api.open(server.port) as api:
        other = await api.conversation()
        async with api.busy(await api.conversation()):
            answer = await api.post(f"{other}/generations", demo())
            assert answer.status_code in TEMPORARY
            assert int(answer.headers["Retry-After"]) >= 1
            assert "1" in answer.json()["detail"]
            assert len(await api.log(other)) == 1
        await api.finished(await api.generate(other))


async def test_stop_ends_streams_cleanly(database: TestDatabase) -> None:
    """SSE and NDJSON get their last chunk, a WebSocket 1012."""
    async with running(database.app_url, {"TOKENTAPE_STOP_TIMEOUT": "6"}) as server:
        async with Api.open(server.port) as api:
            conversation = await api.conversation()
        codes: list[int] = []
        bodies: list[bytes] = []

        async def stream(form: str, *, task_status: trio.TaskStatus[None]) -> None:
            async with await Connection.open(server.port) as connection:
                await connection.ask("GET", f"{conversation}/events?format={form}")
                start = await connection.receive()
                task_status.started()
                bodies.append(start + await connection.body())

        async def socket(*, task_status: trio.TaskStatus[None]) -> None:
            async with talk(server.port, conversation) as connection:
                await connection.until("caught_up")
                task_status.started()
                code, _ = await connection.end()
                codes.append(code)

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                await nursery.start(stream, "sse")
                await nursery.start(stream, "ndjson")
                await nursery.start(socket)
                server.send_signal(signal.SIGTERM)
        assert codes == [1012]
        assert len(bodies) == 2
        assert not any(b"[DONE]" in body for body in bodies)
        assert await server.stop() == 0
        assert "Traceback" not in server.logged()
