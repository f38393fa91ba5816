"""Invalid HTTP/2 requests: heads, bodies and trailers.

Only the faulty stream may be affected. It is reset, or gets an error response, and the other streams of the
connection go on.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from h2.errors import ErrorCodes
from h2.events import InformationalResponseReceived

from tests.clients.http2 import Connection, Stream, connect
from tests.http.http_server import send_response, serving, wait_until


class App:
    """Reads the request body and responds. `began` lists the paths requested, `heard` the complete bodies."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.heard: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.began.append(scope["path"])
        if scope["path"] == "/silent":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"", "more_body": True})
            await trio.sleep_forever()
        if scope["path"] != "/early":
            got, more = b"", True
            while more:
                message = await receive()
                got += message["body"]
                more = message["more_body"]
            self.heard.append(got)
        await send_response(send, b"ok")


GOOD = [(":method", "POST"), (":path", "/"), (":scheme", "http"), (":authority", "x")]


def changed(**pseudo: str) -> list[tuple[str, str]]:
    """The valid request head with other values of some pseudo-headers."""
    return [(name, pseudo.get(name[1:], value)) for name, value in GOOD]


async def open_stream(connection: Connection, headers: list[tuple[str, str]], *, end: bool = True) -> Stream:
    """Opens a stream without the checks of the client's own h2."""
    connection.h2.config.validate_outbound_headers = False
    connection.h2.config.normalize_outbound_headers = False
    stream = Stream(connection, connection.h2.get_next_available_stream_id())
    connection._streams[stream.stream_id] = stream
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    connection.h2.send_headers(stream.stream_id, raw, end_stream=end)
    await connection.flush()
    return stream


MALFORMED = {
    "connection": [*GOOD, ("connection", "close")],
    "transfer-encoding": [*GOOD, ("transfer-encoding", "chunked")],
    "two lengths": [*GOOD, ("content-length", "2"), ("content-length", "2")],
    "two hosts": [*GOOD, ("host", "x"), ("host", "x")],
    "another host": [*GOOD, ("host", "y")],
    "upper case": [*GOOD, ("X-A", "b")],
    "line end": [*GOOD, ("x-a", "b\r\nc: d")],
    "empty name": [*GOOD, ("", "b")],
    "no path": [header for header in GOOD if header[0] != ":path"],
    "pseudo behind": [("x-a", "b"), *GOOD],
    "two methods": [GOOD[0], *GOOD],
    "length without body": [*GOOD, ("content-length", "2")],
}


@pytest.mark.parametrize("headers", MALFORMED.values(), ids=MALFORMED)
async def test_malformed_head_resets_its_stream(headers: list[tuple[str, str]]) -> None:
    """RFC 9113 section 8.1.1. The app does not see the request."""
    app = App()
    async with serving(app) as served, connect(served.port) as connection:
        silent = await connection.request("GET", "/silent")
        await silent.head()
        stream = await open_stream(connection, headers)
        assert await stream.reset_by_server() == ErrorCodes.PROTOCOL_ERROR
        assert app.began == ["/silent"]
        await check_connection_still_works(connection, silent)


@pytest.mark.parametrize(
    ("length", "parts"),
    [("2", [b"abc"]), ("5", [b"abc"]), ("5", [b"abc", b"def"]), ("0", [b"a"]), ("5", [b"abc", b""])],
)
async def test_body_that_differs_from_content_length_resets_its_stream(length: str, parts: list[bytes]) -> None:
    """The app must not take such a body for a complete one."""
    app = App()
    async with serving(app) as served, connect(served.port) as connection:
        silent = await connection.request("GET", "/silent")
        await silent.head()
        stream = await open_stream(connection, [*GOOD, ("content-length", length)], end=False)
        for part in parts:
            connection.h2.send_data(stream.stream_id, part, end_stream=part is parts[-1])
        await connection.flush()
        assert await stream.reset_by_server() == ErrorCodes.PROTOCOL_ERROR
        assert not app.heard
        await check_connection_still_works(connection, silent)
        await wait_until(lambda: len(served.http2._streams) == 1)


async def test_pseudo_header_in_trailers_resets_its_stream() -> None:
    app = App()
    async with serving(app) as served, connect(served.port) as connection:
        silent = await connection.request("GET", "/silent")
        await silent.head()
        stream = await open_stream(connection, GOOD, end=False)
        connection.h2.send_headers(stream.stream_id, [(b":path", b"/x")], end_stream=True)
        await connection.flush()
        assert await stream.reset_by_server() == ErrorCodes.PROTOCOL_ERROR
        assert not app.heard
        await check_connection_still_works(connection, silent)


async def check_connection_still_works(connection: Connection, silent: Stream) -> None:
    """Checks that a new stream is answered and that the stream opened earlier is still open."""
    stream = await open_stream(connection, [*GOOD, ("content-length", "2")], end=False)
    connection.h2.send_data(stream.stream_id, b"hi", end_stream=True)
    await connection.flush()
    assert await stream.body() == b"ok"
    assert silent.reset_code is None
    assert connection.goaway is None


REFUSED = {
    "small method": (501, changed(method="get")),
    "no token": (400, changed(method="G T")),
    "long method": (400, changed(method="A" * 33)),
    "connect": (501, [*changed(method="CONNECT"), (":protocol", "connect-udp")]),
    "target": (414, changed(path="/" + "a" * 8_192)),
    "no slash": (400, changed(path="a")),
    "star": (400, changed(path="*")),
    "absolute": (400, changed(path="http://x/")),
    "fragment": (400, changed(path="/a#b")),
    "count": (431, [*GOOD, *((f"x-{n}", "b") for n in range(101))]),
    "size": (431, [*GOOD, *((f"x-{n}", "b" * 4_000) for n in range(9))]),
    "expect": (417, [*GOOD, ("expect", "more")]),
    "host": (400, changed(authority="a b")),
    "control": (400, [*GOOD, ("x-a", "b\x01")]),
}


@pytest.mark.parametrize(("status", "headers"), REFUSED.values(), ids=REFUSED)
async def test_refused_head_gets_a_problem_response(status: int, headers: list[tuple[str, str]]) -> None:
    """By the same rules and with the same words as in HTTP/1.1."""
    app = App()
    async with serving(app) as served, connect(served.port) as connection:
        silent = await connection.request("GET", "/silent")
        await silent.head()
        stream = await open_stream(connection, headers)
        head = await stream.head()
        assert head.status == status
        assert head.headers["content-type"] == "application/problem+json"
        assert head.headers["x-content-type-options"] == "nosniff"
        assert "date" in head.headers
        assert json.loads(await stream.body())["status"] == status
        assert app.began == ["/silent"]
        await check_connection_still_works(connection, silent)


async def test_options_asterisk_response_has_allow_and_date() -> None:
    async with serving(App()) as served, connect(served.port) as connection:
        head = await (await open_stream(connection, changed(method="OPTIONS", path="*"))).head()
        assert head.status == 204
        assert set(head.headers) >= {"allow", "date"}


async def test_100_continue_is_sent_when_the_app_reads_the_body() -> None:
    """An app that responds without reading the body sends no 100."""
    app = App()
    async with serving(app) as served, connect(served.port) as connection:
        expecting = [*GOOD, ("expect", "100-continue"), ("content-length", "2")]
        asked = await open_stream(connection, expecting, end=False)
        await wait_until(lambda: bool(INFORMED))
        assert len(INFORMED) == 1
        await asked.send(b"hi", end=True)
        assert await asked.body() == b"ok"
        assert app.heard == [b"hi"]
        early = await open_stream(connection, [*changed(path="/early"), *expecting[4:]], end=False)
        assert (await early.head()).status == 200
        assert len(INFORMED) == 1


INFORMED: list[int] = []


@pytest.fixture(autouse=True)
def record_informational_responses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records the streams that received a 1xx response."""
    INFORMED.clear()
    take = Connection._take

    def note(self: Connection, event: Any) -> None:
        if isinstance(event, InformationalResponseReceived):
            INFORMED.append(event.stream_id)
        take(self, event)

    monkeypatch.setattr(Connection, "_take", note)
