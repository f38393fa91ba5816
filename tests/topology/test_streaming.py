"""Through nginx as deployed: streams arrive as they are made, and every transport works as it does without it."""

import json

import httpx2
import pytest
import trio

from tests.clients.api import Api, demo, new_key
from tests.clients.http1 import Connection
from tests.clients.readers import read_long_poll, read_ndjson
from tests.clients.sse import Parser
from tests.clients.websocket import talk
from tests.harness.http import http_client

from .nginx import NGINX, NO_NGINX, Nginx
from .stack import Stack

RATE = 20
FEW = 100
"""Tokens: seconds of them, for a busy machine, and far below what a proxy's buffers hold."""


async def test_tokens_arrive_one_by_one(up: Stack) -> None:
    """Read in one task: when the tenth frame is here, the run has hardly begun, and later ones come apart."""
    async with Api.open(up.nginx.port) as api:
        run = await api.generate(tokens=2_000, rate=RATE)
        parser, reads, events = Parser(), 0, 0
        async with await Connection.open(up.nginx.port) as reader:
            head = await reader.ask(
                "GET", f"{run}/events", {"Accept": "text/event-stream", "Accept-Encoding": "gzip"}
            )
            assert head.status == 200
            assert head.headers["content-type"].startswith("text/event-stream")
            assert "content-encoding" not in head.headers, "a compressor holds events back"
            with trio.fail_after(20):
                while events < 15:
                    frames = parser.feed(await reader.receive())
                    reads += 1
                    events += sum(frame.data is not None for frame in frames)
        snapshot = (await api.post(f"{run}/cancel", {})).json()
        assert snapshot["tokens"] < FEW, "nginx had to gather tokens before it let one through"
        assert reads > 4, "tokens came in clumps"


async def test_streamed_answer_to_a_post(up: Stack) -> None:
    """POST with Accept: text/event-stream, with a key and without: the first token comes long before the last."""
    for key in ({}, {"Idempotency-Key": new_key()}):
        parser, events = Parser(), list[str]()
        async with await Connection.open(up.nginx.port) as reader:
            headers = {"Accept": "text/event-stream", "Content-Type": "application/json", **key}
            head = await reader.ask("POST", "/v1/generations", headers, json.dumps(demo(2_000, RATE)).encode())
            assert head.status == 200
            with trio.fail_after(20):
                while len(events) < 10:
                    events += [frame.data for frame in parser.feed(await reader.receive()) if frame.data]
        async with Api.open(up.nginx.port) as api:
            snapshot = (await api.post(f"{head.headers['location']}/cancel", {})).json()
        assert snapshot["tokens"] < FEW


async def test_ndjson_and_long_polls_through_nginx(up: Stack) -> None:
    """NDJSON and long poll through nginx give the whole log, in order."""
    async with Api.open(up.nginx.port) as api:
        run = await api.generate(tokens=30, rate=60)
        for read in (read_ndjson, read_long_poll):
            events = await read(up.nginx.port, run, 0, lambda _: False, trio.Event())
            assert events == await api.finished(run)


async def test_long_poll_wakes_for_events_of_the_other_server(up: Stack) -> None:
    """Held by nginx on one server, woken by what is posted to the other."""
    async with Api.open(up.nginx.port) as api, trio.open_nursery() as nursery:
        conversation = await api.conversation()
        got: list[str] = []

        async def hold() -> None:
            page = await api.get(f"{conversation}/events", after=1, wait=30)
            got.extend(event["content"] for event in page["events"])

        nursery.start_soon(hold)
        nursery.start_soon(hold)  # round robin: one on each server
        with trio.fail_after(10):
            async with Api.open(up.servers[0].port) as direct:
                await direct.message(conversation, "wake up")
            while len(got) < 2:
                await trio.sleep(0.01)
        assert got == ["wake up"] * 2


async def test_websocket(up: Stack) -> None:
    """Upgraded, both ways, with a command and a rewind in place."""
    async with Api.open(up.nginx.port) as api:
        conversation = await api.conversation()
        async with talk(up.nginx.port, conversation, 0) as socket:
            await socket.until("caught_up")
            reply = await socket.command("generate", **demo(20, 100))
            assert reply["kind"] == "reply", reply
            await socket.until_event("generation.completed")
            first = socket.events
            await socket.command("resync", after=0)
            await socket.until("caught_up")
            assert first + socket.events[len(first) :] == first + first
        assert first == await api.log(conversation)


@pytest.mark.parametrize(
    ("upgrade", "passed"),
    [
        ("", {"upgrade": None, "connection": None}),
        ("Upgrade: websocket\r\nConnection: Upgrade\r\n", {"upgrade": "websocket", "connection": "upgrade"}),
        ("Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n", {"upgrade": None, "connection": None}),
        ("Upgrade: websocket-not\r\nConnection: Upgrade\r\n", {"upgrade": None, "connection": None}),
        ("Connection: close\r\n", {"upgrade": None, "connection": None}),
    ],
)
async def test_only_websockets_are_upgraded(upgrade: str, passed: dict[str, str | None]) -> None:
    """Any other upgrade (h2c) would be a tunnel to the server past every rule of nginx; others are kept alive."""
    if NGINX is None:
        pytest.skip(NO_NGINX)
    heads = list[bytes]()

    async def server(stream: trio.SocketStream) -> None:
        heads.append(await stream.receive_some())
        await stream.send_all(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, server, [listener])
        port = listener.socket.getsockname()[1]
        nginx = Nginx((port, port))
        try:
            async with await trio.open_tcp_stream("127.0.0.1", nginx.port) as client:
                await client.send_all(f"GET /v1/x?y HTTP/1.1\r\nHost: a.example:81\r\n{upgrade}\r\n".encode())
                with trio.fail_after(10):
                    assert b" 204 " in await client.receive_some()
        finally:
            nginx.close()
        nursery.cancel_scope.cancel()
    request, *lines = heads[0].decode().strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    assert request == "GET /v1/x?y HTTP/1.1"
    assert headers["host"] == "a.example:81"
    assert {name: headers.get(name) for name in passed} == passed


@pytest.mark.parametrize(("size", "teller"), [(1_500_000, "1048576 bytes"), (3_000_000, "the proxy takes")])
async def test_large_body_is_refused_with_problem_json(up: Stack, size: int, teller: str) -> None:
    """By the server up to 2 MiB, by nginx above, and the same problem+json both times; many times over."""
    body = json.dumps({"title": "x" * size}).encode()
    async with http_client(up.url) as client:
        for key in ({}, {"Idempotency-Key": new_key()}) * 5:
            got = await client.post(
                "/v1/conversations", content=body, headers={"Content-Type": "application/json", **key}
            )
            assert got.status_code == 413, got.text
            assert got.headers["Content-Type"] == "application/problem+json"
            assert got.headers["Cache-Control"] == "no-store"
            assert got.json()["code"] == "body_too_large"
            assert got.json()["status"] == 413
            assert teller in got.json()["detail"]


async def test_client_address_reaches_the_server(up: Stack) -> None:
    """Host with its port: allowed names pass, others do not, a page of the same origin may post."""
    async with http_client(up.url) as client:

        async def status(**headers: str) -> int:
            return (await client.post("/v1/conversations", json={}, headers=headers)).status_code

        own = f"127.0.0.1:{up.nginx.port}"
        assert await status(Host="chat.example.org") == 201
        assert await status(Host="evil.example") == 421
        assert await status(Host=own, Origin=f"http://{own}") == 201
        assert await status(Host=own, Origin="http://evil.example") == 403


async def test_compressed_pages_keep_their_etags(up: Stack) -> None:
    """nginx weakens an ETag when it compresses; If-None-Match compares weakly (RFC 9110 section 13.1.2)."""
    async with Api.open(up.nginx.port) as api:
        run = await api.generate(tokens=400)
        await api.finished(run)
        page = await api.http.get(f"{run}/events", params={"limit": 400})
        assert page.headers["Content-Encoding"] == "gzip"
        snapshot = await api.http.get(run)
        assert snapshot.headers["Content-Encoding"] == "gzip"
        again = await api.http.get(run, headers={"If-None-Match": snapshot.headers["ETag"]})
        assert again.status_code == 304


async def test_nginx_hides_version_metrics_and_query(up: Stack) -> None:
    """Its version, the figures of a single server, and the query, which may hold a ticket."""
    async with http_client(up.url) as client:
        metrics = await client.get("/metrics")
        assert metrics.status_code == 404
        assert metrics.headers["Content-Type"] == "application/problem+json"
        assert metrics.json()["code"] == "not_found"
        assert metrics.headers["Server"] == "nginx"
        await client.get("/v1/conversations/asked-once", params={"ticket": "not-for-logs"})
    with trio.fail_after(10):
        while "asked-once" not in json.dumps(up.nginx.requests()):
            await trio.sleep(0.01)
    assert "not-for-logs" not in json.dumps(up.nginx.requests())


async def test_broken_request_never_reaches_a_server(up: Stack) -> None:
    """A request that is no HTTP ends at nginx; the servers never see it, and go on."""
    stream = await trio.open_tcp_stream("127.0.0.1", up.nginx.port)
    async with stream:
        await stream.send_all(b"\x16\x03\x01 not http\r\n\r\n")
        with trio.fail_after(10):
            answer = await stream.receive_some()
    assert b"400" in answer.partition(b"\r\n")[0]
    async with http_client(up.url) as client:
        got: httpx2.Response = await client.get("/readyz")
        assert got.status_code == 200
