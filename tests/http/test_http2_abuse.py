"""Attacks of hostile HTTP/2 clients.

Each attack must cost the server bounded work and memory, and must not harm another client's connection.
Attacks that have a CVE number name it.
"""

import time
from typing import Any

import pytest
import trio
from h2.errors import ErrorCodes
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from server.http.connection_limits import TokenBucket
from server.http.http2 import http2_connection
from tests.clients.http2 import Connection, connect
from tests.http.http_server import ServedApp, send_response, serving, wait_until

HEAD = [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "x")]


class App:
    """Responds to every request, and counts requests: in progress, most at once, in all."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.began = 0

    async def __call__(self, scope: Any, receive: Any, send_frames: Any) -> None:
        self.running += 1
        self.began += 1
        self.most = max(self.most, self.running)
        try:
            for _ in range(20):  # some passes of the scheduler, as a real app needs
                await trio.lowlevel.checkpoint()
            await send_response(send_frames)
        finally:
            self.running -= 1


async def time_other_request(served: ServedApp) -> float:
    """Sends a request on another connection. Returns how many seconds it took."""
    began = time.monotonic()
    async with connect(served.port) as other:
        stream = await other.request("GET", "/")
        assert await stream.body() == b"ok"
    return time.monotonic() - began


def headers_frame(stream_id: int, *, ended: bool = True) -> HeadersFrame:
    """A HEADERS frame for a minimal request, encoded without a dynamic table."""
    frame = HeadersFrame(stream_id, data=Encoder().encode(HEAD))
    frame.flags.add("END_HEADERS")
    if ended:
        frame.flags.add("END_STREAM")
    return frame


async def send_frames(connection: Connection, *frames: Frame) -> None:
    """Sends frames directly, bypassing h2, which would refuse to."""
    await connection.raw(b"".join(frame.serialize() for frame in frames))


async def test_rapid_reset_is_bounded() -> None:
    """CVE-2023-44487. The app never runs more requests than there may be streams, and after about a thousand
    resets the server ends the connection with ENHANCE_YOUR_CALM.
    """
    app = App()
    async with serving(app) as served, connect(served.port) as hostile:
        with trio.fail_after(30):
            for first in range(1, 8_001, 200):
                pairs = [(headers_frame(n), RstStreamFrame(n, error_code=8)) for n in range(first, first + 200, 2)]
                await send_frames(hostile, *(frame for pair in pairs for frame in pair))
            assert await time_other_request(served) < 5
            await hostile.ended()
        assert hostile.goaway is not None
        assert hostile.goaway.error_code == ErrorCodes.ENHANCE_YOUR_CALM
        assert app.most <= 257
        assert app.began < 1_500
        await wait_until(lambda: served.sockets == 0)


def test_reset_allowance_refills_over_time() -> None:
    allowance = TokenBucket(3, 2.0)
    assert [allowance.spend(100.0) for _ in range(4)] == [True, True, True, False]
    assert [allowance.spend(now) for now in (100.4, 100.5, 100.6, 101.0)] == [False, True, False, True]
    assert [allowance.spend(500.0) for _ in range(4)] == [True, True, True, False]


async def test_page_that_closes_its_streams_is_not_treated_as_abuse() -> None:
    """A hundred streams cancelled at once, nine times, as a browser page does when it is left."""
    async with serving(App()) as served, connect(served.port) as connection:
        for _ in range(9):
            streams = [await connection.request("GET", "/") for _ in range(100)]
            for stream in streams:
                await stream.cancel()
        assert await (await connection.request("GET", "/")).body() == b"ok"


async def test_ping_flood_without_reading_stops_the_servers_reading() -> None:
    """The server stops reading; it does not queue replies without bound."""
    async with serving(App()) as served:
        async with await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
            flood = PingFrame(0, opaque_data=b"01234567").serialize() * 1_000
            await stream.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize())
            stopped = False
            while not stopped:  # as soon as the sockets' buffers are full
                with trio.move_on_after(1) as patience:
                    await stream.send_all(flood)
                stopped = patience.cancelled_caught
            assert len(served.http2._writer._unsent) < 4 * 65_536
            assert await time_other_request(served) < 5
        await wait_until(lambda: served.sockets == 0)


@pytest.mark.parametrize("again", [1, 3])
async def test_priority_frames_of_unopened_streams_are_ignored(again: int) -> None:
    """Hypercorn stored each of them, and ended the connection at a thousand."""
    async with serving(App()) as served, connect(served.port) as connection:
        for _ in range(again):
            await send_frames(
                connection, *(PriorityFrame(n, depends_on=n - 2, stream_weight=5) for n in range(1_003, 6_003, 2))
            )
        assert await (await connection.request("GET", "/")).body() == b"ok"


async def test_empty_data_frames_are_not_queued() -> None:
    """CVE-2019-9518. Empty frames use no flow-control window, so nothing else would limit them."""
    async with serving(silent_app) as served, connect(served.port) as connection:
        upload = await connection.request("POST", "/", end=False)
        await upload.head()
        for _ in range(20):
            await send_frames(connection, *(DataFrame(upload.stream_id, b"") for _ in range(1_000)))
        connection.h2.ping(b"12345678")
        await connection.flush()
        [exchange] = served.http2._streams.values()
        await wait_until(lambda: connection.h2.remote_settings is not None)
        assert not exchange._body


async def silent_app(scope: Any, receive: Any, send_frames: Any) -> None:
    """Starts a response, then neither reads nor sends anything."""
    await send_frames({"type": "http.response.start", "status": 200, "headers": []})
    await send_frames({"type": "http.response.body", "body": b"", "more_body": True})
    await trio.sleep_forever()


async def test_endless_continuation_frames_end_the_connection() -> None:
    """CVE-2024-27316."""
    async with serving(App()) as served, connect(served.port) as connection:
        first = headers_frame(1, ended=False)
        first.flags.discard("END_HEADERS")
        await send_frames(connection, first, *(ContinuationFrame(1, data=b"") for _ in range(1_000)))
        await connection.ended()
        assert await time_other_request(served) < 5


@pytest.mark.parametrize(
    "raw",
    [
        WindowUpdateFrame(0, window_increment=2**31 - 1).serialize(),
        DataFrame(1_001, b"x").serialize(),
        b"\x00\x00\x01\x00\x00\x00\x00\x00\x00x",
        HeadersFrame(2, data=b"\x82", flags=["END_HEADERS"]).serialize(),
        HeadersFrame(1, data=b"\xff\xff\xff\xff\xff\xff", flags=["END_HEADERS"]).serialize(),
        RstStreamFrame(1_001).serialize(),
        b"\x00\x40\x01\x00\x00\x00\x00\x00\x01" + bytes(10),
        b"\xff" * 100,
    ],
    ids=[
        "window-overflow",
        "data-idle",
        "data-on-0",
        "even-stream",
        "compression",
        "reset-idle",
        "long",
        "garbage",
    ],
)
async def test_invalid_frame_ends_its_own_connection_only(raw: bytes) -> None:
    """The server sends GOAWAY with an error code."""
    async with serving(App()) as served, connect(served.port) as connection:
        await connection.raw(raw)
        await connection.ended()
        assert connection.goaway is not None
        assert connection.goaway.error_code != ErrorCodes.NO_ERROR
        assert await time_other_request(served) < 5
        await wait_until(lambda: served.sockets == 0)


async def test_header_compression_bomb_ends_the_connection() -> None:
    """One dynamic table entry referenced ten thousand times expands to more than the announced maximum."""
    async with serving(App()) as served, connect(served.port) as connection:
        encoder = Encoder()
        big = encoder.encode([*HEAD, ("x-bomb", "y" * 3_000)])
        again = encoder.encode([("x-bomb", "y" * 3_000)]) * 10_000
        frame = HeadersFrame(1, data=big + again)
        frame.flags |= {"END_HEADERS", "END_STREAM"}
        assert len(frame.data) < 16_384
        await send_frames(connection, frame)
        await connection.ended()
        assert await time_other_request(served) < 5


def test_stream_and_reset_limits_fit_together() -> None:
    """A hundred event streams and as many commands fit, and a client may open and reset all of them at once."""
    from server.http.http2.http2_limits import MAX_STREAMS

    assert MAX_STREAMS >= 200
    assert http2_connection.RESETS[0] >= 2 * MAX_STREAMS
