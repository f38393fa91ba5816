"""Which URLs a webhook may have, and which addresses are public."""

import ipaddress

import pytest

from server.webhooks.target_address import BadTargetUrl, is_private_by_name, is_public, parse_target_url

from .webhook_process import PATH_SECRET


@pytest.mark.parametrize(
    ("url", "origin", "path"),
    [
        ("https://hooks.example", "https://hooks.example", "/"),
        ("https://hooks.example/", "https://hooks.example", "/"),
        ("HTTPS://Hooks.Example/A?b=c&d", "https://hooks.example", "/A?b=c&d"),
        ("http://hooks.example:8080/a//b", "http://hooks.example:8080", "/a//b"),
        ("http://hooks.example:80?x", "http://hooks.example", "/?x"),
        ("https://hooks.example/?", "https://hooks.example", "/"),
        ("https://[2606:4700::1]:444/x", "https://[2606:4700::1]:444", "/x"),
        ("https://8.8.8.8/@x", "https://8.8.8.8", "/@x"),
        ("https://xn--bcher-kva.example/", "https://xn--bcher-kva.example", "/"),
        ("https://h.example/" + "x" * 1_982, "https://h.example", "/" + "x" * 1_982),
    ],
)
def test_valid_urls(url: str, origin: str, path: str) -> None:
    target = parse_target_url(url)
    assert (target.origin, target.path) == (origin, path)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "begin with http"),
        ("hooks.example/x", "begin with http"),
        ("ftp://hooks.example/", "begin with http"),
        ("file:///etc/passwd", "begin with http"),
        ("https://", "no valid host"),
        ("https:///x", "no valid host"),
        ("https://?x", "no valid host"),
        ("https://user@hooks.example/", "no user"),
        ("https://user:pw@hooks.example/", "no user"),
        ("https://@hooks.example/", "no user"),
        ("https://hooks.example/#part", "fragment"),
        ("https://hooks.example/#", "fragment"),
        ("https://hooks.example:0/", "host and port"),
        ("https://hooks.example:65536/", "host and port"),
        ("https://hooks.example:x/", "host and port"),
        ("https://[::1", "malformed host"),
        ("https://[::1%25lo]/", "no valid host"),
        ("https://a\\b/", "no valid host"),
        ("https://hooks .example/", "ASCII"),
        ("https://hooks.example/\r\nHost: x", "ASCII"),
        ("https://hooks.example/\t", "ASCII"),
        ("https://hooks.example/\0", "ASCII"),
        ("https://bücher.example/", "xn--"),
        ("https://h.example/" + "x" * 1_983, "2000 characters"),
    ],
)
def test_invalid_urls(url: str, why: str) -> None:
    with pytest.raises(BadTargetUrl, match=why):
        parse_target_url(url)


def test_errors_and_reprs_hold_no_path() -> None:
    for url in (f"ftp://h/{PATH_SECRET}", f"https://h/{PATH_SECRET}#", f"https://{PATH_SECRET}@h/"):
        with pytest.raises(BadTargetUrl) as caught:
            parse_target_url(url)
        assert PATH_SECRET not in str(caught.value)
    assert PATH_SECRET not in repr(parse_target_url(f"https://h/{PATH_SECRET}"))


@pytest.mark.parametrize(
    "address",
    [
        *("8.8.8.8", "93.184.216.34", "1.1.1.1", "172.15.255.255", "172.32.0.1", "100.63.255.255", "198.20.0.1"),
        *("2606:4700::1", "2a00:1450:4001::1", "::ffff:8.8.8.8", "64:ff9b::808:808"),
    ],
)
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.0.1"),
        *("169.254.169.254", "100.64.0.1", "192.0.0.1", "192.0.0.9", "192.0.2.1", "192.88.99.1", "198.18.0.1"),
        *("198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
        *(
            "::1",
            "::",
            "fe80::1",
            "fe80::1%lo",
            "2606:4700::1%lo",
            "fc00::1",
            "fd00:ec2::254",
            "fec0::1",
            "ff02::1",
        ),
        *("::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:224.0.0.1"),
        *("64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::808:808", "2002:7f00:1::", "2002:808:808::1"),
        *("2001::1", "2001:db8::1", "3fff::1", "5f00::1", "100::1", "4000::1"),
    ],
)
def test_private_addresses(address: str) -> None:
    assert not is_public(address)


CLOUDS = [
    *("168.63.129.16", "161.26.0.7", "161.26.255.254", "166.8.0.1", "166.11.255.254", "199.36.153.4"),
    *("199.36.153.11", "192.80.8.124", "169.254.169.254", "169.254.170.2", "169.254.42.42", "100.100.100.200"),
    *("192.0.0.192", "fd00:ec2::254", "fd20:ce::254", "fe80::a9fe:a9fe"),
]


@pytest.mark.parametrize("address", CLOUDS)
def test_cloud_metadata_addresses_are_private(address: str) -> None:
    """Metadata, wire servers and private endpoints, also where their range is a public network's.

    In every notation.
    """
    assert not is_public(address)
    assert is_private_by_name(address)
    if ":" not in address:
        number = ipaddress.IPv4Address(address)
        assert not is_public(f"::ffff:{address}")
        assert not is_public(f"64:ff9b::{address}")
        assert is_private_by_name(str(int(number)))
        assert is_private_by_name(hex(int(number)))


@pytest.mark.parametrize(
    "address", ["168.63.129.15", "168.63.129.17", "161.25.255.255", "166.12.0.1", "199.36.153.12"]
)
def test_neighbours_of_cloud_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    ("host", "private"),
    [
        *((one, True) for one in ("localhost", "localhost.", "a.localhost", "127.0.0.1", "127.0.0.1.", "::1")),
        *((one, True) for one in ("127.1", "0x7f000001", "2130706433", "017700000001", "0", "10.1", "0xa9fea9fe")),
        *((one, False) for one in ("hooks.example", "8.8.8.8", "134744072", "2606:4700::1", "localhost.example")),
        *((one, False) for one in ("127.0.0.1.example", "10.example", "1.2.3.4.5")),
    ],
)
def test_hosts_private_by_name(host: str, private: bool) -> None:
    """Also the old notations of an address, which a resolver understands."""
    assert is_private_by_name(host) is private
