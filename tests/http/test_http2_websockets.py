"""WebSockets on HTTP/2 streams (RFC 8441).

They share a connection with other streams and must not block them; their end is reported to the app.
"""

from typing import Any

import trio
from wsproto.events import CloseConnection, Ping, Pong, TextMessage

from tests.clients.http2 import Connection, connect
from tests.clients.http2_websocket import open_socket, opened
from tests.http.http_server import App, send_response, serving, wait_until


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """An app that sends every message back; the message `flood` makes it send without end."""
    if scope["type"] == "http":
        await send_response(send)
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


async def check_request_answered(connection: Connection) -> None:
    """Checks that a plain request on the same connection is answered."""
    with trio.fail_after(10):
        assert await (await connection.request("GET", "/")).body() == b"ok"


async def test_messages_are_echoed_and_both_sides_can_close() -> None:
    CODES.clear()
    async with serving(echo) as served, connect(served.port) as connection:
        await check_request_answered(connection)
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
        await wait_until(lambda: len(CODES) == 2)
        await check_request_answered(connection)
        await wait_until(lambda: not served.http2._streams)


async def test_end_of_stream_without_close_frame_gives_code_1006() -> None:
    """As the end of a TCP connection does for a WebSocket on HTTP/1.1."""
    CODES.clear()
    async with serving(echo) as served, connect(served.port) as connection:
        socket = await opened(connection)
        connection.h2.end_stream(socket.stream.stream_id)
        await connection.flush()
        await wait_until(lambda: CODES == [1006])
        await wait_until(lambda: not served.http2._streams)


async def test_websocket_without_window_does_not_block_the_connection() -> None:
    """Its app waits for window and stops reading, while the client goes on sending messages and pings."""
    async with serving(echo) as served, connect(served.port, window=20_000) as connection:
        socket = await opened(connection)
        await socket.say(TextMessage(data="flood"))
        await wait_until(lambda: any(e.send_buffer.full for e in served.http2._streams.values()))
        for _ in range(500):
            connection.h2.send_data(socket.stream.stream_id, socket.protocol.send(Ping(payload=b"p" * 50)))
        for _ in range(50):
            connection.h2.send_data(socket.stream.stream_id, socket.protocol.send(TextMessage(data="more")))
        await connection.flush()
        await check_request_answered(connection)
        await wait_until(lambda: len(served.http2._streams) == 1)  # an answer arrives a moment before its app ends
        [exchange] = served.http2._streams.values()
        assert len(exchange.send_buffer) < 50_000
        await socket.hear()  # with window it goes on
        got = socket.stream.received
        await wait_until(lambda: bool(socket.stream.take()) and socket.stream.received > got + 100_000)


async def test_ping_is_answered_with_its_payload() -> None:
    async with serving(echo) as served, connect(served.port) as connection:
        socket = await opened(connection)
        await socket.say(Ping(payload=b"are you there"))
        event = await socket.hear()
        assert isinstance(event, Pong)
        assert event.payload == b"are you there"


async def test_invalid_websocket_requests_are_refused() -> None:
    """Another protocol gets 501, another WebSocket version 400. Data sent before the response gets 400 and the
    app is told of the disconnect.
    """
    gone = trio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send_response(send)
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
        await check_request_answered(connection)
        await wait_until(lambda: not served.http2._streams)


async def test_header_that_is_not_text_is_refused() -> None:
    """And the other streams of the connection go on."""
    async with serving(echo) as served, connect(served.port) as connection:
        socket = await opened(connection)
        bad = await open_socket(connection, "/", **{"sec-websocket-protocol": "\u00ff"})
        assert (await bad.head()).status == 400
        await socket.say(TextMessage(data="still here"))
        assert (await socket.hear()).data == "still here"
