"""The short way of a chunk: whole and in order, whether the socket takes all, some or nothing of it."""

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from hypercorn.events import Closed, RawData
from trio.testing import wait_all_tasks_blocked

from server.http.direct_write import STATE, Straight, straight_of, with_straight


class Connection:
    """As much of hypercorn's connection as the short way needs: the lock, and the usual way."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.send_lock = trio.Lock()
        self.usual: list[bytes] = []
        self.gone = False

    async def protocol_send(self, event: RawData | Closed) -> None:
        assert isinstance(event, RawData)
        self.usual.append(event.data)
        async with self.send_lock:
            try:
                await self.stream.send_all(event.data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.gone = True


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def attached(ours: socket.socket) -> tuple[Straight, Connection]:
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    connection = Connection(stream)
    straight = Straight()
    straight.attach(connection, stream)  # type: ignore[arg-type]
    return straight, connection


async def received(theirs: socket.socket, size: int) -> bytes:
    stream, data = trio.socket.from_stdlib_socket(theirs), b""
    with trio.fail_after(5):
        while len(data) < size:
            data += await stream.recv(65_536)
    return data


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)


async def test_a_chunk_goes_in_one_write(pair: tuple[socket.socket, socket.socket]) -> None:
    straight, connection = attached(pair[0])
    for part in (b"a", b"b" * 300):
        await straight.send(part)
    assert await received(pair[1], 1) == chunked(b"a", b"b" * 300)
    assert connection.usual == []


async def test_what_a_full_socket_does_not_take_follows(pair: tuple[socket.socket, socket.socket]) -> None:
    straight, connection = attached(pair[0])
    parts = [bytes([65 + n]) * 300_000 for n in range(4)]
    async with trio.open_nursery() as nursery:
        sent = trio.Event()

        async def send() -> None:
            for part in parts:
                await straight.send(part)
            sent.set()

        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        assert not sent.is_set()
        whole = chunked(*parts)
        assert await received(pair[1], len(whole)) == whole
    assert connection.usual


async def test_a_cancelled_sender_cuts_no_chunk(pair: tuple[socket.socket, socket.socket]) -> None:
    straight, _ = attached(pair[0])
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(straight.send, b"x" * 1_000_000)
            await wait_all_tasks_blocked()
            scope.cancel()
            with trio.CancelScope(shield=True):
                whole = chunked(b"x" * 1_000_000)
                assert await received(pair[1], len(whole)) == whole


async def test_while_somebody_else_sends_it_waits(pair: tuple[socket.socket, socket.socket]) -> None:
    straight, connection = attached(pair[0])
    async with trio.open_nursery() as nursery:
        async with connection.send_lock:
            nursery.start_soon(straight.send, b"second")
            await wait_all_tasks_blocked()
            os.write(pair[0].fileno(), b"first")
    assert await received(pair[1], 5) == b"first" + chunked(b"second")


async def test_a_closed_socket_is_never_anothers(pair: tuple[socket.socket, socket.socket]) -> None:
    """Its number is free again at once, and the next connection gets it."""
    straight, connection = attached(pair[0])
    number = pair[0].fileno()
    await connection.stream.aclose()
    others = socket.socketpair()
    try:
        assert number in [one.fileno() for one in others]
        await straight.send(b"not for you")
        for one in others:
            one.setblocking(False)
            with pytest.raises(BlockingIOError):
                one.recv(100)
    finally:
        for one in others:
            one.close()
    assert connection.gone


async def test_a_client_that_has_gone_is_found_out_the_usual_way(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    straight, connection = attached(pair[0])
    pair[1].close()
    await straight.send(b"unheard")
    assert connection.gone


def test_who_has_a_short_way() -> None:
    state, straight = with_straight()
    plain = {"http_version": "1.1", "method": "GET", "state": dict(state)}
    assert straight_of(plain) is straight
    others: list[dict[str, Any]] = [
        {"http_version": "1.0"},
        {"http_version": "2"},
        {"method": "HEAD"},
        {"state": {}},
    ]
    for other in others:
        assert straight_of({**plain, **other}) is None
    assert straight_of({"http_version": "1.1", "method": "GET"}) is None
    assert straight_of({**plain, "state": {STATE: "what a test put there"}}) is None
