"""One POST over real sockets: each phase's limit, what the network can do, TLS, and that no socket is left."""

from __future__ import annotations

import gc
import socket
import ssl
from collections.abc import Awaitable, Callable

import pytest
import trio
import trustme
from trio.testing import MockClock

from server.upstream import Limits, UpstreamError
from server.upstream.address import Address
from server.upstream.exchange import encode_request
from server.upstream.http import Post

Handler = Callable[[trio.SocketStream], Awaitable[object]]
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


class Server:
    """A server that does with each connection what the handler says; `idle` while none is open."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.open = 0
        self.idle = trio.Event()
        self.idle.set()

    async def listen(self, nursery: trio.Nursery, host: str = "127.0.0.1") -> Address:
        listeners = await trio.open_tcp_listeners(0, host=host)
        nursery.start_soon(trio.serve_listeners, self._handle, listeners)
        return Address(False, host, listeners[0].socket.getsockname()[1], "/v1")

    async def _handle(self, stream: trio.SocketStream) -> None:
        self.open += 1
        self.idle = trio.Event()
        try:
            await self.handler(stream)
        except trio.BrokenResourceError:
            await trio.lowlevel.checkpoint()
        finally:
            self.open -= 1
            if not self.open:
                self.idle.set()
            await trio.aclose_forcefully(stream)


def saying(*packets: bytes, then: Handler | None = None) -> Server:
    """A server that reads the request, sends these packets, does `then` (default: close)."""

    async def handler(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        for packet in packets:
            await stream.send_all(packet)
        if then:
            await then(stream)

    return Server(handler)


async def silence(stream: trio.SocketStream) -> None:
    """Until the client closes."""
    while await stream.receive_some(65536):
        continue


async def deafness(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def exchanged(
    address: Address, *, body: bytes = b"{}", limits: Limits | None = None, context: ssl.SSLContext | None = None
) -> tuple[int, bytes, UpstreamError | None]:
    """Status, body and error of one POST, read to its end."""
    limits = limits or Limits()
    post, got, error = Post(address, limits, context), b"", None
    try:
        await post.start(encode_request(address, "/x", {}, body))
        while more := await post.receive_some(limits.idle):
            got += more
    except UpstreamError as caught:
        error = caught
    finally:
        await post.aclose()
    return post.status, got, error


def code(error: UpstreamError | None) -> str | None:
    return error.code if error else None


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
    assert f"127.0.0.1:{port}" in error.message


async def test_an_early_refusal_of_a_long_request_is_heard(nursery: trio.Nursery) -> None:
    async def early(stream: trio.SocketStream) -> None:
        await stream.receive_some(100)
        await stream.send_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await silence(stream)

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
    assert "nowhere.example" in error.message


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
    post = Post(address, Limits(), None)
    await post.start(encode_request(address, "/x", {}, b"{}"))
    start = trio.current_time()
    assert await post.read_up_to(65536) == expected
    assert trio.current_time() - start <= Limits().tail
    await post.aclose()


# TLS


def tls(authority: trustme.CA) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's context and a client's that trusts it."""
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    return server, client


def over_tls(context: ssl.SSLContext, *packets: bytes, then: Handler | None = None) -> Server:
    async def handler(stream: trio.SocketStream) -> None:
        secure = trio.SSLStream(stream, context, server_side=True)
        await secure.receive_some(65536)
        for packet in packets:
            await secure.send_all(packet)  # and no close_notify, as many do
        if then:
            await then(stream)

    return Server(handler)


async def test_tls(nursery: trio.Nursery) -> None:
    server, client = tls(trustme.CA())
    plain = await over_tls(server, OK + b"\r\n", b"abc", b"def").listen(nursery)
    address = Address(True, plain.host, plain.port, "")
    assert await exchanged(address, context=client) == (200, b"abcdef", None)


async def test_a_bad_certificate_is_no_matter_of_trying_again(nursery: trio.Nursery) -> None:
    server, _ = tls(trustme.CA())
    plain = await over_tls(server).listen(nursery)
    _, _, error = await exchanged(Address(True, plain.host, plain.port, ""), context=ssl.create_default_context())
    assert code(error) == "upstream_unavailable"
    assert error is not None
    assert not error.retryable
    assert "certificate" in error.message


@pytest.mark.parametrize("server", [saying(b"HTTP/1.1 400 Bad\r\n\r\n"), saying()])
async def test_tls_with_a_server_that_has_none(nursery: trio.Nursery, server: Server) -> None:
    plain = await server.listen(nursery)
    address = Address(True, plain.host, plain.port, "")
    _, _, error = await exchanged(address, context=ssl.create_default_context())
    assert code(error) == "upstream_unavailable"


# Closing


async def test_closed_is_closed(nursery: trio.Nursery) -> None:
    address = await saying(OK + b"\r\n", then=silence).listen(nursery)
    post = Post(address, Limits(), None)
    await post.aclose()  # before it was opened
    await post.start(encode_request(address, "/x", {}, b"{}"))
    await post.aclose()
    await post.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await post.receive_some(1)


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("stage", range(1, 17))
async def test_cancelled_at_any_checkpoint_no_socket_is_left(
    nursery: trio.Nursery, secure: bool, stage: int
) -> None:
    """The task is cancelled when it comes to its n-th checkpoint, whatever it does there."""
    server_context, client = tls(AUTHORITY)
    packets = [OK + b"\r\n", b"abc"]
    server = over_tls(server_context, *packets, then=silence) if secure else saying(*packets, then=silence)
    plain = await server.listen(nursery)
    post = Post(Address(secure, plain.host, plain.port, ""), Limits(), client if secure else None)
    with trio.CancelScope() as scope:
        trio.lowlevel.add_instrument(watch := CancelAt(trio.lowlevel.current_task(), stage, scope))
        try:
            await post.start(encode_request(plain, "/x", {}, b"{}"))
            assert await post.receive_some(1) == b"abc"
        finally:
            trio.lowlevel.remove_instrument(watch)
            await post.aclose()
    with trio.fail_after(5):
        await server.idle.wait()  # its handler ends only when the client closes
    gc.collect()  # a socket that was only dropped would warn here, and warnings are errors


AUTHORITY = trustme.CA()


class CancelAt(trio.abc.Instrument):
    def __init__(self, task: trio.lowlevel.Task, stage: int, scope: trio.CancelScope) -> None:
        self.task, self.left, self.scope = task, stage, scope

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= task is self.task
        if self.left == 0:
            self.scope.cancel()
