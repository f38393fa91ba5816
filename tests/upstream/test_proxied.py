"""Through a proxy: a tunnel for https, whole URLs for http, every refusal, and no password in sight."""

from __future__ import annotations

import re
import traceback
from contextlib import suppress

import pytest
import trio
import trustme
from pydantic import ValidationError
from trio.testing import MockClock

from server.upstream import Limits, OpenAISettings, RetryPolicy, UpstreamError
from server.upstream.address import Address
from server.upstream.openai import OpenAI
from server.upstream.pool import Pool
from server.upstream.proxy import Proxy

from .asking import ask, prompt
from .fake_openai import Fake
from .fake_wire import words
from .raw_server import CancelAt, Server, saying, silence, tls

CONTEXT, CLIENT = tls(trustme.CA())
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


class Tunnel:
    """A proxy for CONNECT that leads every tunnel to the fake. `asked`: the heads of the requests."""

    def __init__(self, fake: Fake, answer: bytes = ESTABLISHED) -> None:
        self.asked: list[str] = []
        self.server = Server(self._handle)
        self._port = fake.port
        self._answer = answer

    async def listen(self, nursery: trio.Nursery) -> str:
        address = await self.server.listen(nursery)
        return f"http://me:hunter2@127.0.0.1:{address.port}"

    async def _handle(self, client: trio.SocketStream) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            if not (byte := await client.receive_some(1)):
                return
            head += byte
        self.asked.append(head.decode())
        await client.send_all(self._answer)
        async with await trio.open_tcp_stream("127.0.0.1", self._port) as there, trio.open_nursery() as nursery:
            nursery.start_soon(carry, client, there, nursery.cancel_scope)
            nursery.start_soon(carry, there, client, nursery.cancel_scope)


async def carry(come: trio.SocketStream, go: trio.SocketStream, scope: trio.CancelScope) -> None:
    with suppress(trio.BrokenResourceError):
        while data := await come.receive_some(65536):
            await go.send_all(data)
    scope.cancel()


@pytest.fixture
async def secure(nursery: trio.Nursery) -> Fake:
    fake = await Fake.listen(wrap=lambda stream: trio.SSLStream(stream, CONTEXT, server_side=True))
    nursery.start_soon(fake.serve)
    return fake


def settings(base_url: str, proxy: str, **more: object) -> OpenAISettings:
    given = {"base_url": base_url, "api_key": "test-key", "proxy": proxy, "retry": RetryPolicy(attempts=1)}
    return OpenAISettings.model_validate(given | more)


def proxied(fake: Fake, proxy: str) -> OpenAI:
    return OpenAI(settings(fake.base_url.replace("http:", "https:"), proxy), context=CLIENT)


async def test_https_goes_by_a_tunnel_which_alone_sees_the_password(secure: Fake, nursery: trio.Nursery) -> None:
    tunnel = Tunnel(secure)
    asked = proxied(secure, await tunnel.listen(nursery))
    assert (await ask(asked, prompt("ok-3"))).texts == words(3)
    assert tunnel.asked == [
        f"CONNECT 127.0.0.1:{secure.port} HTTP/1.1\r\nHost: 127.0.0.1:{secure.port}\r\n"
        "Proxy-Authorization: Basic bWU6aHVudGVyMg==\r\n\r\n"
    ]
    assert secure.log[0].path == "/v1/chat/completions"
    assert "proxy-authorization" not in secure.log[0].headers
    with trio.fail_after(5):
        await tunnel.server.idle.wait()


async def test_a_tunnel_is_used_again(secure: Fake, nursery: trio.Nursery) -> None:
    tunnel = Tunnel(secure)
    asked = proxied(secure, await tunnel.listen(nursery))
    await nursery.start(asked.pool.run)
    for count in (1, 2, 3):
        assert (await ask(asked, prompt(f"ok-{count}"))).texts == words(count)
    assert (len(tunnel.asked), secure.accepted) == (1, 1)


async def test_http_goes_to_the_proxy_with_its_whole_url(fake: Fake) -> None:
    """The fake stands for the proxy and for the provider behind it, whose name nobody here can resolve."""
    proxy = fake.root_url.replace("//", "//me:hunter2@")
    seen = await ask(OpenAI(settings("http://provider.example/v1", proxy)), prompt("ok-3"))
    assert seen.texts == words(3)
    record = fake.log[0]
    assert record.path == "http://provider.example/v1/chat/completions"
    assert record.headers["host"] == "provider.example"
    assert record.headers["proxy-authorization"] == "Basic bWU6aHVudGVyMg=="


async def test_what_no_proxy_has_is_reached_directly(fake: Fake) -> None:
    asked = OpenAI(settings(fake.base_url, "http://proxy.example:1", no_proxy="other, 127.0.0.1"))
    assert (await ask(asked, prompt("ok-3"))).texts == words(3)
    assert fake.log[0].path == "/v1/chat/completions"


@pytest.mark.parametrize(
    ("answer", "code", "retryable", "says"),
    [
        (b"HTTP/1.1 407 hunter2\r\nContent-Length: 7\r\n\r\nhunter2", "upstream_unavailable", False, "407"),
        (b"HTTP/1.1 403 No\r\n\r\n", "upstream_unavailable", False, "403"),
        (b"HTTP/1.1 429 No\r\n\r\n", "upstream_unavailable", True, "429"),
        (b"HTTP/1.1 502 No\r\n\r\n", "upstream_unavailable", True, "502"),
        (b"SSH-2.0-x\r\n", "upstream_unavailable", True, "does not answer as one"),
        (b"HTTP/1.1 200", "upstream_unavailable", True, "does not answer as one"),
        (b"", "upstream_unavailable", True, "does not answer as one"),
        (ESTABLISHED + b"x", "upstream_malformed", False, "into the tunnel"),
        (ESTABLISHED, "upstream_unavailable", True, "cannot connect to the provider"),
    ],
)
async def test_what_a_proxy_can_answer(
    nursery: trio.Nursery, answer: bytes, code: str, retryable: bool, says: str
) -> None:
    address = await saying(answer).listen(nursery)
    asked = OpenAI(settings("https://provider.example/v1", f"http://me:hunter2@127.0.0.1:{address.port}"))
    error = (await ask(asked, prompt("ok-3"))).error
    assert error is not None
    assert (error.code, error.retryable) == (code, retryable)
    assert says in error.message
    assert "127.0.0.1" in error.detail
    assert not {"127.0.0.1", "provider.example", str(address.port)} & set(re.split(r"[\s:/]", error.message))
    shown = [*traceback.format_exception(error), repr(asked), repr(vars(asked)), repr(vars(asked.pool))]
    assert "hunter2" not in "".join(shown)


async def test_a_proxy_of_http_that_repeats_the_password_is_not_quoted(nursery: trio.Nursery) -> None:
    body = b"hunter2 and bWU6aHVudGVyMg== are wrong"
    address = await saying(b"HTTP/1.1 407 No\r\nContent-Length: %d\r\n\r\n" % len(body) + body).listen(nursery)
    asked = OpenAI(settings("http://provider.example/v1", f"http://me:hunter2@127.0.0.1:{address.port}"))
    error = (await ask(asked, prompt("ok-3"))).error
    assert error is not None
    assert (error.code, error.retryable) == ("upstream_unavailable", False)
    assert error.message.endswith("407: [key] and [key] are wrong")


async def test_the_tunnel_is_part_of_connecting_and_has_its_limit(nursery: trio.Nursery, clock: MockClock) -> None:
    address = await saying(then=silence).listen(nursery)
    start = trio.current_time()
    proxy = f"http://127.0.0.1:{address.port}"
    error = (await ask(OpenAI(settings("https://provider.example/v1", proxy)), prompt("ok-3"))).error
    assert error is not None
    assert error.code == "upstream_timeout"
    assert trio.current_time() - start == pytest.approx(Limits().connect)


@pytest.mark.parametrize("proxy", ["socks5://me:hunter2@p", "https://hunter2@p", "http://me:hunter2@p/x"])
def test_a_bad_setting_is_refused_without_being_shown(proxy: str) -> None:
    with pytest.raises(ValidationError) as caught:
        settings("https://provider.example/v1", proxy)
    assert "hunter2" not in str(caught.value)


def test_an_empty_one_is_none_and_a_good_one_is_not_shown() -> None:
    assert settings("https://provider.example", "").proxy is None
    assert settings("https://provider.example", "").route() is None
    good = settings("https://provider.example", "http://me:hunter2@p")
    assert "hunter2" not in repr(good) + good.model_dump_json() + repr(good.route())


@pytest.mark.parametrize("stage", range(1, 17))
async def test_cancelled_at_any_checkpoint_no_socket_is_left(
    secure: Fake, nursery: trio.Nursery, stage: int
) -> None:
    tunnel = Tunnel(secure)
    proxy = Proxy(Address(False, "127.0.0.1", int((await tunnel.listen(nursery)).rpartition(":")[2]), ""))
    connection = Pool(Address(True, "127.0.0.1", secure.port, ""), CLIENT, proxy=proxy).new()
    with trio.CancelScope() as scope:
        trio.lowlevel.add_instrument(watch := CancelAt(trio.lowlevel.current_task(), stage, scope))
        try:
            with suppress(UpstreamError):
                await connection.open(5)
        finally:
            trio.lowlevel.remove_instrument(watch)
            connection.close()
    with trio.fail_after(5):
        await tunnel.server.idle.wait()
        await secure.until(lambda: secure.open == 0)
