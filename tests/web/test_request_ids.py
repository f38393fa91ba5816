"""`X-Request-ID`: taken, replaced, answered, on every kind of answer; and only where it belongs."""

from collections.abc import Mapping
from typing import Any

import pytest
import structlog
import trio

from server.auth.credentials import KINDS, generate
from server.web.edge.http_messages import RequestIds, bind_route_ids, common_headers, request_id

CONV, GEN = "conv_01M8242TWS8ET8NCEDDW25YS37", "gen_01M8242TWSJW1PGP5MDGZMWZTS"


@pytest.mark.parametrize("name", ["a", "r-1", "0af7651916cd43dd8448eb211c80319c", "~!@#$%^&*()<>\"'", "x" * 128])
def test_a_valid_id_of_the_client_is_kept(name: str) -> None:
    assert request_id([(b"host", b"x"), (b"X-Request-Id", name.encode())]) == name


@pytest.mark.parametrize(
    "said",
    [
        [],
        [b""],
        [b" "],
        [b"a b"],
        [b"a\tb"],
        [b"a\r\nSet-Cookie: x"],
        [b"a\x00"],
        [b"\x1b[31m"],
        ["ä".encode()],
        [b"\xff"],
        [b"x" * 129],
        [b"one", b"two"],
        *[[f"{before}{generate(kind).text}".encode()] for kind in KINDS for before in ("", "Bearer:")],
        [b"eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.c2ln"],
    ],
)
def test_an_invalid_id_is_replaced(said: list[bytes]) -> None:
    """By a name that nobody could have chosen; each time another. So is a credential, which the log would hold."""
    headers = [(b"x-request-id", value) for value in said]
    first, second = request_id(headers), request_id(headers)
    assert first.startswith("req_")
    assert len(first) == 30
    assert first != second


class App:
    """An ASGI app that keeps what its log lines would carry, and answers as it is told."""

    def __init__(self, *messages: Mapping[str, Any]) -> None:
        self._messages = messages
        self.bound: list[dict[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await trio.lowlevel.checkpoint()
        self.bound.append(dict(structlog.contextvars.get_contextvars()))
        for message in self._messages:
            await send(message)


async def call(app: App, kind: str, *headers: tuple[bytes, bytes]) -> list[dict[str, Any]]:
    """What a request of a kind is answered."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(message)

    async def receive() -> Any:
        raise NotImplementedError

    await RequestIds(app)({"type": kind, "headers": headers}, receive, send)
    return sent


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        ("http", "http.response.start"),
        ("websocket", "websocket.accept"),
        ("websocket", "websocket.http.response.start"),
    ],
)
async def test_every_response_carries_the_id(kind: str, first: str) -> None:
    """Behind the app's own headers, which stay; on the first message alone."""
    start = {"type": first, "headers": [(b"a", b"b")]}
    body = {"type": f"{kind}.rest", "body": b"x"}
    app = App(start, body)
    sent = await call(app, kind, (b"x-request-id", b"mine"))
    assert sent == [{"type": first, "headers": [(b"a", b"b"), *common_headers("mine")]}, body]
    assert start["headers"] == [(b"a", b"b")], "the app's own message is its own"
    assert app.bound == [{"request": "mine"}]


async def test_an_accept_without_headers() -> None:
    (sent,) = await call(App({"type": "websocket.accept"}), "websocket", (b"x-request-id", b"mine"))
    assert sent["headers"] == [(b"x-request-id", b"mine"), (b"x-content-type-options", b"nosniff")]


async def test_other_asgi_scopes_pass() -> None:
    app = App({"type": "lifespan.startup.complete"})
    assert await call(app, "lifespan") == [{"type": "lifespan.startup.complete"}]
    assert app.bound == [{}]


async def test_requests_side_by_side_keep_their_own() -> None:
    """Each in a task of its own, as the host runs them; afterwards nothing is left."""
    app = App()
    async with trio.open_nursery() as nursery:
        for n in range(20):
            nursery.start_soon(call, app, "http", (b"x-request-id", str(n).encode()))
    assert sorted(int(bound["request"]) for bound in app.bound) == list(range(20))
    assert structlog.contextvars.get_contextvars() == {}


@pytest.mark.parametrize(
    ("values", "bound"),
    [
        ({"name": CONV}, {"conversation": CONV}),
        ({"name": GEN}, {"generation": GEN}),
        ({"name": "gen_x\n"}, {}),
        ({"other": GEN}, {}),
        ({}, {}),
        (None, {}),
    ],
)
async def test_an_address_names_its_conversation_or_generation(
    values: dict[str, str] | None, bound: dict[str, str]
) -> None:
    """Nothing that does not look like an id: a line is no place for what a client makes up."""

    async def named() -> None:
        bind_route_ids(values)
        await trio.lowlevel.checkpoint()
        assert structlog.contextvars.get_contextvars() == bound

    async with trio.open_nursery() as nursery:
        nursery.start_soon(named)
