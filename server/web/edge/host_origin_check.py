"""Who may call: the check of the `Host` header and, for browsers, of the `Origin` header.

As long as there are no API keys, this check alone keeps a web page of another site from posting to a server on the
visitor's machine: directly (Origin), or through a host name that the page's owner points at 127.0.0.1 (Host: DNS
rebinding). Every address is guarded but the three that probes and scrapers call under any name; a new route is
guarded without further code. Works on header values and must not know any framework.
"""

import ipaddress
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from urllib.parse import urlsplit

from server.observability import logs
from server.problem import Problem

log = logs.get("web")

LOOPBACK = ("localhost", "127.0.0.1", "::1")
UNGUARDED = frozenset({"/healthz", "/readyz", "/metrics"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
LOGGED_SECONDS, MOST_LOGGED = 3_600.0, 100
"""A refused origin is logged once in so many seconds, and at most so many of them: anybody can send any text."""


class HostOriginCheck:
    """The host names that this server answers to, and the origins whose pages may post.

    `bind_host` and `hosts` are names without a port, besides those of loopback. `origins` are those of pages from
    other servers; a page that came from the host it calls is always allowed. `clock` is in seconds.
    """

    def __init__(
        self,
        bind_host: str,
        hosts: Iterable[str],
        origins: Iterable[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hosts = {_normalized(host) for host in (*LOOPBACK, bind_host, *hosts)}
        self._origins = {origin.rstrip("/").lower() for origin in origins}
        self._clock = clock
        self._logged: dict[str, float] = {}
        self._accepted: set[str] = set()

    def check_request(self, method: str, path: str, host: str, origin: str | None, *, secure: bool) -> None:
        """Checks a request by its headers. `secure`: it came by TLS. Raises as `check_host` and `check_origin`.

        A GET, HEAD or OPTIONS of a foreign page is served: without CORS headers its browser withholds the response
        from the page. It is logged, because the page's author is shown no reason.
        """
        if path in UNGUARDED or path.rstrip("/") in UNGUARDED:
            return
        self.check_host(host)
        if origin is None:
            return
        if method not in SAFE_METHODS:
            self.check_origin(origin, host, secure=secure)
        elif not self.is_ours(origin, host, secure=secure):
            self._log(origin)

    def check_upgrade(self, host: str, origin: str | None, *, secure: bool) -> None:
        """Checks an upgrade to a WebSocket: a GET, but one that browsers let any page send, and read.

        Raises as `check_host` and `check_origin`.
        """
        self.check_host(host)
        self.check_origin(origin, host, secure=secure)

    def check_host(self, host: str) -> None:
        """Raises `Problem` 421 `host_not_allowed` (RFC 9110 section 15.5.20) for a name that is none of ours."""
        if host in self._accepted:  # accepted before, in this spelling
            return
        if _host_name(host) not in self._hosts:
            raise Problem(
                421,
                "host_not_allowed",
                f"This server does not answer to the name {host[:100]!a}. Add it to TOKENTAPE_ALLOWED_HOSTS.",
            )
        if len(self._accepted) < MOST_LOGGED:
            self._accepted.add(host)

    def check_origin(self, origin: str | None, host: str, *, secure: bool) -> None:
        """Raises `Problem` 403 `origin_not_allowed` for a foreign page; `origin` is None for programs."""
        if origin is None or self.is_ours(origin, host, secure=secure):
            return
        self._log(origin)
        raise Problem(
            403,
            "origin_not_allowed",
            f"Pages of {origin[:100]!a} may not post here. Add the origin to TOKENTAPE_ALLOWED_ORIGINS.",
        )

    def is_ours(self, origin: str, host: str, *, secure: bool) -> bool:
        """Whether it is an allowed origin, or that of the host the client called."""
        if origin.lower() in self._origins:
            return True
        with suppress(ValueError):  # a malformed origin is not allowed
            page = urlsplit(origin)
            # A server with TLS accepts no page that came without it: anybody on the network path could have
            # written that page. A server without TLS accepts https pages: a proxy in front may have ended the TLS.
            return page.netloc.lower() == host.lower() and not (secure and page.scheme.lower() != "https")
        return False

    def _log(self, origin: str) -> None:
        # The browser shows the page's author only the word "CORS": this log line alone names the remedy.
        now = self._clock()
        shown = ascii(origin[:100])
        if now - self._logged.get(shown, -LOGGED_SECONDS) < LOGGED_SECONDS:
            return
        if len(self._logged) >= MOST_LOGGED:
            self._logged = {one: at for one, at in self._logged.items() if now - at < LOGGED_SECONDS}
            if len(self._logged) >= MOST_LOGGED:
                return
        self._logged[shown] = now
        log.warning(
            "page of a foreign origin refused", origin=shown, allow_it="add it to TOKENTAPE_ALLOWED_ORIGINS"
        )


_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\s\[\]:@/?#\\,]+)(:[0-9]{0,5})?", re.IGNORECASE)


def _host_name(host: str) -> str | None:
    """The name in a `Host` header, without its port; None where the header is no host and port (RFC 9110 section
    7.2).

    The whole header has to match: a URL parser would find `::1` in `[::1]evil.example`.
    """
    found = _HOST.fullmatch(host)
    return None if found is None else _normalized(found[1])


def _normalized(name: str) -> str:
    """One spelling of each name: IP addresses in their shortest form, names in lower case without a final dot."""
    name = name.strip("[]").lower()
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name.rstrip(".")
