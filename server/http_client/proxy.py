"""Which proxy a base URL is reached through, if any.

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

from .base_url import BaseUrl, parse_base_url

__all__ = ["Proxy", "ProxyChoice", "choose_proxy", "encode_connect", "is_excluded", "parse_proxy_url"]


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where a proxy is, and the value of its `Proxy-Authorization` (empty: none).

    `secrets`: strings that the proxy may repeat in its errors, and that must never be shown.
    """

    url: BaseUrl
    authorization: str = field(default="", repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """The headers that every request to the proxy carries."""
        return {"Proxy-Authorization": self.authorization} if self.authorization else {}


@dataclass(frozen=True, slots=True)
class ProxyChoice:
    """The proxy's URL for one base URL, None for a direct connection.

    `why`: the environment variable or the rule that decided, for people.
    """

    proxy: str | None = field(repr=False)
    why: str


def choose_proxy(env: Mapping[str, str], url: str) -> ProxyChoice:
    """The proxy that the environment names for a base URL. Raises ValueError if `url` is no base URL.

    A lower-case variable wins over an upper-case one, and an empty variable counts as unset. HTTP_PROXY in upper
    case is ignored under CGI, where a client can set it by a header (CVE-2016-5385). This machine itself is never
    reached through a proxy from the environment.
    """
    target = parse_base_url(url)
    scheme = "https" if target.secure else "http"
    if _is_loopback(target.host):
        return ProxyChoice(None, "this machine itself")
    for name in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY"):
        proxy = env.get(name, "").strip()
        if not proxy or (name == "HTTP_PROXY" and "REQUEST_METHOD" in env):
            continue
        if is_excluded(target, env.get("no_proxy") or env.get("NO_PROXY", "")):
            return ProxyChoice(None, "NO_PROXY")
        return ProxyChoice(proxy, name)
    return ProxyChoice(None, "none is named")


def is_excluded(url: BaseUrl, no_proxy: str) -> bool:
    """Whether a list in the format of NO_PROXY covers the URL, so that it is reached without a proxy.

    Entries are separated by commas or blanks. `*` covers every host. A name covers itself and all names below it;
    a leading `.` or `*.` changes nothing. An IP literal covers that address, a network (`10.0.0.0/8`) all its
    addresses. Any entry but a network may end in a port, and then covers only that port.
    """
    return any(_covers(entry.lower(), url) for entry in no_proxy.replace(",", " ").split())


def _covers(entry: str, url: BaseUrl) -> bool:
    if entry == "*":
        return True
    if "/" in entry:
        return _in_network(url.host, entry)
    name, port = _split_port(entry)
    if port and port != str(url.port):
        return False
    host, ip = url.host.rstrip("."), _ip(url.host)
    if ip is not None:
        return _ip(name) == ip
    name = name.removeprefix("*").lstrip(".").rstrip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _split_port(entry: str) -> tuple[str, str]:
    """Splits `host:1`, `[::1]:1`, `[::1]` and the bare `::1` into name and port; the port may be empty."""
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
    """Parses `http://user:password@host:3128`; without a scheme it is http.

    Raises ValueError, which does not repeat the URL.
    """
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        user, at, host_and_port = parts.netloc.rpartition("@")
        proxy_url = parse_base_url(urlunsplit(parts._replace(netloc=host_and_port)))
    except ValueError:
        raise ValueError("the proxy's URL must look like http://user:password@host:port") from None
    if proxy_url.secure or proxy_url.prefix:
        raise ValueError("the proxy's URL must begin with http:// and have no path")
    name, _, password = user.partition(":")
    if not at:
        return Proxy(proxy_url)
    encoded = b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()
    secrets = (encoded, unquote(password), password)
    return Proxy(proxy_url, f"Basic {encoded}", tuple(secret for secret in secrets if secret))


def encode_connect(url: BaseUrl, proxy: Proxy) -> bytes:
    """Encodes the request for a tunnel to the URL's host. It always names the port: CONNECT has no scheme."""
    host = f"[{url.host}]" if ":" in url.host else url.host
    target = f"{host}:{url.port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}", *(f"{k}: {v}" for k, v in proxy.headers.items())]
    return "\r\n".join((*lines, "", "")).encode("ascii")
