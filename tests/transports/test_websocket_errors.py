"""WebSocket errors: which mistakes get an error message, which close codes are sent, and who is refused."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import trio
from wsproto.events import CloseConnection, Ping, Pong, TextMessage

from eventstore import EventStore
from eventstore.postgres import PostgresBackend, PostgresOptions
from tests.clients.api import Api, new_key
from tests.clients.http1 import Connection
from tests.clients.raw_websocket import RawWebSocket, frame_ends
from tests.clients.websocket import Message, talk
from tests.harness.databases import TestDatabase
from tests.harness.servers import Server

MEBI = 1_048_576
PADDING = '{"id": "big", "do": "fly", "padding": "%s"}'


@asynccontextmanager
async def open_store(url: str) -> AsyncIterator[EventStore]:
    """An event store with the rights of the tables' owner."""
    async with EventStore(PostgresBackend(PostgresOptions(url))).open() as store:
        yield store


@pytest.mark.parametrize(
    ("after", "code", "close"),
    [
        ("-1", "invalid_cursor", 4400),
        ("x", "invalid_cursor", 4400),
        ("1.0", "invalid_cursor", 4400),
        ("%EF%BC%91", "invalid_cursor", 4400),
        ("2", "cursor_ahead", 4400),
        ("9" * 40, None, 4400),
    ],
)
async def test_invalid_cursor_closes_with_4400(api: Api, after: str, code: str | None, close: int) -> None:
    """After an error message."""
    async with talk(api.port, await api.conversation(), after) as socket:
        assert (await socket.end())[0] == close
    assert [message["kind"] for message in socket.seen] == ["error"]
    assert socket.seen[0]["code"] == code or code is None
    assert socket.seen[0]["detail"]


@pytest.mark.parametrize("name", ["conv_unknown", "x", "%00", "gen"])
async def test_unknown_conversation_closes_with_4404(api: Api, name: str) -> None:
    """The same for every unknown id."""
    if name == "gen":
        name = (await api.generate()).rpartition("/")[2]
    async with talk(api.port, f"/v1/conversations/{name}") as socket:
        assert (await socket.end())[0] == 4404
    error = (await api.http.get("/v1/conversations/nobody")).json()
    assert [(message["kind"], message["code"]) for message in socket.seen] == [("error", error["code"])]


async def test_expired_cursor_closes_with_4410(api: Api, shared_database: TestDatabase) -> None:
    """Other transports get 410 with the earliest position. The rest of the log is unchanged."""
    conversation = await api.conversation()
    for _ in range(5):
        await api.message(conversation)
    log = await api.log(conversation)
    async with open_store(shared_database.owner_url) as store:
        assert (await store.trim(conversation.rpartition("/")[2], 4)).earliest == 4
    async with talk(api.port, conversation, 1) as socket:
        assert (await socket.end())[0] == 4410
    assert [(message["kind"], message["code"]) for message in socket.seen] == [("error", "cursor_expired")]
    for form in ("json", "sse", "ndjson"):
        answer = await api.http.get(f"{conversation}/events", params={"after": 1, "format": form})
        assert (answer.status_code, answer.json()["code"]) == (410, "cursor_expired")
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert (answer.json()["earliest"], answer.json()["head"]) == (4, 6)
        assert answer.json()["snapshot"]
    assert (await api.get(f"{conversation}/events", after=3))["events"] == log[3:]
    async with talk(api.port, conversation, 3) as socket:
        await socket.until("caught_up")
        assert socket.events == log[3:]
        error = await socket.command("resync", after=1)
        assert (error["kind"], error["code"]) == ("error", "cursor_expired")


@pytest.mark.parametrize("first", ["hello", "caught_up"])
async def test_binary_frames_close_with_1003(api: Api, first: str) -> None:
    conversation = await api.conversation()
    for _ in range(10):
        async with talk(api.port, conversation) as socket:
            await socket.until(first)
            await socket.connection.send_message(b'{"id": "c1", "do": "resync", "after": 0}')
            assert (await socket.end())[0] == 1003


async def test_message_over_one_mebibyte_closes_with_1009(api: Api) -> None:
    """A message of exactly that size is read."""
    async with talk(api.port, await api.conversation()) as socket:
        largest = PADDING % ("x" * (MEBI - len(PADDING) + 2))
        assert len(largest) == MEBI
        await socket.send(largest)
        assert (await socket.until("error"))["id"] == "big"
        await socket.send(largest + " ")
        assert (await socket.end())[0] == 1009


@pytest.mark.parametrize(
    "text",
    [
        "garbage",
        "",
        "{",
        '{"id": 1, "do": }',
        "[]",
        '"text"',
        "null",
        "17",
        "{}",
        '{"do": null}',
        '{"id": {}, "do": []}',
        '{"id": "c1", "key": 5, "do": "post", "role": "user", "content": "x"}',
        '{"id": "c1", "key": "0123456789abcdef", "do": "post", "role": "user", "content": "\\ud800"}',
        '{"id": "c1", "key": "0123456789abcdef", "do": "post", "role": "user", "content": "\\u0000"}',
        '{"id": "\\ud800", "do": "fly"}',
        '{"id": "\\u0000", "do": "fly"}',
        '{"id": "c1", "do": "resync"}',
        '{"id": "c1", "do": "resync", "after": "x"}',
        '{"id": "c1", "do": "resync", "after": 1.5}',
        '{"id": "c1", "do": "resync", "after": true}',
        '{"id": "c1", "do": "resync", "after": 99999999999999999999999999}',
        '{"id": "c1", "key": "0123456789abcdef", "do": "cancel"}',
        '{"id": "c1", "key": "0123456789abcdef", "do": "cancel", "generation": 5}',
        '{"id": "c1", "key": "0123456789abcdef", "do": "generate"}',
        '{"id": "c1", "key": "0123456789abcdef", "do": "generate", "model": "demo", "parameters": {"rate": NaN}}',
        "[" * 100_000,
        '{"id": "c1", "key": "0123456789abcdef", "do": "generate", "model": "demo", "parameters": '
        + '{"a": ' * 50_000
        + "1"
        + "}" * 50_001,
        "1" * 10_000,
    ],
    ids=lambda text: text[:60] or "empty",
)
async def test_malformed_message_gets_an_error_and_the_connection_stays_open(api: Api, text: str) -> None:
    """Nothing is appended."""
    async with talk(api.port, await api.conversation()) as socket:
        await socket.until("caught_up")
        await socket.send(text)
        error = await socket.receive()
        assert (error["kind"], bool(error["code"]), bool(error["detail"])) == ("error", True, True)
        reply = await socket.command("post", role="user", content="still here", key=new_key())
        assert (reply["status"], reply["body"]["position"]) == (201, 2)


async def upgrade_status(server: Server, target: str, **headers: str) -> int:
    """Status of the response to a WebSocket upgrade request."""
    asked = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(b"0123456789abcdef").decode(),
        **headers,
    }
    async with await Connection.open(server.port) as connection:
        return (await connection.ask("GET", target, asked)).status


@pytest.mark.parametrize(
    "lines", [["{ticket}\xff"], ["{ticket}, \xff"], ["\xff", "{ticket}"], ["{ticket}", "\xff"]]
)
async def test_subprotocol_that_is_no_ascii_is_refused(server: Server, api: Api, lines: list[str]) -> None:
    """The client is told why, and no log line holds what it sent: there may be a ticket in it."""
    target, ticket = f"{await api.conversation()}/ws", "tokentape.ticket.tt_tick_" + new_key()
    asked = [
        *(f"GET {target} HTTP/1.1", f"Host: 127.0.0.1:{server.port}", "Connection: Upgrade", "Upgrade: websocket"),
        *("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg=="),
        *(f"Sec-WebSocket-Protocol: {line.format(ticket=ticket)}" for line in lines),
    ]
    async with await Connection.open(server.port) as connection:
        await connection.send("\r\n".join([*asked, "", ""]).encode("latin-1"))
        assert (await connection.head()).status == 400
    assert ticket not in server.logged()


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1.evil.example"},
        {"Origin": "http://[::1"},
        {"Host": "evil.example"},
        {"Host": "evil.example", "Origin": "http://evil.example"},
    ],
)
async def test_foreign_host_or_origin_is_refused(server: Server, api: Api, headers: dict[str, str]) -> None:
    """The server's own page is accepted."""
    target = f"{await api.conversation()}/ws"
    assert 400 <= await upgrade_status(server, target, **headers) < 500
    assert await upgrade_status(server, target, Origin=server.url) == 101


async def test_ping_is_answered_with_its_payload(api: Api) -> None:
    """Between other frames."""
    async with await RawWebSocket.open(api.port, f"{await api.conversation()}/ws") as socket:
        await socket.send(Ping(b"are you there"))
        heard = b""
        while b"\x8a\x0dare you there" not in heard:
            heard += await socket.receive()
        await socket.send(Pong(b"nobody asked"))
        await socket.send_text({"id": "c1", "do": "resync", "after": 0})
        while b'"reply"' not in heard:
            heard += await socket.receive()


async def test_fragmented_message_with_pings_between(api: Api) -> None:
    """The message is read as one, and the close is answered."""
    async with await RawWebSocket.open(api.port, f"{await api.conversation()}/ws?after=now") as socket:
        text = json.dumps({"id": "parts", "key": new_key(), "do": "post", "role": "user", "content": "é" * 300})
        for start in range(0, len(text), 100):
            await socket.send(TextMessage(text[start : start + 100], message_finished=start + 100 >= len(text)))
            await socket.send(Ping(b"x"))
        messages: list[Message] = []
        while not any(message.get("id") == "parts" for message in messages):
            data = await socket.receive()
            assert data, messages
            messages += socket.feed(data)
        assert [message["status"] for message in messages if message["kind"] == "reply"] == [201]
        await socket.send(CloseConnection(1000))
        while await socket.receive():
            pass


@pytest.mark.parametrize(
    "data", [b"\xff\xff\xff\xff", b"\x81\x05hello", b"\xc1\x80aaaa", b"\x88\x80aaaa", b"\x81"]
)
async def test_invalid_frame_ends_its_own_connection_only(api: Api, data: bytes) -> None:
    conversation = await api.conversation()
    async with await RawWebSocket.open(api.port, f"{conversation}/ws") as socket:
        await socket.send_bytes(data)
    assert (await api.message(conversation))["position"] == 2


async def test_text_frame_that_is_not_utf8_fails_the_connection(api: Api) -> None:
    """RFC 6455 section 8.1. If a close code is sent, it is 1007."""
    conversation = await api.conversation()
    async with await RawWebSocket.open(api.port, f"{conversation}/ws") as socket:
        await socket.send_bytes(b"\x81\x82\x00\x00\x00\x00\xc3\x28")
        heard = b""
        while data := await socket.receive():
            heard += data
    frames = [heard[start:end] for start, end in pairwise([0, *frame_ends(heard)])]
    closes = [frame for frame in frames if frame[0] == 0x88]
    assert all(frame[2:4] == (1007).to_bytes(2) for frame in closes)
    assert b'"kind":"error"' not in heard
    assert (await api.message(conversation))["position"] == 2


@pytest.mark.soak
async def test_server_pings_every_20_seconds(api: Api) -> None:
    async with await RawWebSocket.open(api.port, f"{await api.conversation()}/ws?after=now") as socket:
        times: list[float] = []
        heard = b""
        while len(times) < 3:
            heard += await socket.receive()
            frames = [heard[start:end] for start, end in pairwise([0, *frame_ends(heard)])]
            if sum(frame[0] == 0x89 for frame in frames) > len(times):
                times.append(trio.current_time())
    assert all(15 < later - earlier < 25 for earlier, later in pairwise(times))
