"""One POST over real sockets: each phase's limit, and what the network can do."""

from __future__ import annotations

import socket

import pytest
import trio
from trio.testing import MockClock

from server.upstream import Limits
from server.upstream.address import Address
from server.upstream.exchange import encode_request
from server.upstream.http import Post
from server.upstream.pool import Pool

from .raw_server import OK, Handler, Server, code, deafness, exchanged, saying, silence


@pytest.mark.parametrize(
    ("packets", "status", "body", "error"),
    [
        ([OK + b"Content-Length: 3\r\n\r\n", b"abc"], 200, b"abc", None),
        ([OK + b"Content-Length: 3\r\n\r\nabc"], 200, b"abc", None),
        ([OK + b"\r\n", b"abc"], 200, b"abc", None),
        ([OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"], 200, b"abc", None),
        ([OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"], 200, b"abc", "upstream_cut"),
        ([OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nZ"], 200, b"abc", "upstream_malformed"),
        ([OK + b"Content-Length: 4\r\n\r\nabc"], 200, b"abc", "upstream_cut"),
        ([], 0, b"", "upstream_cut"),
        ([OK], 0, b"", "upstream_cut"),
        ([b"SSH-2.0-x\r\n"], 0, b"", "upstream_malformed"),
    ],
)
async def test_what_a_server_can_say(
    nursery: trio.Nursery, packets: list[bytes], status: int, body: bytes, error: str | None
) -> None:
    address = await saying(*packets).listen(nursery)
    got = await exchanged(address)
    assert (got[0], got[1], code(got[2])) == (status, body, error)


async def test_ipv6(nursery: trio.Nursery) -> None:
    try:
        address = await saying(OK + b"\r\n", b"abc").listen(nursery, "::1")
    except OSError:
        pytest.skip("no IPv6 on this machine")
    assert await exchanged(address) == (200, b"abc", None)


async def test_a_reset_is_a_cut(nursery: trio.Nursery) -> None:
    async def reset(stream: trio.SocketStream) -> None:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await trio.lowlevel.checkpoint()

    address = await saying(then=reset).listen(nursery)
    assert code((await exchanged(address))[2]) == "upstream_cut"


async def test_refused(nursery: trio.Nursery) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        _, _, error = await exchanged(Address(False, "127.0.0.1", port, ""))
    assert code(error) == "upstream_unavailable"
    assert error is not None
    assert error.retryable
    assert f"127.0.0.1:{port}" in error.detail
    assert "127.0.0.1" not in error.message


@pytest.mark.parametrize("reads_on", [True, False])
async def test_an_early_refusal_of_a_long_request_is_heard(nursery: trio.Nursery, reads_on: bool) -> None:
    async def early(stream: trio.SocketStream) -> None:
        await stream.receive_some(100)
        await stream.send_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        if reads_on:
            await silence(stream)  # else the rest of the request is answered by a RST

    address = await Server(early).listen(nursery)
    status, _, error = await exchanged(address, body=b"x" * (1 << 24))
    assert (status, error) == (413, None)


# The limits, under virtual time


class Resolver(trio.abc.HostnameResolver):
    """Name resolution that never ends, or fails."""

    def __init__(self, error: OSError | None = None) -> None:
        self.error = error

    async def getaddrinfo(self, *args: object, **kwargs: object) -> list[tuple[object, ...]]:  # type: ignore[override]
        if self.error:
            raise self.error
        return await trio.sleep_forever()

    async def getnameinfo(self, *args: object) -> tuple[str, str]:
        raise NotImplementedError


async def test_connecting_has_a_limit(autojump_clock: MockClock) -> None:
    trio.socket.set_custom_hostname_resolver(Resolver())
    start = trio.current_time()
    _, _, error = await exchanged(Address(False, "slow.example", 80, ""))
    assert code(error) == "upstream_timeout"
    assert trio.current_time() - start == Limits().connect


async def test_an_unknown_host_is_unavailable() -> None:
    trio.socket.set_custom_hostname_resolver(Resolver(socket.gaierror(-2, "Name or service not known")))
    _, _, error = await exchanged(Address(False, "nowhere.example", 80, ""))
    assert code(error) == "upstream_unavailable"
    assert error is not None
    assert "nowhere.example" in error.detail
    assert "nowhere.example" not in error.message


async def test_sending_has_a_limit(nursery: trio.Nursery, clock: MockClock) -> None:
    address = await Server(deafness).listen(nursery)
    start = trio.current_time()
    _, _, error = await exchanged(address, body=b"x" * (1 << 25))
    assert code(error) == "upstream_timeout"
    assert trio.current_time() - start == pytest.approx(Limits().send)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("packets", [[], [b"HTTP/1.1 200 O"], [b"HTTP/1.1 100 Continue\r\n\r\n"]])
async def test_the_first_byte_has_a_limit(nursery: trio.Nursery, clock: MockClock, packets: list[bytes]) -> None:
    server = saying(*packets, then=silence)
    address = await server.listen(nursery)
    start = trio.current_time()
    _, _, error = await exchanged(address)
    assert code(error) == "upstream_timeout"
    assert trio.current_time() - start == pytest.approx(Limits().first_byte)


async def test_silence_has_a_limit_that_every_byte_renews(nursery: trio.Nursery, clock: MockClock) -> None:
    async def slowly(stream: trio.SocketStream) -> None:
        for byte in b"4\r\nabcd\r\n":
            await trio.sleep(170)
            await stream.send_all(bytes([byte]))
        await silence(stream)

    address = await saying(OK + b"Transfer-Encoding: chunked\r\n\r\n", then=slowly).listen(nursery)
    start = trio.current_time()
    _, body, error = await exchanged(address)
    assert (body, code(error)) == (b"abcd", "upstream_stalled")
    assert trio.current_time() - start == pytest.approx(9 * 170 + Limits().idle)


@pytest.mark.parametrize(
    ("packets", "then", "expected"),
    [
        ([b"x" * 100_000], None, b"x" * 65536),
        ([b"half"], silence, b"half"),
        ([b"half"], None, b"half"),
        ([], silence, b""),
    ],
)
async def test_the_body_of_an_error_is_bounded(
    nursery: trio.Nursery, clock: MockClock, packets: list[bytes], then: Handler | None, expected: bytes
) -> None:
    head = b"HTTP/1.1 500 Oh\r\nContent-Length: 200000\r\n\r\n"
    address = await saying(head, *packets, then=then).listen(nursery)
    post = Post(Pool(address), Limits())
    await post.start(encode_request(address, "/x", {}, b"{}"))
    start = trio.current_time()
    assert await post.read_up_to(65536) == expected
    assert trio.current_time() - start <= Limits().tail
    await post.aclose()
