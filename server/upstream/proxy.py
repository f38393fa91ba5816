"""Which proxy a provider is reached through, if any.

Owns the conventions of HTTPS_PROXY, HTTP_PROXY and NO_PROXY as curl and Python read them, what a proxy's URL may
be, and the request for a tunnel (RFC 9110 section 9.3.6). Pure: the environment is an argument. A proxy's URL may
hold a password: no error and no repr here shows it.
"""

from __future__ import annotations

import ipaddress
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit, urlunsplit

from .address import Address, parse_base_url

__all__ = ["Proxy", "ProxyChoice", "encode_connect", "is_excluded", "parse_proxy_url", "proxies_from"]


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where a proxy is, and the value of its `Proxy-Authorization` (empty: none)."""

    address: Address
    authorization: str = field(default="", repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)  # what a proxy might repeat, never to be shown

    @property
    def headers(self) -> dict[str, str]:
        """What the proxy wants to see of each request to it."""
        return {"Proxy-Authorization": self.authorization} if self.authorization else {}


@dataclass(frozen=True, slots=True)
class ProxyChoice:
    """The proxy's URL for one target, None to go there directly; `why`: the variable or rule that says so."""

    proxy: str | None = field(repr=False)
    why: str


def proxies_from(env: Mapping[str, str], url: str) -> ProxyChoice:
    """The proxy that the environment names for a base URL. Raises ValueError if that is no base URL.

    Lower case wins over upper case, and an empty variable counts as unset. HTTP_PROXY in upper case is ignored
    under CGI, where a client sets it by a header (CVE-2016-5385). This machine itself is never reached through a
    proxy from the environment.
    """
    address = parse_base_url(url)
    scheme = "https" if address.secure else "http"
    if _is_loopback(address.host):
        return ProxyChoice(None, "this machine itself")
    for name in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY"):
        proxy = env.get(name, "").strip()
        if not proxy or (name == "HTTP_PROXY" and "REQUEST_METHOD" in env):
            continue
        if is_excluded(address, env.get("no_proxy") or env.get("NO_PROXY", "")):
            return ProxyChoice(None, "NO_PROXY")
        return ProxyChoice(proxy, name)
    return ProxyChoice(None, "none is named")


def is_excluded(address: Address, no_proxy: str) -> bool:
    """Whether a list like NO_PROXY has the address: names cover what is below them, `*` covers everything.

    Entries, apart by commas or blanks: a name (a leading `.` or `*.` changes nothing), an IP literal, a network
    (`10.0.0.0/8`); any but a network may end in a port, and then holds for that port alone.
    """
    return any(_covers(entry.lower(), address) for entry in no_proxy.replace(",", " ").split())


def _covers(entry: str, address: Address) -> bool:
    if entry == "*":
        return True
    if "/" in entry:
        return _in_network(address.host, entry)
    name, port = _split_port(entry)
    if port and port != str(address.port):
        return False
    host, ip = address.host.rstrip("."), _ip(address.host)
    if ip is not None:
        return _ip(name) == ip
    name = name.removeprefix("*").lstrip(".").rstrip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _split_port(entry: str) -> tuple[str, str]:
    """`host:1`, `[::1]:1`, `[::1]` and the bare `::1` into name and port."""
    if entry.startswith("["):
        name, _, rest = entry[1:].partition("]")
        return name, rest.removeprefix(":")
    name, colon, port = entry.rpartition(":")
    return (entry, "") if not colon or ":" in name else (name, port)


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _in_network(host: str, network: str) -> bool:
    ip = _ip(host)
    try:
        return ip is not None and ip in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    ip, name = _ip(host), host.rstrip(".")
    return name == "localhost" or name.endswith(".localhost") or (ip is not None and ip.is_loopback)


def parse_proxy_url(url: str) -> Proxy:
    """The proxy in a URL (`http://user:password@host:3128`; http if it names no scheme). Raises ValueError."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        user, at, place = parts.netloc.rpartition("@")
        address = parse_base_url(urlunsplit(parts._replace(netloc=place)))
    except ValueError:
        raise ValueError("the proxy's URL must look like http://user:password@host:port") from None
    if address.secure or address.prefix:
        raise ValueError("the proxy's URL must begin with http:// and have no path")
    name, _, password = user.partition(":")
    if not at:
        return Proxy(address)
    encoded = b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()
    secrets = (encoded, unquote(password), password)
    return Proxy(address, f"Basic {encoded}", tuple(secret for secret in secrets if secret))


def encode_connect(address: Address, proxy: Proxy) -> bytes:
    """The request for a tunnel to the address; with the port always, for it has no scheme to take one from."""
    host = f"[{address.host}]" if ":" in address.host else address.host
    place = f"{host}:{address.port}"
    lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}", *(f"{k}: {v}" for k, v in proxy.headers.items())]
    return "\r\n".join((*lines, "", "")).encode("ascii")
