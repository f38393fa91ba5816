"""Who may call: the Host the client named and, from a browser, the Origin of the page.

Before there are keys, this is what keeps a web page on another site from posting to a server on this machine,
by itself (Origin) or through a name that it points at 127.0.0.1 (Host: DNS rebinding).
"""

import ipaddress
import re
from collections.abc import Iterable
from contextlib import suppress
from urllib.parse import urlsplit

from quart import Request, Websocket

from server.errors import Problem

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Guard:
    """The names this server answers to, and the origins that may post."""

    def __init__(self, bind_host: str, hosts: Iterable[str], origins: Iterable[str]) -> None:
        self._hosts = {_normal(host) for host in (*LOOPBACK, bind_host, *hosts)}
        self._origins = {origin.rstrip("/").lower() for origin in origins}

    def check(self, request: Request | Websocket) -> None:
        """Raises `Problem` 403 `host_not_allowed` or `origin_not_allowed`."""
        host = request.headers.get("Host", "")
        if _name(host) not in self._hosts:
            raise Problem(
                403,
                "host_not_allowed",
                f"This server does not answer to the name {host[:100]!a}. Add it to TOKENTAPE_ALLOWED_HOSTS.",
            )
        if isinstance(request, Websocket) or request.method not in ("GET", "HEAD", "OPTIONS"):
            secure = request.scheme in ("https", "wss")
            self._check_origin(request.headers.get("Origin"), host, secure)

    def _check_origin(self, origin: str | None, host: str, secure: bool) -> None:
        if origin is None or origin.lower() in self._origins:
            return
        with suppress(ValueError):  # a malformed origin is nobody's
            page = urlsplit(origin)
            # Where we speak TLS, a page without it is no page of ours: anybody on its way could have written it.
            # The other way round a proxy may have taken the TLS off.
            if page.netloc.lower() == host.lower() and not (secure and page.scheme.lower() != "https"):
                return
        raise Problem(
            403,
            "origin_not_allowed",
            f"Pages of {origin[:100]!a} may not post here. Add the origin to TOKENTAPE_ALLOWED_ORIGINS.",
        )


_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\s\[\]:@/?#\\,]+)(:[0-9]{0,5})?", re.IGNORECASE)


def _name(host: str) -> str | None:
    """The name in a Host header, without its port; None where there is none or it is dressed up.

    The whole header has to be one (RFC 9110 section 7.2): parsers of addresses would find `::1` in
    `[::1]evil.example`.
    """
    found = _HOST.fullmatch(host)
    return None if found is None else _normal(found[1])


def _normal(name: str) -> str:
    """One spelling for each name: addresses as they are written shortest, names in small letters."""
    name = name.strip("[]").lower()
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name.rstrip(".")
