"""The API over HTTP/2, with TLS (ALPN) and with prior knowledge.

Many streams share a connection, are cut together, and must all resume exactly.
"""

from __future__ import annotations

import json
import random
import ssl
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError

from tests.clients import sse
from tests.clients.api import Api, Event, new_key
from tests.clients.http1 import Broken
from tests.clients.http2 import Stream, connect, trusting
from tests.harness.databases import TestDatabase
from tests.harness.http import http_client
from tests.harness.servers import Server

from .module_servers import serving

TOKENS = 60
RATE = 12.0
CUTS = 4
PATIENCE = 100.0
SSE = {"accept": "text/event-stream"}


@pytest.fixture(scope="module")
def secure_server(shared_database: TestDatabase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with TLS on the database of the shared server."""
    env = {"TOKENTAPE_TLS": "true", "TOKENTAPE_DATA_DIR": str(tmp_path_factory.mktemp("data"))}
    with serving(shared_database.app_url, env) as server:
        yield server


@dataclass(frozen=True)
class Endpoint:
    """A server and how to reach it."""

    server: Server
    trust: ssl.SSLContext | None
    streams: int

    @property
    def port(self) -> int:
        return self.server.port


@pytest.fixture(params=["h2c", "tls"])
def endpoint(request: pytest.FixtureRequest, server: Server) -> Iterator[Endpoint]:
    """The server without TLS and with it. The shared server checks the log of the runs."""
    if request.param == "h2c":
        yield Endpoint(server, None, streams=100)
        return
    secure: Server = request.getfixturevalue("secure_server")
    authority = Path(secure.env["TOKENTAPE_DATA_DIR"]) / "tls" / "ca.pem"
    yield Endpoint(secure, trusting(authority), streams=30)
    assert secure.process is not None
    assert secure.process.poll() is None
    assert "Traceback" not in secure.logged()


@dataclass(eq=False)
class ReconnectingClient:
    """One client of one run, over all its connections."""

    run: str
    events: list[Event] = field(default_factory=list)
    cursor: str = ""
    over: bool = False
    resumed: int = 0

    async def follow(self, stream: Stream) -> None:
        """Reads until the end of the run or of the connection."""
        parser = sse.Parser(self.cursor)
        try:
            head = await stream.head()
            assert head.status in (200, 204), head
            self.over = head.status == 204
            while data := await stream.receive():
                self._take(parser, data)
        except Broken:
            self._take(parser, stream.take())
        self.cursor = parser.last_event_id

    def _take(self, parser: sse.Parser, data: bytes) -> None:
        for frame in parser.feed(data):
            if frame.data == "[DONE]":
                self.over = True
            elif frame.data is not None:
                self.events.append(json.loads(frame.data))


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 6))])
async def test_streams_of_one_connection_resume_exactly(endpoint: Endpoint, api: Api, seed: int) -> None:
    """The connection is cut several times after any number of bytes; all streams resume on a new one."""
    rng = random.Random(f"{endpoint.trust is None} {seed}")
    phones: list[ReconnectingClient] = []
    async with trio.open_nursery() as nursery:

        async def begin(number: int) -> None:
            phones.append(ReconnectingClient(await api.generate(tokens=TOKENS, rate=RATE, seed=number)))

        for number in range(endpoint.streams):
            nursery.start_soon(begin, number)
    cuts = 0
    with trio.fail_after(PATIENCE):
        while not all(phone.over for phone in phones):
            async with connect(endpoint.port, endpoint.trust) as connection:
                if cuts < CUTS:
                    connection.cut_after = endpoint.streams * rng.randrange(1_000, 2_000)
                async with trio.open_nursery() as nursery:
                    for phone in (phone for phone in phones if not phone.over):
                        headers = {**SSE, **({"last-event-id": phone.cursor} if phone.cursor else {})}
                        phone.resumed += bool(phone.cursor not in ("", "0"))
                        nursery.start_soon(
                            phone.follow, await connection.request("GET", f"{phone.run}/events", headers)
                        )
            cuts += 1
    assert cuts > CUTS
    # How many have come far enough for a cursor when a cut falls is chance: but it must have been tried.
    assert sum(phone.resumed for phone in phones) >= endpoint.streams // 2
    for phone in phones:
        log = await api.log(phone.run)
        assert len(log) == TOKENS + 3
        assert phone.events == log


async def test_reset_streams_do_not_disturb_the_others(endpoint: Endpoint, api: Api) -> None:
    """The places of the reset streams are free again."""
    runs = [await api.generate(tokens=60, rate=30, seed=n) for n in range(20)]
    phones = [ReconnectingClient(run) for run in runs]
    async with connect(endpoint.port, endpoint.trust) as connection:
        streams = [await connection.request("GET", f"{run}/events", SSE) for run in runs]
        for stream in streams:
            await stream.receive()
            stream.connection.changed.set()
        for stream in streams[::2]:
            await stream.cancel()
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for run, phone in list(zip(runs, phones, strict=True))[1::2]:
                    nursery.start_soon(phone.follow, await connection.request("GET", f"{run}/events", SSE))
            for stream in streams[1::2]:
                await stream.body()
    for phone in phones[1::2]:
        assert phone.events == await api.log(phone.run)


async def test_whole_api_on_one_connection(endpoint: Endpoint, api: Api) -> None:
    """An idempotent POST, Location, snapshot, 304, long poll, NDJSON and a problem."""
    async with connect(endpoint.port, endpoint.trust) as connection:
        body = json.dumps({"title": "on one connection"}).encode()
        headers = {"content-type": "application/json", "idempotency-key": new_key()}
        places = []
        for _ in range(2):
            made = await connection.request("POST", "/v1/conversations", headers, body)
            head = await made.head()
            assert head.status == 201
            places.append(head.headers["location"])
            await made.body()
        assert places[0] == places[1]
        assert places[0].startswith("/v1/conversations/")
        snapshot = await connection.request("GET", places[0])
        etag = (await snapshot.head()).headers["etag"]
        assert json.loads(await snapshot.body())["title"] == "on one connection"
        unchanged = await connection.request("GET", places[0], {"if-none-match": etag})
        assert (await unchanged.head()).status == 304
        assert await unchanged.body() == b""
        poll = await connection.request("GET", f"{places[0]}/events?after=1&wait=20")
        lines = await connection.request("GET", f"{places[0]}/events", {"accept": "application/x-ndjson"})
        said = json.dumps({"role": "user", "content": "x" * 300_000}).encode()
        posted = await connection.request(
            "POST", f"{places[0]}/messages", {"content-type": "application/json"}, said
        )
        assert (await posted.head()).status == 201
        event = json.loads(await posted.body())
        assert json.loads(await poll.body())["events"] == [event]
        got = b""
        while got.count(b"\n{") + got.startswith(b"{") < 2 or not got.endswith(b"\n"):
            got += await lines.receive()
        assert [json.loads(line)["position"] for line in got.split(b"\n") if line] == [1, 2]
        await lines.cancel()
        problem = await connection.request("GET", "/v1/conversations/conv_nothing")
        assert (await problem.head()).status == 404
        assert (await problem.head()).headers["content-type"] == "application/problem+json"


async def test_foreign_authority_and_origin_are_refused(endpoint: Endpoint) -> None:
    """`:authority` is checked like Host; over TLS a page without TLS is foreign."""
    scheme = "http" if endpoint.trust is None else "https"
    async with connect(endpoint.port, endpoint.trust) as connection:
        foreign = await connection.request("GET", "/v1/conversations", authority="evil.example")
        assert (await foreign.head()).status == 421
        assert json.loads(await foreign.body())["code"] == "host_not_allowed"
        for origin, status in (
            (f"{scheme}://127.0.0.1:{endpoint.port}", 201),
            (f"https://127.0.0.1:{endpoint.port}", 201),
            (f"http://127.0.0.1:{endpoint.port}", 201 if endpoint.trust is None else 403),
            ("https://evil.example", 403),
        ):
            headers = {"content-type": "application/json", "origin": origin}
            posted = await connection.request("POST", "/v1/conversations", headers, b"{}")
            assert (await posted.head()).status == status, origin


async def test_too_large_body_gets_413_while_it_is_sent(endpoint: Endpoint) -> None:
    """The stream is then reset with NO_ERROR, and the connection goes on."""
    async with connect(endpoint.port, endpoint.trust) as connection:
        headers = {"content-type": "application/json"}
        posted = await connection.request("POST", "/v1/conversations", headers, end=False)
        async with trio.open_nursery() as nursery:

            async def pour() -> None:
                with suppress(Broken, ProtocolError):  # however this side is told
                    while True:
                        await posted.send(b" " * 16_000)

            nursery.start_soon(pour)
            assert (await posted.head()).status == 413
            assert json.loads(await posted.body())["status"] == 413
            assert await posted.reset_by_server() == ErrorCodes.NO_ERROR
        assert (await (await connection.request("GET", "/healthz")).head()).status == 200


async def test_http_1_1_over_tls(secure_server: Server, api: Api) -> None:
    """For clients that do not offer h2 by ALPN."""
    run = await api.generate(tokens=30, rate=0)
    log = await api.finished(run)
    async with http_client(secure_server.url) as client:
        assert secure_server.url.startswith("https://")
        got = await client.get(f"{run}/events", headers=SSE)
        assert got.http_version == "HTTP/1.1"
        parser = sse.Parser()
        frames = [frame for frame in parser.feed(got.content) if frame.data is not None]
        assert [json.loads(frame.data) for frame in frames[:-1] if frame.data] == log
