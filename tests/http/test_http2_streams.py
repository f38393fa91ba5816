"""HTTP/2 streams that stall, crash, are reset or send a body nobody reads.

A stream in trouble must not delay the other streams of its connection, and the server must keep nothing of it.
"""

from typing import Any

import pytest
import trio
from h2.errors import ErrorCodes

from server.http import HttpOptions
from tests.clients.http1 import Broken
from tests.clients.http2 import Connection, Stream, connect
from tests.http.http_server import send_response, serving, wait_until

CHUNK = b"x" * 8_192


class App:
    """One handler per path. `sent` and `heard` count body bytes, `running` the requests in progress."""

    def __init__(self) -> None:
        self.sent = 0
        self.heard = 0
        self.running = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.running += 1
        try:
            await getattr(self, scope["path"].removeprefix("/"))(scope, receive, send)
        finally:
            self.running -= 1

    async def quick(self, scope: Any, receive: Any, send: Any) -> None:
        await send_response(send)

    async def endless(self, scope: Any, receive: Any, send: Any) -> None:
        async def pour() -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
                self.sent += len(CHUNK)

        await self._until_disconnect(receive, pour)

    async def finite(self, scope: Any, receive: Any, send: Any) -> None:
        await send_response(send, CHUNK)

    async def silent(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        await self._until_disconnect(receive, trio.sleep_forever)

    async def crash(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half of", "more_body": True})
        raise RuntimeError("on purpose")

    async def deaf(self, scope: Any, receive: Any, send: Any) -> None:
        """Never reads the request body."""
        await trio.sleep_forever()

    async def reads(self, scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            self.heard += len(message["body"])
            more = message["more_body"]
        await send_response(send, str(self.heard).encode())

    async def _until_disconnect(self, receive: Any, pour: Any) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pour)
            while (await receive())["type"] != "http.disconnect":
                pass
            nursery.cancel_scope.cancel()


async def check_request_answered(connection: Connection) -> None:
    """Checks that a new request on the same connection is answered."""
    with trio.fail_after(10):
        stream = await connection.request("GET", "/quick")
        assert (await stream.head()).status == 200
        assert await stream.body() == b"ok"


async def test_stalled_stream_blocks_its_app_and_holds_bounded_memory() -> None:
    """With Hypercorn the send buffer grew as fast as the app could write."""
    app = App()
    async with serving(app) as served, connect(served.port, window=0) as connection:
        stalled = [await connection.request("GET", "/endless") for _ in range(10)]
        await wait_until(lambda: len(served.http2._streams) == 10)
        for stream in stalled:
            await stream.head()
        await wait_until(lambda: all(e.send_buffer.full for e in served.http2._streams.values()))
        before = app.sent
        for _ in range(20):  # each a chance to go on, with frames that say nothing of window
            connection.h2.ping(b"12345678")
            await connection.flush()
            finished = await connection.request("GET", "/silent")
            await finished.head()
            await finished.cancel()
        assert app.sent == before
        held = sum(len(exchange.send_buffer) for exchange in served.http2._streams.values())
        assert held <= 10 * (32_768 + len(CHUNK))


async def test_stalled_stream_continues_after_a_window_update() -> None:
    app = App()
    async with serving(app) as served, connect(served.port, window=0) as connection:
        stalled = await connection.request("GET", "/endless")
        await stalled.head()
        await wait_until(lambda: all(e.send_buffer.full for e in served.http2._streams.values()))
        for size in (1, 10, 100_000):
            got = stalled.received
            connection.h2.increment_flow_control_window(size, stalled.stream_id)
            await connection.flush()
            await wait_until(lambda got=got, size=size: stalled.received >= got + size)  # type: ignore[misc]
        assert set(stalled.take()) == {ord("x")}
        connection.h2.update_settings({4: 50_000})  # INITIAL_WINDOW_SIZE, of streams that are open too
        got = stalled.received
        await connection.flush()
        await wait_until(lambda: stalled.received >= got + 50_000)


@pytest.mark.parametrize("path", ["/endless", "/finite"])
async def test_a_stalled_stream_ends_with_its_connection(path: str) -> None:
    """Also if the app has already sent its whole response: its task once waited forever for the last bytes to
    go.
    """
    app = App()
    async with serving(app) as served:
        async with connect(served.port, window=0) as connection:
            stalled = await connection.request("GET", path)
            await stalled.head()
            await wait_until(lambda: len(served.http2._streams) == 1)
        await wait_until(lambda: app.running == 0 and served.sockets == 0)


async def test_reset_streams_do_not_disturb_the_others() -> None:
    """Twenty of forty streams are reset while the server writes to them."""
    app = App()
    async with serving(app) as served, connect(served.port) as connection:
        streams = [await connection.request("GET", "/endless") for _ in range(40)]
        for stream in streams:
            assert await stream.receive()
        for stream in streams[::2]:
            await stream.cancel()
        await wait_until(lambda: app.running == 20)
        for stream in streams[1::2]:
            had = stream.received
            while stream.received < had + 300_000:
                assert set(await stream.receive()) == {ord("x")}
        await check_request_answered(connection)


async def test_app_crash_resets_its_own_stream() -> None:
    """The client can tell that the body is incomplete. Hypercorn left the client waiting forever."""
    async with serving(App()) as served, connect(served.port) as connection:
        stream = await connection.request("GET", "/crash")
        assert await stream.reset_by_server() == ErrorCodes.INTERNAL_ERROR
        await check_request_answered(connection)
        await wait_until(lambda: not served.http2._streams)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/\u00ff"), ("G\u00ffT", "/quick"), ("CONNECT", None), ("GET", None)]
)
async def test_undecodable_head_resets_its_stream_only(method: str, path: str | None) -> None:
    """It once ended the whole connection."""
    async with serving(App()) as served, connect(served.port) as connection:
        silent = await connection.request("GET", "/silent")
        await silent.head()
        connection.h2.config.validate_outbound_headers = False
        connection.h2.config.normalize_outbound_headers = False
        bad = connection.h2.get_next_available_stream_id()
        stream = Stream(connection, bad)
        connection._streams[bad] = stream
        pseudo = {":method": method, ":path": path, ":scheme": "http", ":authority": "x"}
        if method == "CONNECT":
            del pseudo[":scheme"]
        headers = [(name.encode(), value.encode("latin-1")) for name, value in pseudo.items() if value is not None]
        connection.h2.send_headers(bad, headers, end_stream=True)
        await connection.flush()
        assert await stream.reset_by_server() == ErrorCodes.PROTOCOL_ERROR
        await check_request_answered(connection)
        assert silent.reset_code is None


async def test_data_after_an_early_response_is_discarded() -> None:
    """The server responds, resets the stream with NO_ERROR, discards what still arrives and returns the window
    to the connection.
    """
    async with serving(App()) as served, connect(served.port) as connection:
        for _ in range(30):
            stream = await connection.request("POST", "/quick", end=False)
            assert await stream.body() == b"ok"
            # 16 KiB each: eight times the connection's window in all. h2 would not send on a stream it saw reset.
            frame = (16_384).to_bytes(3, "big") + b"\x00\x00" + stream.stream_id.to_bytes(4, "big")
            await connection.raw(frame + bytes(16_384))
        await check_request_answered(connection)
        posted = await connection.request("POST", "/reads", body=b"y" * 200_000)
        assert await posted.body() == b"200000"


async def test_unread_request_body_does_not_block_other_streams() -> None:
    """The connection's reading task once waited for the app. Only the sender of that body may be stopped."""
    async with serving(App()) as served, connect(served.port) as connection:
        deaf = await connection.request("POST", "/deaf", end=False)
        sent = 0
        while connection.h2.local_flow_control_window(deaf.stream_id) > 100:
            connection.h2.send_data(deaf.stream_id, b"z" * 100)
            sent += 100
        await connection.flush()
        assert sent > 60_000
        await check_request_answered(connection)
        await deaf.cancel()
        # What nobody read has been given back to the others.
        posted = await connection.request("POST", "/reads", body=b"y" * 100_000)
        assert await posted.body() == b"100000"


async def test_streams_above_the_announced_maximum_are_refused() -> None:
    """The 257th stream gets REFUSED_STREAM, which says that nothing was done; the others go on."""
    async with serving(App()) as served, connect(served.port) as connection:
        streams = [await connection.request("GET", "/silent") for _ in range(256)]
        for stream in streams:
            await stream.head()
        assert connection.h2.remote_settings.max_concurrent_streams == 256
        connection.h2.remote_settings[3] = 1_000  # as if it had not heard
        connection.h2.remote_settings.acknowledge()
        refused = await connection.request("GET", "/quick")
        assert await refused.reset_by_server() == ErrorCodes.REFUSED_STREAM
        await streams[0].cancel()
        await wait_until(lambda: len(served.http2._streams) == 255)
        await check_request_answered(connection)
        with pytest.raises(Broken):
            await streams[0].receive()


async def test_connection_keeps_nothing_of_a_thousand_finished_requests() -> None:
    """Requests that were answered, reset, or ended by a crash leave no state in h2 or in the server."""
    app = App()
    async with serving(app) as served, connect(served.port) as connection:

        async def some(count: int) -> None:
            for n in range(count):
                if n % 5 == 0:
                    stream = await connection.request("GET", "/silent")
                    await stream.head()
                    await stream.cancel()
                elif n % 5 == 1:
                    await (await connection.request("GET", "/crash")).reset_by_server()
                elif n % 5 == 2:
                    assert await (await connection.request("POST", "/quick", end=False)).body() == b"ok"
                else:
                    await check_request_answered(connection)
            await check_request_answered(connection)
            await wait_until(lambda: not served.http2._streams)

        await some(1_000)
        protocol = served.http2
        h2 = protocol._h2
        assert len(h2.streams) <= 2
        assert len(h2._closed_streams) <= 1_024
        assert not protocol._writer._ready
        assert not protocol._writer._unsent
        assert app.running == 0
        assert len(protocol._nursery.child_tasks) <= 3  # reader's idle timer, writer


async def test_unread_large_responses_share_one_memory_limit() -> None:
    """Each of 256 streams without window asks for 4 MB: five are held, the others get 503."""
    body = bytes(4_000_000)

    async def large(scope: Any, receive: Any, send: Any) -> None:
        await send_response(send, body)

    async with serving(large, options=HttpOptions(unsent_bytes=20_000_000, stall_timeout=1.0)) as served:
        budget = served.server._state.budget
        async with connect(served.port, window=0) as connection:
            streams = [await connection.request("GET", "/") for _ in range(256)]
            statuses = [(await stream.head()).status for stream in streams]
            assert (statuses.count(200), statuses.count(503)) == (5, 251)
            assert budget.held <= 20_100_000
            await streams[statuses.index(200)].reset_by_server()  # the time for it to be taken is over
            await wait_until(lambda: budget.held < 100_000)
        await wait_until(lambda: budget.held == 0)


async def test_one_client_that_reads_nothing_shuts_out_nobody_else() -> None:
    """It has 256 streams without window for pieces of a file, on one connection. Another address gets its own."""
    piece = bytes(262_144)

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": piece, "more_body": scope["path"] == "/file"})
            if scope["path"] != "/file":
                return

    async with serving(endless, options=HttpOptions(unsent_bytes=256 * len(piece))) as served:
        budget = served.server._state.budget
        addresses = iter(["192.0.2.1", "192.0.2.1", "192.0.2.2"])
        served.server._table._counted_address = lambda host: next(addresses)  # type: ignore[method-assign]
        async with connect(served.port, window=0) as connection:
            streams = [await connection.request("GET", "/file") for _ in range(256)]
            statuses = [(await stream.head()).status for stream in streams]
            assert (statuses.count(200), statuses.count(503)) == (64, 192)
            for expected in (503, 200):
                async with connect(served.port) as other:
                    assert (await (await other.request("GET", "/")).head()).status == expected
        await wait_until(lambda: (budget.held, budget.held_of) == (0, {}))
