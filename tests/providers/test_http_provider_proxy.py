"""Requests through a proxy: a tunnel for https, absolute URLs for http, refusals, and a password never shown."""

from __future__ import annotations

import re
import traceback
from contextlib import suppress

import pytest
import trio
import trustme
from pydantic import ValidationError
from trio.testing import MockClock

from server.http_client.base_url import BaseUrl
from server.http_client.connection_pool import ConnectionPool
from server.http_client.errors import HttpClientError
from server.http_client.proxy import Proxy
from server.providers import OpenAISettings, RetryPolicy, Timeouts
from server.providers.openai import OpenAI
from tests.http_client.raw_server import CancelAt, sending, tls, until_closed

from .answer_reader import prompt, read_answer
from .connect_proxy import ESTABLISHED, ConnectProxy
from .fake_provider import FakeProvider
from .fake_wire_formats import words

CONTEXT, CLIENT = tls(trustme.CA())


@pytest.fixture
async def secure(nursery: trio.Nursery) -> FakeProvider:
    fake = await FakeProvider.listen(wrap=lambda stream: trio.SSLStream(stream, CONTEXT, server_side=True))
    nursery.start_soon(fake.serve)
    return fake


def settings(base_url: str, proxy: str, **more: object) -> OpenAISettings:
    given = {"base_url": base_url, "api_key": "test-key", "proxy": proxy, "retry": RetryPolicy(attempts=1)}
    return OpenAISettings.model_validate(given | more)


def proxied(fake: FakeProvider, proxy: str) -> OpenAI:
    return OpenAI(settings(fake.base_url.replace("http:", "https:"), proxy), context=CLIENT)


async def test_https_uses_a_tunnel_and_only_the_proxy_sees_its_password(
    secure: FakeProvider, nursery: trio.Nursery
) -> None:
    tunnel = ConnectProxy(secure)
    client = proxied(secure, await tunnel.listen(nursery))
    assert (await read_answer(client, prompt("ok-3"))).texts == words(3)
    assert tunnel.requests == [
        f"CONNECT 127.0.0.1:{secure.port} HTTP/1.1\r\nHost: 127.0.0.1:{secure.port}\r\n"
        "Proxy-Authorization: Basic bWU6aHVudGVyMg==\r\n\r\n"
    ]
    assert secure.log[0].path == "/v1/chat/completions"
    assert "proxy-authorization" not in secure.log[0].headers
    with trio.fail_after(5):
        await tunnel.server.idle.wait()


async def test_tunnel_is_reused(secure: FakeProvider, nursery: trio.Nursery) -> None:
    tunnel = ConnectProxy(secure)
    client = proxied(secure, await tunnel.listen(nursery))
    await nursery.start(client.pool.run)
    for count in (1, 2, 3):
        assert (await read_answer(client, prompt(f"ok-{count}"))).texts == words(count)
    assert (len(tunnel.requests), secure.accepted) == (1, 1)


async def test_http_is_sent_to_the_proxy_with_the_absolute_url(fake: FakeProvider) -> None:
    """The fake stands for the proxy and for the provider behind it, whose name nobody here can resolve."""
    proxy = fake.root_url.replace("//", "//me:hunter2@")
    seen = await read_answer(OpenAI(settings("http://provider.example/v1", proxy)), prompt("ok-3"))
    assert seen.texts == words(3)
    record = fake.log[0]
    assert record.path == "http://provider.example/v1/chat/completions"
    assert record.headers["host"] == "provider.example"
    assert record.headers["proxy-authorization"] == "Basic bWU6aHVudGVyMg=="


async def test_hosts_in_no_proxy_are_reached_directly(fake: FakeProvider) -> None:
    client = OpenAI(settings(fake.base_url, "http://proxy.example:1", no_proxy="other, 127.0.0.1"))
    assert (await read_answer(client, prompt("ok-3"))).texts == words(3)
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
async def test_answers_of_a_proxy_to_connect(
    nursery: trio.Nursery, answer: bytes, code: str, retryable: bool, says: str
) -> None:
    address = await sending(answer).listen(nursery)
    client = OpenAI(settings("https://provider.example/v1", f"http://me:hunter2@127.0.0.1:{address.port}"))
    error = (await read_answer(client, prompt("ok-3"))).error
    assert error is not None
    assert (error.code, error.retryable) == (code, retryable)
    assert says in error.message
    assert "127.0.0.1" in error.detail
    assert not {"127.0.0.1", "provider.example", str(address.port)} & set(re.split(r"[\s:/]", error.message))
    shown = [*traceback.format_exception(error), repr(client), repr(vars(client)), repr(vars(client.pool))]
    assert "hunter2" not in "".join(shown)


async def test_password_repeated_by_the_proxy_is_redacted(nursery: trio.Nursery) -> None:
    body = b"hunter2 and bWU6aHVudGVyMg== are wrong"
    address = await sending(b"HTTP/1.1 407 No\r\nContent-Length: %d\r\n\r\n" % len(body) + body).listen(nursery)
    client = OpenAI(settings("http://provider.example/v1", f"http://me:hunter2@127.0.0.1:{address.port}"))
    error = (await read_answer(client, prompt("ok-3"))).error
    assert error is not None
    assert (error.code, error.retryable) == ("upstream_unavailable", False)
    assert error.message.endswith("407: [key] and [key] are wrong")


async def test_tunnel_counts_towards_the_connect_timeout(nursery: trio.Nursery, clock: MockClock) -> None:
    address = await sending(then=until_closed).listen(nursery)
    start = trio.current_time()
    proxy = f"http://127.0.0.1:{address.port}"
    error = (await read_answer(OpenAI(settings("https://provider.example/v1", proxy)), prompt("ok-3"))).error
    assert error is not None
    assert error.code == "upstream_timeout"
    assert trio.current_time() - start == pytest.approx(Timeouts().connect)


@pytest.mark.parametrize("proxy", ["socks5://me:hunter2@p", "https://hunter2@p", "http://me:hunter2@p/x"])
def test_bad_proxy_is_refused_without_being_shown(proxy: str) -> None:
    with pytest.raises(ValidationError) as caught:
        settings("https://provider.example/v1", proxy)
    assert "hunter2" not in str(caught.value)


def test_empty_proxy_is_none_and_a_good_one_is_not_shown() -> None:
    assert settings("https://provider.example", "").proxy is None
    assert settings("https://provider.example", "").route() is None
    good = settings("https://provider.example", "http://me:hunter2@p")
    assert "hunter2" not in repr(good) + good.model_dump_json() + repr(good.route())


@pytest.mark.parametrize("stage", range(1, 17))
async def test_cancellation_at_any_checkpoint_leaves_no_socket(
    secure: FakeProvider, nursery: trio.Nursery, stage: int
) -> None:
    tunnel = ConnectProxy(secure)
    proxy = Proxy(BaseUrl(False, "127.0.0.1", int((await tunnel.listen(nursery)).rpartition(":")[2]), ""))
    connection = ConnectionPool(BaseUrl(True, "127.0.0.1", secure.port, ""), CLIENT, proxy=proxy).new_connection()
    with trio.CancelScope() as scope:
        trio.lowlevel.add_instrument(watch := CancelAt(trio.lowlevel.current_task(), stage, scope))
        try:
            with suppress(HttpClientError):
                await connection.open(5)
        finally:
            trio.lowlevel.remove_instrument(watch)
            connection.close()
    with trio.fail_after(5):
        await tunnel.server.idle.wait()
        await secure.until(lambda: secure.open == 0)
