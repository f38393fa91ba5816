"""Where a webhook goes: a URL taken apart, and which addresses of the network it may lead to. Pure.

A client names the URL, and the POST comes from inside the operator's network: what is not public is refused.
The URL may hold a secret (most chat services' do), so no error here repeats it.
"""

import ipaddress
import socket
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from server.upstream.address import Address, parse_base_url

MOST_URL = 2_000

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
"""Public by their number, but answered by the cloud that the server stands in: what is behind them is not public.

The metadata addresses of the other clouds are private by their number: 169.254.169.254, 169.254.170.2 (AWS
containers), fd00:ec2::254, fd20:ce::254 (Google), 100.100.100.200 (Alibaba), 192.0.0.192 (Oracle).
"""
_UNICAST_V6 = ipaddress.IPv6Network("2000::/3")
# In it, but tunnels to any IPv4 address at all (6to4, Teredo), and what is for documents only (RFC 9637).
_NOT_V6 = tuple(map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address


class BadTarget(ValueError):
    """The URL cannot be a webhook's; the client is to blame. The text goes on behind "The webhook's URL"."""


@dataclass(frozen=True, slots=True)
class Target:
    """`address` is where, `path` what is asked for there, with its query."""

    address: Address
    path: str = field(repr=False)

    @property
    def origin(self) -> str:
        """What of the URL may be shown: scheme, host, and the port where it is not the scheme's own."""
        return f"{'https' if self.address.secure else 'http'}://{self.address.authority}"


def parse_target(url: str) -> Target:
    """The target in a webhook's URL. Raises `BadTarget`."""
    if len(url) > MOST_URL:
        raise BadTarget(f"is longer than {MOST_URL} characters")
    if not url.isascii() or not url.isprintable() or " " in url:
        # A line end would end the request's first line early.
        raise BadTarget("may hold printable ASCII without spaces only (write other names as xn--…)")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise BadTarget("has a malformed host") from None
    if parts.scheme not in ("http", "https"):
        raise BadTarget("has to begin with http:// or https://")
    if "@" in parts.netloc:
        raise BadTarget("must hold no user and no password: the receiver knows us by the signature")
    if "#" in url:
        raise BadTarget("must hold no fragment")
    try:
        address = parse_base_url(f"{parts.scheme}://{parts.netloc}")
    except ValueError:
        raise BadTarget("names no valid host and port") from None
    query = f"?{parts.query}" if parts.query else ""
    return Target(address, (parts.path or "/") + query)


def is_private_by_name(host: str) -> bool:
    """Whether the host, as it is written, is an address that is not public, or this machine. Asks nobody."""
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
    """Whether an IP address is one of the public network's, by itself and by the IPv4 address that it may carry.

    Raises ValueError where it is no address.
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
    # is_global says yes to multicast.
    plain = ip.is_global and not ip.is_multicast and not ip.is_reserved
    return plain and not any(ip in network for network in (*_NOT_V4, *_CLOUD_V4))
