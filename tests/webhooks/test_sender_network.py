"""The sender's protection against requests into the private network: addresses, names, ports, TLS and
proxies.
"""

import ssl

import pytest
import trio
import trustme
from trio.testing import MockClock

from server.webhooks.sender import CONNECT_SECONDS, Sender

from .receiver import Answer, Receiver
from .webhook_post import nowhere, post
from .webhook_process import NAMED_URL, PUBLIC, URL, FakeResolver


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.1", "2130706433", "0.0.0.0", "10.0.0.1", "192.168.1.1", "169.254.169.254", "[::1]"),
        *(
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[64:ff9b::7f00:1]",
            "[2002:7f00:1::]",
            "[fe80::1]",
            "[fc00::1]",
        ),
    ],
)
async def test_private_addresses_are_refused(host: str) -> None:
    """Even where `check` was not asked."""
    outcome = await post(f"http://{host}/", nowhere)
    assert (outcome.status, outcome.error) == (None, "private_address")


@pytest.mark.parametrize(
    "places",
    [
        ["127.0.0.1"],
        ["10.1.2.3"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        [PUBLIC, "127.0.0.1"],
        ["2606:4700::1", "fd00::1"],
    ],
)
async def test_names_of_private_addresses_are_refused(places: list[str]) -> None:
    """One is enough: who mixes them means harm, or does not know."""
    names = FakeResolver(hooks_example=[places])
    assert (await post(URL, nowhere)).error == "private_address"
    assert names.asked == ["hooks.example"]


async def test_localhost_is_refused() -> None:
    """As this machine's own resolver answers."""
    assert (await post("http://localhost/", nowhere)).error == "private_address"


async def test_connection_uses_the_checked_address(autojump_clock: MockClock) -> None:
    """The name leads to a public address when it is judged, and to this machine a moment later."""
    names = FakeResolver(hooks_example=[[PUBLIC], ["127.0.0.1"]])
    async with Receiver().in_memory() as receiver:
        assert (await post(NAMED_URL, receiver.connect)).delivered
        assert receiver.connected == [(PUBLIC, 8080)]
        assert names.asked == ["hooks.example"]
        assert receiver.posts[0].headers["host"] == "hooks.example:8080"
        assert (await post(NAMED_URL, receiver.connect)).error == "private_address"
    assert len(receiver.connected) == 1


async def test_real_connect_resolves_no_name() -> None:
    """Not the test's connection but trio's own, on a name that is this machine's only at first."""
    async with Receiver().listening() as receiver:
        names = FakeResolver(hooks_example=[["127.0.0.1"], ["127.0.0.2"]])
        outcome = await post(f"http://hooks.example:{receiver.port}/", allow_private=True)
        assert outcome.delivered
        assert names.asked == ["hooks.example"]


async def test_port_is_checked_at_every_try() -> None:
    """The setting may have changed since; nothing is asked for a name then."""
    names = FakeResolver(hooks_example=[[PUBLIC]])
    sender = Sender(allow_private=False, timeout=15.0, ports=(range(443, 444),), connect=nowhere)
    assert (await sender.post(NAMED_URL, {}, b"{}")).error == "port_not_allowed"
    assert names.asked == []


async def test_unknown_name() -> None:
    FakeResolver()
    assert (await post(URL, nowhere)).error == "name_not_found"


async def test_addresses_are_tried_in_turn(autojump_clock: MockClock) -> None:
    FakeResolver(hooks_example=[["8.8.8.8", "8.8.4.4", PUBLIC]])
    async with Receiver().in_memory() as receiver:

        async def connect(host: str, port: int) -> trio.abc.Stream:
            if host == "8.8.8.8":
                raise ConnectionRefusedError
            if host == "8.8.4.4":
                await trio.sleep_forever()
            return await receiver.connect(host, port)

        outcome = await post(NAMED_URL, connect)
        assert outcome.delivered
        assert outcome.ms == CONNECT_SECONDS * 1000


@pytest.fixture
def authority() -> trustme.CA:
    """The certificate authority that the sender trusts in this test."""
    return trustme.CA()


def secure(authority: trustme.CA, name: str) -> tuple[Answer, ssl.SSLContext]:
    """A receiver behind TLS with a certificate for a name; and the sender's context."""
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert(name).configure_cert(server)
    authority.configure_trust(client)
    inner = Receiver()

    async def handle(stream: trio.abc.Stream) -> None:
        await inner.handle(trio.SSLStream(stream, server, server_side=True))

    return handle, client


@pytest.mark.parametrize(
    ("name", "status", "error"), [("hooks.example", 200, None), ("other.example", None, "tls_failed")]
)
async def test_tls_checks_the_host_name(
    name: str, status: int | None, error: str | None, authority: trustme.CA
) -> None:
    """The name in the URL, though the connection goes to an address."""
    handle, context = secure(authority, name)
    FakeResolver(hooks_example=[["127.0.0.1"]])
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        outcome = await post(f"https://hooks.example:{port}/x", allow_private=True, context=context)
        nursery.cancel_scope.cancel()
    assert (outcome.status, outcome.error) == (status, error)


async def test_tls_trusts_only_the_system_authorities(authority: trustme.CA) -> None:
    handle, _ = secure(authority, "127.0.0.1")
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        outcome = await post(f"https://127.0.0.1:{port}/x", allow_private=True)
        nursery.cancel_scope.cancel()
    assert (outcome.status, outcome.error) == (None, "tls_failed")


async def test_no_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Receiver().listening() as proxy, Receiver().listening() as receiver:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        await post(f"http://127.0.0.1:{receiver.port}/", allow_private=True)
    assert proxy.posts == []
    assert len(receiver.posts) == 1
