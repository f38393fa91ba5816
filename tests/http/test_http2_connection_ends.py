"""How an HTTP/2 connection ends: after idle time, at a server stop, or when the client disconnects.

The server must send GOAWAY with the last stream it handled, so that the client knows what it may repeat.
"""

from typing import Any

import pytest
import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, RstStreamFrame

from server.http import HttpOptions
from tests.clients.http2 import connect
from tests.http.http_server import send_response, serving, wait_until


class App:
    """`/held` sends a first part and waits until the test sets `let`; any other path responds at once."""

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
                await send_response(send)
        finally:
            self.running -= 1


IMPATIENT = HttpOptions(keep_alive=0.2, head_seconds=0.2)
"""Options under which idle connections are closed after 0.2 s."""


@pytest.mark.parametrize("requests", [0, 1, 3])
async def test_idle_connection_is_closed_with_goaway(requests: int) -> None:
    """GOAWAY names the last request handled, so that a request that crosses it can safely be sent again."""
    async with serving(App(), options=IMPATIENT) as served, connect(served.port) as connection:
        for _ in range(requests):
            assert await (await connection.request("GET", "/")).body() == b"ok"
        await connection.ended()
        assert connection.goaway is not None
        assert connection.goaway.error_code == ErrorCodes.NO_ERROR
        assert connection.goaway.last_stream_id == max(0, 2 * requests - 1)
        await wait_until(lambda: served.sockets == 0)


async def test_connection_is_idle_after_all_its_streams_were_reset() -> None:
    """The idle timeout must start again when the last stream ends by a reset."""
    app = App()
    async with serving(app, options=IMPATIENT) as served, connect(served.port) as connection:
        stream = await connection.request("GET", "/held")
        await stream.receive()
        await stream.cancel()
        app.let.set()
        await connection.ended()
        assert connection.goaway is not None


async def test_connection_with_a_quiet_stream_is_not_idle() -> None:
    """It stays open past the idle timeout without a byte, while other streams open and close."""
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


async def test_stop_finishes_open_streams_and_refuses_new_ones() -> None:
    """GOAWAY, REFUSED_STREAM for a new request, the rest of the response in progress, then the end."""
    app = App()
    async with serving(app) as served, await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
        client = H2Connection(H2Configuration(client_side=True))
        client.initiate_connection()
        head = [(":method", "GET"), (":path", "/held"), (":scheme", "http"), (":authority", "x")]
        client.send_headers(1, head, end_stream=True)
        await stream.send_all(client.data_to_send())
        await wait_until(lambda: app.running == 1)
        client.send_headers(3, head, end_stream=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.server.close, 10)
            await wait_until(lambda: served.http2._goaway_sent)
            await stream.send_all(client.data_to_send())
            frames = FrameReader(stream)
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


class FrameReader:
    """Reads the server's raw frames, because h2 ignores everything after a GOAWAY."""

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


async def test_stop_does_not_wait_for_a_stalled_stream() -> None:
    """The server cuts the connection in the second half of the stop time."""

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


async def test_client_disconnect_cancels_all_its_streams() -> None:
    """Neither a running app nor a socket may be left."""
    app = App()
    async with serving(app) as served:
        async with connect(served.port) as connection:
            for _ in range(20):
                await (await connection.request("GET", "/held")).head()
            await wait_until(lambda: app.running == 20)
        app.let.set()
        await wait_until(lambda: app.running == 0 and served.sockets == 0)


async def test_upgrade_to_h2c_is_ignored() -> None:
    """The request is answered as HTTP/1.1; only the HTTP/2 preface starts HTTP/2."""
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
