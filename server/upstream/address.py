"""Where a provider is: a base URL taken apart, once, when the settings are read.

Owns what a base URL may be (RFC 3986 section 3, RFC 9110 section 4.2): http or https, a host name or IP literal,
maybe a port, a path prefix (`http://127.0.0.1:1234/v1`), and Azure's `?api-version=…`. Pure: must not know sockets
or providers. Its errors never repeat the URL, for people put passwords there.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

__all__ = ["Address", "parse_base_url"]

_PORTS = {"http": 80, "https": 443}
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"  # RFC 1123 section 2.1, and the underscore of compose files
_QUERY = re.compile(r"api-version=[A-Za-z0-9.-]{1,40}")
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to connect to, and what comes before every path; `host` is bare (no brackets), lower case.

    `query` goes behind every path, without its `?`; empty: none.
    """

    secure: bool
    host: str
    port: int
    prefix: str
    query: str = ""

    @property
    def authority(self) -> str:
        """The `Host` header's value (RFC 9110 section 7.2): the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS["https" if self.secure else "http"] else f"{host}:{self.port}"


def parse_base_url(url: str) -> Address:
    """The address in a base URL. Raises ValueError (the operator's fault) that says what is wrong with it."""
    if not url.isascii() or not url.isprintable() or " " in url:
        # urlsplit drops tabs and line ends without a word, and a raw one would end the request line early.
        raise ValueError("the base URL may hold printable ASCII without spaces only (write other names as xn--…)")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("the base URL has a malformed host or port") from None
    if parts.scheme not in _PORTS:
        raise ValueError("the base URL must begin with http:// or https://")
    if "@" in parts.netloc:
        raise ValueError("the base URL must hold no user or password; the key has a setting of its own")
    if "#" in url:
        raise ValueError("the base URL must hold no fragment")
    if ("?" in url or parts.query) and not _QUERY.fullmatch(parts.query):
        # Nothing else: people put keys there, and a query is written into every proxy's log.
        raise ValueError("the base URL must hold no query but ?api-version=2024-10-21 or the like")
    if port == 0:
        raise ValueError("the base URL's port must be 1 to 65535")
    host = parts.hostname or ""
    if not _is_host(host):
        raise ValueError("the base URL names no valid host")
    return Address(
        parts.scheme == "https", host, port or _PORTS[parts.scheme], parts.path.rstrip("/"), parts.query
    )


def _is_host(host: str) -> bool:
    if ":" in host:
        try:
            return "%" not in host and bool(ipaddress.IPv6Address(host))  # a zone has no place in a Host header
        except ValueError:
            return False
    return _NAME.fullmatch(host) is not None and len(host) <= 253
