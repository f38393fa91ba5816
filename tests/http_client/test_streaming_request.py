"""One request over real sockets: network failures, the time limit of each phase, TLS, and that no socket is
left.
"""

from __future__ import annotations

import socket
import ssl

import pytest
import trio
import trustme
from trio.testing import MockClock

from server.http_client.base_url import BaseUrl
from server.http_client.connection_pool import ConnectionPool
from server.http_client.errors import (
    CertificateError,
    ConnectError,
    ConnectionCut,
    ConnectTimeout,
    MalformedResponse,
    ReadTimeout,
    ResponseTimeout,
    SendTimeout,
)
from server.http_client.http1_codec import encode_request
from server.http_client.streaming_request import SEND_BYTES, StreamingRequest, Timeouts

from .raw_server import (
    OK,
    CancelAt,
    Handler,
    Server,
    kind,
    never_reading,
    over_tls,
    post_and_read,
    sending,
    tls,
    until_closed,
)

AUTHORITY = trustme.CA()


@pytest.mark.parametrize(
    ("packets", "status", "body", "error"),
    [
        ([OK + b"Content-Length: 3\r\n\r\n", b"abc"], 200, b"abc", None),
        ([OK + b"Content-Length: 3\r\n\r\nabc"], 200, b"abc", None),
        ([OK + b"\r\n", b"abc"], 200, b"abc", None),
        ([OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"], 200, b"abc", None),
        ([OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"], 200, b"abc", ConnectionCut),
        ([OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nZ"], 200, b"abc", MalformedResponse),
        ([OK + b"Content-Length: 4\r\n\r\nabc"], 200, b"abc", ConnectionCut),
        ([], 0, b"", ConnectionCut),
        ([OK], 0, b"", ConnectionCut),
        ([b"SSH-2.0-x\r\n"], 0, b"", MalformedResponse),
    ],
)
async def test_responses(
    nursery: trio.Nursery, packets: list[bytes], status: int, body: bytes, error: type[Exception] | None
) -> None:
    address = await sending(*packets).listen(nursery)
    got = await post_and_read(address)
    assert (got[0], got[1], kind(got[2])) == (status, body, error)


async def test_ipv6(nursery: trio.Nursery) -> None:
    try:
        address = await sending(OK + b"\r\n", b"abc").listen(nursery, "::1")
    except OSError:
        pytest.skip("no IPv6 on this machine")
    assert await post_and_read(address) == (200, b"abc", None)


async def test_connection_reset(nursery: trio.Nursery) -> None:
    async def reset(stream: trio.SocketStream) -> None:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await trio.lowlevel.checkpoint()

    address = await sending(then=reset).listen(nursery)
    assert kind((await post_and_read(address))[2]) is ConnectionCut


async def test_connection_refused(nursery: trio.Nursery) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        _, _, error = await post_and_read(BaseUrl(False, "127.0.0.1", port, ""))
    assert isinstance(error, ConnectError)
    assert f"127.0.0.1:{port}" in error.detail
    assert "127.0.0.1" not in str(error)


@pytest.mark.parametrize("reads_on", [True, False])
async def test_response_before_the_whole_request_is_read(nursery: trio.Nursery, reads_on: bool) -> None:
    async def early(stream: trio.SocketStream) -> None:
        await stream.receive_some(100)
        await stream.send_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        if reads_on:
            await until_closed(stream)  # else the rest of the request is answered by a RST

    address = await Server(early).listen(nursery)
    status, _, error = await post_and_read(address, body=b"x" * (1 << 24))
    assert (status, error) == (413, None)


# The timeouts, under virtual time


class FakeResolver(trio.abc.HostnameResolver):
    """A name resolution that never ends, or fails."""

    def __init__(self, error: OSError | None = None) -> None:
        self.error = error

    async def getaddrinfo(self, *args: object, **kwargs: object) -> list[tuple[object, ...]]:  # type: ignore[override]
        if self.error:
            raise self.error
        return await trio.sleep_forever()

    async def getnameinfo(self, *args: object) -> tuple[str, str]:
        raise NotImplementedError


async def test_connect_timeout(autojump_clock: MockClock) -> None:
    trio.socket.set_custom_hostname_resolver(FakeResolver())
    start = trio.current_time()
    _, _, error = await post_and_read(BaseUrl(False, "slow.example", 80, ""))
    assert kind(error) is ConnectTimeout
    assert trio.current_time() - start == Timeouts().connect


async def test_unknown_host() -> None:
    trio.socket.set_custom_hostname_resolver(FakeResolver(socket.gaierror(-2, "Name or service not known")))
    _, _, error = await post_and_read(BaseUrl(False, "nowhere.example", 80, ""))
    assert isinstance(error, ConnectError)
    assert "nowhere.example" in error.detail
    assert "nowhere.example" not in str(error)


async def test_send_timeout(nursery: trio.Nursery, clock: MockClock) -> None:
    address = await Server(never_reading).listen(nursery)
    start = trio.current_time()
    _, _, error = await post_and_read(address, body=b"x" * (1 << 25))
    assert kind(error) is SendTimeout
    assert trio.current_time() - start == pytest.approx(Timeouts().send + (1 << 25) // SEND_BYTES)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("packets", [[], [b"HTTP/1.1 200 O"], [b"HTTP/1.1 100 Continue\r\n\r\n"]])
async def test_first_byte_timeout(nursery: trio.Nursery, clock: MockClock, packets: list[bytes]) -> None:
    server = sending(*packets, then=until_closed)
    address = await server.listen(nursery)
    start = trio.current_time()
    _, _, error = await post_and_read(address)
    assert kind(error) is ResponseTimeout
    assert trio.current_time() - start == pytest.approx(Timeouts().first_byte)


async def test_idle_timeout_restarts_with_every_byte(nursery: trio.Nursery, clock: MockClock) -> None:
    async def slowly(stream: trio.SocketStream) -> None:
        for byte in b"4\r\nabcd\r\n":
            await trio.sleep(170)
            await stream.send_all(bytes([byte]))
        await until_closed(stream)

    address = await sending(OK + b"Transfer-Encoding: chunked\r\n\r\n", then=slowly).listen(nursery)
    start = trio.current_time()
    _, body, error = await post_and_read(address)
    assert (body, kind(error)) == (b"abcd", ReadTimeout)
    assert trio.current_time() - start == pytest.approx(9 * 170 + Timeouts().idle)


@pytest.mark.parametrize(
    ("packets", "then", "expected"),
    [
        ([b"x" * 100_000], None, b"x" * 65536),
        ([b"half"], until_closed, b"half"),
        ([b"half"], None, b"half"),
        ([], until_closed, b""),
    ],
)
async def test_error_body_is_bounded(
    nursery: trio.Nursery, clock: MockClock, packets: list[bytes], then: Handler | None, expected: bytes
) -> None:
    head = b"HTTP/1.1 500 Oh\r\nContent-Length: 200000\r\n\r\n"
    address = await sending(head, *packets, then=then).listen(nursery)
    request = StreamingRequest(ConnectionPool(address), Timeouts())
    await request.start(encode_request(address, "/x", {}, b"{}"))
    start = trio.current_time()
    assert await request.read_up_to(65536) == expected
    assert trio.current_time() - start <= Timeouts().tail
    await request.aclose()


# TLS, and the socket's end


async def test_tls(nursery: trio.Nursery) -> None:
    server, client = tls(trustme.CA())
    plain = await over_tls(server, OK + b"\r\n", b"abc", b"def").listen(nursery)
    address = BaseUrl(True, plain.host, plain.port, "")
    assert await post_and_read(address, context=client) == (200, b"abcdef", None)


async def test_untrusted_certificate_is_not_retryable(nursery: trio.Nursery) -> None:
    server, _ = tls(trustme.CA())
    plain = await over_tls(server).listen(nursery)
    _, _, error = await post_and_read(
        BaseUrl(True, plain.host, plain.port, ""), context=ssl.create_default_context()
    )
    assert kind(error) is CertificateError


@pytest.mark.parametrize("server", [sending(b"HTTP/1.1 400 Bad\r\n\r\n"), sending()])
async def test_tls_with_a_plain_server(nursery: trio.Nursery, server: Server) -> None:
    plain = await server.listen(nursery)
    address = BaseUrl(True, plain.host, plain.port, "")
    _, _, error = await post_and_read(address, context=ssl.create_default_context())
    assert kind(error) is ConnectError


async def test_close_is_idempotent(nursery: trio.Nursery) -> None:
    address = await sending(OK + b"\r\n", then=until_closed).listen(nursery)
    request = StreamingRequest(ConnectionPool(address), Timeouts())
    await request.aclose()  # before it was opened
    await request.start(encode_request(address, "/x", {}, b"{}"))
    await request.aclose()
    await request.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await request.receive_some(1)


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("stage", range(1, 17))
async def test_cancellation_at_any_checkpoint_leaves_no_socket(
    nursery: trio.Nursery, secure: bool, stage: int
) -> None:
    """The task is cancelled when it comes to its n-th checkpoint, whatever it does there."""
    server_context, client = tls(AUTHORITY)
    packets = [OK + b"\r\n", b"abc"]
    server = (
        over_tls(server_context, *packets, then=until_closed) if secure else sending(*packets, then=until_closed)
    )
    plain = await server.listen(nursery)
    request = StreamingRequest(
        ConnectionPool(BaseUrl(secure, plain.host, plain.port, ""), client if secure else None), Timeouts()
    )
    with trio.CancelScope() as scope:
        trio.lowlevel.add_instrument(watch := CancelAt(trio.lowlevel.current_task(), stage, scope))
        try:
            await request.start(encode_request(plain, "/x", {}, b"{}"))
            assert await request.receive_some(1) == b"abc"
        finally:
            trio.lowlevel.remove_instrument(watch)
            await request.aclose()
    with trio.fail_after(5):
        await server.idle.wait()  # its handler ends only when the client closes
