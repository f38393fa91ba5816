"""Where a request comes from: the client's address and scheme, also behind proxies that the operator trusts.

Headers that a proxy adds count only on connections from `TOKENTAPE_TRUSTED_PROXIES`: anybody else may send any
text in them. Must not know what the answers are used for.
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
RawHeaders = Iterable[tuple[bytes, bytes]]

FORWARDING = frozenset(
    (
        *(b"forwarded", b"via", b"x-real-ip", b"x-client-ip", b"x-cluster-client-ip"),
        *(b"cf-connecting-ip", b"true-client-ip"),
    )
)
"""Headers that proxies add, besides all that begin with `X-Forwarded-`: a proxy may be set up to add only the
scheme. A client may add them too, and is then trusted less."""
_PROTO = re.compile(r"""(?:^|[;,])\s*proto="?(https?)"?\s*(?:[;,]|$)""", re.IGNORECASE)


class ClientAddresses:
    """Tells the addresses of clients. `trusted`: the networks of proxies whose headers count."""

    def __init__(self, trusted: Iterable[Network] = ()) -> None:
        self._trusted: Sequence[Network] = tuple(trusted)

    def address(self, scope: Mapping[str, Any]) -> str:
        """The client's address.

        Through trusted proxies it is the last one in `X-Forwarded-For` that is not itself a trusted proxy: what
        stands in front of that, the client may have written.
        """
        peer = _peer(scope)
        if not self._is_trusted(peer):
            return peer
        address = peer
        for hop in reversed(header_list(scope["headers"], b"x-forwarded-for")):
            address = _without_port(hop)
            if not self._is_trusted(address):
                break
        return address

    def is_secure(self, scope: Mapping[str, Any]) -> bool:
        """Whether the client came by TLS, to this server or to a trusted proxy."""
        if scope["scheme"] in ("https", "wss"):
            return True
        if not self._is_trusted(_peer(scope)):
            return False
        # The last line is the nearest proxy's own.
        if protos := header_list(scope["headers"], b"x-forwarded-proto"):
            return protos[-1].lower() == "https"
        forwarded = _PROTO.findall(",".join(header_list(scope["headers"], b"forwarded")))
        return bool(forwarded) and forwarded[-1].lower() == "https"

    def _is_trusted(self, address: str) -> bool:
        parsed = _parse(address)
        return parsed is not None and any(parsed in network for network in self._trusted)


def is_local(scope: Mapping[str, Any]) -> bool:
    """Whether the request was made on this machine, and no proxy passed it on."""
    parsed = _parse(_peer(scope))
    return parsed is not None and parsed.is_loopback and not is_forwarded(scope)


def is_forwarded(scope: Mapping[str, Any]) -> bool:
    """Whether a proxy says that it passed the request on, be it trusted or not."""
    return any(name in FORWARDING or name.startswith(b"x-forwarded-") for name, _ in scope["headers"])


def header_list(headers: RawHeaders, name: bytes) -> list[str]:
    """The elements of a header that is a list, from all its lines (RFC 9110 section 5.6.1)."""
    lines = [value.decode("latin-1") for key, value in headers if key == name]
    return [part for line in lines for one in line.split(",") if (part := one.strip())]


def _peer(scope: Mapping[str, Any]) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


def _without_port(hop: str) -> str:
    """An address of `X-Forwarded-For`: some proxies write a port behind it, and brackets around IPv6."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    host, colon, _ = hop.rpartition(":")
    return host if colon and ":" not in host else hop


def _parse(address: str) -> Address | None:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    mapped = getattr(parsed, "ipv4_mapped", None)
    return parsed if mapped is None else mapped
