"""Who may call: the Host the client named and, from a browser, the Origin of the page.

Before there are keys, this is what keeps a web page on another site from posting to a server on this machine,
by itself (Origin) or through a name that it points at 127.0.0.1 (Host: DNS rebinding). Every address is guarded,
but for the three that probes and scrapers call by whatever name they have; a new route needs no thought.

It takes header values and knows no framework, so that it can stand in front of one.
"""

import ipaddress
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from urllib.parse import urlsplit

from server import logs
from server.errors import Problem

log = logs.get("web")

LOOPBACK = ("localhost", "127.0.0.1", "::1")
UNGUARDED = frozenset({"/healthz", "/readyz", "/metrics"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
LOGGED_SECONDS, MOST_LOGGED = 3_600.0, 100
"""A refused origin is logged once an hour, and no more than so many of them: a stranger may send any text."""


class HostOriginCheck:
    """The names this server answers to, and the origins that may post.

    `origins` are those of other servers' pages; a page from the host that it calls is always one of ours.
    """

    def __init__(
        self,
        bind_host: str,
        hosts: Iterable[str],
        origins: Iterable[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hosts = {_normal(host) for host in (*LOOPBACK, bind_host, *hosts)}
        self._origins = {origin.rstrip("/").lower() for origin in origins}
        self._clock = clock
        self._logged: dict[str, float] = {}
        self._known: set[str] = set()

    def check_request(self, method: str, path: str, host: str, origin: str | None, *, secure: bool) -> None:
        """A request, by its headers. `secure`: it came by TLS. Raises as `check_host` and `check_origin`.

        A safe request of a foreign page is not refused: without CORS its browser keeps the answer from it. But it
        is logged, for the page's author sees nothing.
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
        """The upgrade to a WebSocket: though a GET, browsers let every page send one. Raises as both."""
        self.check_host(host)
        self.check_origin(origin, host, secure=secure)

    def check_host(self, host: str) -> None:
        """Raises `Problem` 421 `host_not_allowed` (RFC 9110 section 15.5.20) for a name that is none of ours."""
        if host in self._known:  # seldom more than one or two spellings
            return
        if _name(host) not in self._hosts:
            raise Problem(
                421,
                "host_not_allowed",
                f"This server does not answer to the name {host[:100]!a}. Add it to TOKENTAPE_ALLOWED_HOSTS.",
            )
        if len(self._known) < MOST_LOGGED:
            self._known.add(host)

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
        with suppress(ValueError):  # a malformed origin is nobody's
            page = urlsplit(origin)
            # Where we speak TLS, a page without it is no page of ours: anybody on its way could have written it.
            # The other way round a proxy may have taken the TLS off.
            return page.netloc.lower() == host.lower() and not (secure and page.scheme.lower() != "https")
        return False

    def _log(self, origin: str) -> None:
        # The browser tells the page's author "CORS" and nothing else: what would help him stands here alone.
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
