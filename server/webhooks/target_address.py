"""Where a webhook may go: its URL, parsed, which ports it may name, and which network addresses are public. Pure.

A client chooses the URL, and the POST comes from inside the operator's network (server-side request forgery): so
addresses that are not public are refused. The URL may hold a secret, as those of most chat services do: no error
here repeats it.
"""

import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from server.http_client.base_url import BaseUrl, parse_base_url

MAX_URL = 2_000
USUAL_PORTS = (range(80, 81), range(443, 444), range(8080, 8081), range(8443, 8444))
"""The ports of public receivers. On other ports (25, 6379 …) another protocol may take a POST for its commands."""
ANY_PORT = (range(1, 65_536),)

_NOT_V4 = tuple(map(ipaddress.IPv4Network, ("192.0.0.0/24", "192.88.99.0/24")))
_CLOUD_V4 = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "168.63.129.16/32",  # Azure's WireServer, DNS and health probes, from inside of every virtual machine
            "161.26.0.0/16",  # IBM Cloud's service network
            "166.8.0.0/14",  # IBM Cloud's private endpoints of its services
            "199.36.153.4/30",  # restricted.googleapis.com
            "199.36.153.8/30",  # private.googleapis.com
            "192.80.8.124/32",  # Equinix Metal's metadata
        ),
    )
)
"""Addresses that look public, but inside a cloud are answered by the cloud itself.

The metadata addresses of other clouds are in private ranges: 169.254.169.254, 169.254.170.2 (AWS
containers), fd00:ec2::254, fd20:ce::254 (Google), 100.100.100.200 (Alibaba), 192.0.0.192 (Oracle).
"""
_UNICAST_V6 = ipaddress.IPv6Network("2000::/3")
# Inside 2000::/3, but not public: tunnels to any IPv4 address (6to4, Teredo), documentation (RFC 9637).
_NOT_V6 = tuple(map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address


class BadTargetUrl(ValueError):
    """The URL cannot be a webhook's; the client is to blame. The text continues "The webhook's URL …"."""


@dataclass(frozen=True, slots=True)
class TargetUrl:
    """A webhook's URL: scheme, host and port in `address`; the path with its query in `path`."""

    address: BaseUrl
    path: str = field(repr=False)

    @property
    def origin(self) -> str:
        """The part of the URL that may be shown: scheme, host, and the port if it is not the scheme's default."""
        return f"{'https' if self.address.secure else 'http'}://{self.address.authority}"


def parse_target_url(url: str) -> TargetUrl:
    """Parses a webhook's URL. Raises `BadTargetUrl`."""
    if len(url) > MAX_URL:
        raise BadTargetUrl(f"is longer than {MAX_URL} characters")
    if not url.isascii() or not url.isprintable() or " " in url:
        # A line break would end the request line early (request splitting).
        raise BadTargetUrl("may hold printable ASCII without spaces only (write other names as xn--…)")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise BadTargetUrl("has a malformed host") from None
    if parts.scheme not in ("http", "https"):
        raise BadTargetUrl("has to begin with http:// or https://")
    if "@" in parts.netloc:
        raise BadTargetUrl("must hold no user and no password: the receiver knows us by the signature")
    if "#" in url:
        raise BadTargetUrl("must hold no fragment")
    try:
        address = parse_base_url(f"{parts.scheme}://{parts.netloc}")
    except ValueError:
        raise BadTargetUrl("names no valid host and port") from None
    query = f"?{parts.query}" if parts.query else ""
    return TargetUrl(address, (parts.path or "/") + query)


def is_private_by_name(host: str) -> bool:
    """Whether the host is written as an address that is not public, or as localhost. Makes no DNS query."""
    name = host.rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761 section 6.3
        return True
    try:
        return not is_public(name)
    except ValueError:
        pass
    try:
        return not is_public(str(ipaddress.IPv4Address(socket.inet_aton(name))))  # 127.1, 0x7f000001, 2130706433
    except OSError:
        return False


def is_public(address: str) -> bool:
    """Whether an IP address is public; of an IPv6 address that embeds an IPv4 address, whether that one is.

    Raises `ValueError` where the text is no IP address.
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.scope_id is not None:
            return False
        if ip.ipv4_mapped is not None:
            return _is_public_v4(ip.ipv4_mapped)
        if ip in _NAT64:
            return _is_public_v4(ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF))
        return ip in _UNICAST_V6 and ip.is_global and not any(ip in network for network in _NOT_V6)
    return _is_public_v4(ip)


def _is_public_v4(ip: ipaddress.IPv4Address) -> bool:
    # `is_global` is true for multicast addresses, too.
    plain = ip.is_global and not ip.is_multicast and not ip.is_reserved
    return plain and not any(ip in network for network in (*_NOT_V4, *_CLOUD_V4))


def parse_ports(texts: Iterable[str]) -> tuple[range, ...]:
    """Ranges of ports from texts such as `443` and `8000-8999`. The settings have checked their form."""
    bounds = (text.partition("-") for text in texts)
    return tuple(range(int(first), int(last or first) + 1) for first, _, last in bounds)
