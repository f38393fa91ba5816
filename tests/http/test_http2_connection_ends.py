"""How an HTTP/2 connection ends: idle, told to, cut; and what it says to its client first."""

from typing import Any

import pytest
import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, RstStreamFrame

from server.http import HttpOptions
from tests.clients.http2 import connect
from tests.http.http_server import answer, serving, until


class App:
    """`/held` answers when it is let; anything else at once."""

    def __init__(self) -> None:
        self.let = trio.Event()
        self.running = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.running += 1
        try:
            if scope["path"] == "/held":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"first ", "more_body": True})
                await self.let.wait()
                await send({"type": "http.response.body", "body": b"last", "more_body": False})
            else:
                await answer(send)
        finally:
            self.running -= 1


IMPATIENT = HttpOptions(keep_alive=0.2, head_seconds=0.2)
"""Idle connections end after a moment."""


@pytest.mark.parametrize("requests", [0, 1, 3])
async def test_an_idle_connection_is_ended_in_words(requests: int) -> None:
    """With its last request named, so that one crossing the end can safely be sent again."""
    async with serving(App(), options=IMPATIENT) as served, connect(served.port) as connection:
        for _ in range(requests):
            assert await (await connection.request("GET", "/")).body() == b"ok"
        await connection.ended()
        assert connection.goaway is not None
        assert connection.goaway.error_code == ErrorCodes.NO_ERROR
        assert connection.goaway.last_stream_id == max(0, 2 * requests - 1)
        await until(lambda: served.sockets == 0)


async def test_a_connection_whose_requests_were_all_taken_back_is_idle() -> None:
    """It is looked at again."""
    app = App()
    async with serving(app, options=IMPATIENT) as served, connect(served.port) as connection:
        stream = await connection.request("GET", "/held")
        await stream.receive()
        await stream.cancel()
        app.let.set()
        await connection.ended()
        assert connection.goaway is not None


async def test_a_quiet_stream_is_not_idleness() -> None:
    """Longer than the idle time without a byte, beside streams that come and go."""
    app = App()
    async with serving(app, options=IMPATIENT) as served, connect(served.port) as connection:
        held = await connection.request("GET", "/held")
        assert await held.receive() == b"first "
        async with connect(served.port) as other:  # its end is the time that has to pass
            await other.ended()
        assert await (await connection.request("GET", "/")).body() == b"ok"
        async with connect(served.port) as other:
            await other.ended()
        app.let.set()
        assert await held.body() == b"last"


async def test_the_end_of_the_server_lets_what_has_begun_finish() -> None:
    """GOAWAY, no new requests, the answer that is under way; then the end."""
    app = App()
    async with serving(app) as served, await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
        client = H2Connection(H2Configuration(client_side=True))
        client.initiate_connection()
        head = [(":method", "GET"), (":path", "/held"), (":scheme", "http"), (":authority", "x")]
        client.send_headers(1, head, end_stream=True)
        await stream.send_all(client.data_to_send())
        await until(lambda: app.running == 1)
        client.send_headers(3, head, end_stream=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.server.close, 10)
            await until(lambda: served.http2._goaway_sent)
            await stream.send_all(client.data_to_send())
            frames = Frames(stream)
            await frames.until(RstStreamFrame)
            app.let.set()
        await frames.until_end()
        [goaway] = [frame for frame in frames.seen if isinstance(frame, GoAwayFrame)]
        assert (goaway.last_stream_id, goaway.error_code) == (1, 0)
        [refused] = [frame for frame in frames.seen if isinstance(frame, RstStreamFrame)]
        assert (refused.stream_id, refused.error_code) == (3, ErrorCodes.REFUSED_STREAM)
        data = [frame for frame in frames.seen if isinstance(frame, DataFrame)]
        assert b"".join(frame.data for frame in data) == b"first last"
        assert "END_STREAM" in data[-1].flags
        assert served.sockets == 0


class Frames:
    """The server's frames as they are: h2 reads none behind a GOAWAY."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.seen: list[Frame] = []
        self._stream = stream
        self._raw = b""

    async def until(self, kind: type[Frame]) -> None:
        while not any(isinstance(frame, kind) for frame in self.seen):
            assert await self._more()

    async def until_end(self) -> None:
        while await self._more():
            pass

    async def _more(self) -> bool:
        with trio.fail_after(10):
            data = await self._stream.receive_some()
        self._raw += data
        while len(self._raw) >= 9:
            frame, length = Frame.parse_frame_header(memoryview(self._raw[:9]))
            if len(self._raw) < 9 + length:
                break
            frame.parse_body(memoryview(self._raw[9 : 9 + length]))
            self._raw = self._raw[9 + length :]
            self.seen.append(frame)
        return bool(data)


async def test_the_end_of_the_server_does_not_wait_for_a_stalled_stream() -> None:
    """Its connection is cut in the second half of the time."""

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        async with trio.open_nursery() as nursery:

            async def pour() -> None:
                while True:
                    await send({"type": "http.response.body", "body": bytes(10_000), "more_body": True})

            nursery.start_soon(pour)
            while (await receive())["type"] != "http.disconnect":
                pass
            nursery.cancel_scope.cancel()

    async with serving(endless) as served, connect(served.port, window=0) as connection:
        await (await connection.request("GET", "/")).head()
        with trio.fail_after(2):
            await served.server.close(1)
        assert served.sockets == 0
        await connection.ended()


async def test_a_cut_connection_leaves_nothing() -> None:
    """Closed by the client in the middle of everything."""
    app = App()
    async with serving(app) as served:
        async with connect(served.port) as connection:
            for _ in range(20):
                await (await connection.request("GET", "/held")).head()
            await until(lambda: app.running == 20)
        app.let.set()
        await until(lambda: app.running == 0 and served.sockets == 0)


async def test_an_upgrade_to_h2c_is_not_heeded() -> None:
    """It is answered as the HTTP/1.1 that it is; the preface alone begins HTTP/2."""
    async with serving(App()) as served, await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
        await stream.send_all(
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\n"
            b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
        )
        got = bytearray()
        with trio.fail_after(5):
            while b"ok" not in got:
                part = await stream.receive_some()
                assert part, got
                got += part
        assert got.startswith(b"HTTP/1.1 200")
