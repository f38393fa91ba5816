"""Where a request comes from, as its connection and the proxies in front say."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from server.web.edge.client_address import ClientAddresses, is_forwarded, is_local


def scope(peer: str, **headers: str) -> dict[str, Any]:
    """An ASGI scope, as far as it says where a request came from."""
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"client": (peer, 1), "headers": raw, "scheme": "http"}


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("192.0.2.1", None, "192.0.2.1"),
        ("192.0.2.1", "198.51.100.1", "192.0.2.1"),
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "203.0.113.9, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "203.0.113.9, 198.51.100.1, 10.0.0.2", "198.51.100.1"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "198.51.100.1:4711", "198.51.100.1"),
        ("10.0.0.1", "[2001:db8::1]:4711", "2001:db8::1"),
        ("10.0.0.1", "2001:db8::1", "2001:db8::1"),
        ("10.0.0.1", "unknown", "unknown"),
        ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("", "198.51.100.1", ""),
    ],
)
def test_the_address_of_a_client(peer: str, forwarded: str | None, address: str) -> None:
    """The last one that no trusted proxy is: what stands in front of it, the client may have written."""
    addresses = ClientAddresses([ipaddress.ip_network("10.0.0.0/8")])
    asked = scope(peer) if forwarded is None else scope(peer, x_forwarded_for=forwarded)
    assert addresses.address(asked) == address


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "127.8.8.8"])
@pytest.mark.parametrize(
    "header",
    [
        *("x_forwarded_for", "x_real_ip", "forwarded", "via", "x_forwarded_host"),
        *("x_forwarded_proto", "x_forwarded_port", "x_forwarded_server", "x_forwarded_prefix"),
        *("cf_connecting_ip", "true_client_ip", "x_client_ip", "x_cluster_client_ip"),
    ],
)
def test_who_is_on_this_machine(peer: str, header: str) -> None:
    """Nobody whom a proxy on this machine passes on."""
    assert is_local(scope(peer))
    assert not is_local(scope(peer, **{header: "x"}))
    assert is_forwarded(scope(peer, **{header: "x"}))
    assert not is_local(scope("192.0.2.1"))
    assert not is_local(scope(""))
