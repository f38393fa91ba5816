"""Keys at a URL, from a real server on loopback: what it may answer, and what happens when it does not."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from server.auth import key_set
from server.auth.key_set import BadKeySet, KeySet
from tests.auth.test_jwt_verifier import SIGNERS, published
from tests.harness.servers import free_port


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """The URL of a server that answers so to everybody, and closes."""

    async def handle(stream: trio.SocketStream) -> None:
        await stream.receive_some(10_000)
        try:
            await stream.send_all(answer)
        except trio.BrokenResourceError:
            return  # the client has seen enough
        if not answer:
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        (listener, *_) = await nursery.start(trio.serve_tcp, handle, 0)
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}/jwks?p=1"
        nursery.cancel_scope.cancel()


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


async def test_keys_are_read() -> None:
    async with answering(ok(published(SIGNERS))) as url:
        keys = KeySet(url)
        await keys.load()
    assert [key.kid for key in keys.keys] == list(SIGNERS)
    with pytest.raises(BadKeySet, match="cannot be read"):
        await keys.load()
    assert len(keys.keys) == 4  # the last good ones stay


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "status 404"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", "status 302"),
        (ok(b"x" * (key_set.MAX_BYTES + 1)), "longer than"),
        (ok(b"<html>"), "neither"),
        (b"SSH-2.0-x\r\n", "cannot be read"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "cannot be read"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\n{", "neither"),
    ],
)
async def test_an_answer_that_is_no_good(answer: bytes, said: str) -> None:
    async with answering(answer) as url:
        with pytest.raises(BadKeySet, match=said):
            await KeySet(url).load()


async def test_one_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_set, "FETCH_SECONDS", 0.2)
    async with answering(b"") as url:
        with pytest.raises(BadKeySet):
            await KeySet(url).load()


async def test_nobody_there() -> None:
    with pytest.raises(BadKeySet, match="cannot be read"):
        await KeySet(f"http://127.0.0.1:{free_port()}/").load()
