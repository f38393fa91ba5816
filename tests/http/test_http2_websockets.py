"""WebSockets on HTTP/2 streams (RFC 8441): beside others on one connection, and never in their way."""

from typing import Any

import trio
from wsproto.events import CloseConnection, Ping, Pong, TextMessage

from tests.clients.http2 import Connection, connect
from tests.clients.http2_websocket import open_socket, opened
from tests.http.http_server import App, answer, serving, until


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Says again what it is told; `flood` until it is told nothing more."""
    if scope["type"] == "http":
        await answer(send)
        return
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        if message["text"] == "flood":
            while True:
                await send({"type": "websocket.send", "text": "x" * 5_000})
        await send({"type": "websocket.send", "text": message["text"]})
    CODES.append(message["code"])


CODES: list[int] = []


async def quick(connection: Connection) -> None:
    with trio.fail_after(10):
        assert await (await connection.request("GET", "/")).body() == b"ok"


async def test_messages_go_to_and_fro_and_it_closes() -> None:
    CODES.clear()
    async with serving(echo) as served, connect(served.port) as connection:
        await quick(connection)
        assert connection.h2.remote_settings.enable_connect_protocol == 1
        first, second = await opened(connection), await opened(connection)
        for socket, text in ((first, "one"), (second, "two"), (first, "three" * 30_000)):
            await socket.say(TextMessage(data=text))
            heard = ""
            while len(heard) < len(text):
                event = await socket.hear()
                heard += event.data
            assert heard == text
        await first.say(CloseConnection(code=1000))
        assert isinstance(await first.hear(), CloseConnection)
        assert await first.stream.receive() == b""
        await second.stream.cancel()
        await until(lambda: len(CODES) == 2)
        await quick(connection)
        await until(lambda: not served.http2._streams)


async def test_an_end_without_a_close_frame_is_an_end() -> None:
    """As the end of a TCP connection is to a WebSocket of HTTP/1.1."""
    CODES.clear()
    async with serving(echo) as served, connect(served.port) as connection:
        socket = await opened(connection)
        connection.h2.end_stream(socket.stream.stream_id)
        await connection.flush()
        await until(lambda: CODES == [1006])
        await until(lambda: not served.http2._streams)


async def test_one_that_takes_nothing_stops_nobody() -> None:
    """Its app waits for window and reads no more; it goes on saying and pinging; the connection goes on too."""
    async with serving(echo) as served, connect(served.port, window=20_000) as connection:
        socket = await opened(connection)
        await socket.say(TextMessage(data="flood"))
        await until(lambda: any(e.send_buffer.full for e in served.http2._streams.values()))
        for _ in range(500):
            connection.h2.send_data(socket.stream.stream_id, socket.protocol.send(Ping(payload=b"p" * 50)))
        for _ in range(50):
            connection.h2.send_data(socket.stream.stream_id, socket.protocol.send(TextMessage(data="more")))
        await connection.flush()
        await quick(connection)
        await until(lambda: len(served.http2._streams) == 1)  # an answer arrives a moment before its app ends
        [exchange] = served.http2._streams.values()
        assert len(exchange.send_buffer) < 50_000
        await socket.hear()  # with window it goes on
        got = socket.stream.received
        await until(lambda: bool(socket.stream.take()) and socket.stream.received > got + 100_000)


async def test_a_ping_is_answered() -> None:
    async with serving(echo) as served, connect(served.port) as connection:
        socket = await opened(connection)
        await socket.say(Ping(payload=b"are you there"))
        event = await socket.hear()
        assert isinstance(event, Pong)
        assert event.payload == b"are you there"


async def test_what_is_no_websocket_is_refused() -> None:
    """Another protocol: 501. Another version: 400. Words before the answer: 400, and the app is told."""
    gone = trio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await answer(send)
            return
        while (await receive())["type"] != "websocket.disconnect":
            pass
        gone.set()

    app: App = slow
    async with serving(app) as served, connect(served.port) as connection:
        assert (await (await open_socket(connection, protocol="connect-udp")).head()).status == 501
        old = await open_socket(connection, "/", **{"sec-websocket-version": "8"})
        assert (await old.head()).status == 400
        early = await open_socket(connection)
        await early.send(b"\x81\x80aaaa")
        assert (await early.head()).status == 400
        with trio.fail_after(5):
            await gone.wait()
        await quick(connection)
        await until(lambda: not served.http2._streams)


async def test_a_header_that_is_no_text_is_its_streams_end() -> None:
    async with serving(echo) as served, connect(served.port) as connection:
        socket = await opened(connection)
        bad = await open_socket(connection, "/", **{"sec-websocket-protocol": "\u00ff"})
        await bad.reset_by_server()
        await socket.say(TextMessage(data="still here"))
        assert (await socket.hear()).data == "still here"
