"""A base URL taken apart, once, when the settings are read.

Owns what a base URL may be (RFC 3986 section 3, RFC 9110 section 4.2): http or https, a host name or IP literal,
optionally a port, a path prefix (`http://127.0.0.1:1234/v1`) and Azure's `?api-version=…`. Pure: must not know
sockets. Its errors never repeat the URL, because people put passwords there.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

__all__ = ["BaseUrl", "parse_base_url"]

_DEFAULT_PORTS = {"http": 80, "https": 443}
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"  # RFC 1123 section 2.1, and the underscore of compose files
_QUERY = re.compile(r"api-version=[A-Za-z0-9.-]{1,40}")
_HOST_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")


@dataclass(frozen=True, slots=True)
class BaseUrl:
    """Where to connect to, and what every request's path begins with.

    `host` is lower case and without brackets. `prefix` has no slash at its end. `query` is appended to every
    path; it has no `?` and is mostly empty.
    """

    secure: bool
    host: str
    port: int
    prefix: str
    query: str = ""

    @property
    def authority(self) -> str:
        """The `Host` header's value (RFC 9110 section 7.2): without the port where it is the scheme's default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = _DEFAULT_PORTS["https" if self.secure else "http"]
        return host if self.port == default else f"{host}:{self.port}"


def parse_base_url(url: str) -> BaseUrl:
    """Parses a base URL. Raises ValueError, which says what is wrong with it; the operator is to blame."""
    if not url.isascii() or not url.isprintable() or " " in url:
        # urlsplit silently drops tabs and line ends, and a raw line end would end the request line early.
        raise ValueError("the base URL may hold printable ASCII without spaces only (write other names as xn--…)")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("the base URL has a malformed host or port") from None
    if parts.scheme not in _DEFAULT_PORTS:
        raise ValueError("the base URL must begin with http:// or https://")
    if "@" in parts.netloc:
        raise ValueError("the base URL must hold no user or password; the key has a setting of its own")
    if "#" in url:
        raise ValueError("the base URL must hold no fragment")
    if ("?" in url or parts.query) and not _QUERY.fullmatch(parts.query):
        # People put keys into the query, and every proxy writes the query into its log.
        raise ValueError("the base URL must hold no query but ?api-version=2024-10-21 or the like")
    if port == 0:
        raise ValueError("the base URL's port must be 1 to 65535")
    host = parts.hostname or ""
    if not _is_host(host):
        raise ValueError("the base URL names no valid host")
    if port is None:
        port = _DEFAULT_PORTS[parts.scheme]
    return BaseUrl(parts.scheme == "https", host, port, parts.path.rstrip("/"), parts.query)


def _is_host(host: str) -> bool:
    if ":" in host:
        try:
            return "%" not in host and bool(ipaddress.IPv6Address(host))  # a Host header cannot hold an IPv6 zone
        except ValueError:
            return False
    return _HOST_NAME.fullmatch(host) is not None and len(host) <= 253
