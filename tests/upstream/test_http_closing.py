"""TLS, and that a POST leaves no socket whenever it ends, with TLS and without."""

from __future__ import annotations

import ssl

import pytest
import trio
import trustme

from server.upstream import Limits
from server.upstream.address import Address
from server.upstream.exchange import encode_request
from server.upstream.http import Post
from server.upstream.pool import Pool

from .raw_server import OK, CancelAt, Server, code, exchanged, over_tls, saying, silence, tls

AUTHORITY = trustme.CA()


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


async def test_closed_is_closed(nursery: trio.Nursery) -> None:
    address = await saying(OK + b"\r\n", then=silence).listen(nursery)
    post = Post(Pool(address), Limits())
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
    post = Post(Pool(Address(secure, plain.host, plain.port, ""), client if secure else None), Limits())
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
