"""Who may call: the check of the `Host` header and, for browsers, of `Origin`; and CORS for the origins allowed.

As long as there are no API keys, `HostOriginCheck` alone keeps a web page of another site from posting to a server
on the visitor's machine: directly (Origin), or through a host name that the page's owner points at 127.0.0.1
(Host: DNS rebinding). Every address is guarded but the three that probes and scrapers call under any name; a new
route is guarded without further code.

`Cors` is cross-origin resource sharing (https://fetch.spec.whatwg.org/#http-cors-protocol): what pages of the
allowed origins may do; and the answer to `OPTIONS`. Without its headers a browser lets an allowed page post, but
withholds every answer from it, those of `EventSource` included. Other origins get no such header, which means no.
Cookies are for pages of this server alone, so `Access-Control-Allow-Credentials` is never sent: pages of other
origins send a key or a ticket.

Both work on header values alone: the dispatcher uses them without Quart. Only `install_cors` knows Quart.
"""

import ipaddress
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from urllib.parse import urlsplit

from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import MethodNotAllowed

from server.auth.credentials import redact
from server.observability import logs
from server.problem import Problem
from server.web.edge.http_messages import Headers
from server.web.edge.quart_adapter import empty_response

log = logs.get("web")

LOOPBACK = ("localhost", "127.0.0.1", "::1")
UNGUARDED = frozenset({"/healthz", "/readyz", "/metrics"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
LOGGED_SECONDS, MAX_LOGGED = 3_600.0, 100
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
        if len(self._accepted) < MAX_LOGGED:
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
        shown = ascii(redact(origin)[:100])
        if now - self._logged.get(shown, -LOGGED_SECONDS) < LOGGED_SECONDS:
            return
        if len(self._logged) >= MAX_LOGGED:
            self._logged = {one: at for one, at in self._logged.items() if now - at < LOGGED_SECONDS}
            if len(self._logged) >= MAX_LOGGED:
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


def is_loopback_host(host: str) -> bool:
    """Whether a `Host` header names this machine by its loopback interface."""
    return _host_name(host) in LOOPBACK


def _normalized(name: str) -> str:
    """One spelling of each name: IP addresses in their shortest form, names in lower case without a final dot."""
    name = name.strip("[]").lower()
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name.rstrip(".")


REQUEST_HEADERS = (
    "Accept, Authorization, Cache-Control, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, Prefer, "
    "Range, X-Request-ID"
)
EXPOSED_HEADERS = (
    "Allow, Content-Disposition, Content-Range, ETag, Location, Preference-Applied, RateLimit, RateLimit-Policy, "
    "Retry-After, WWW-Authenticate, X-Request-ID"
)
PREFLIGHT_SECONDS = 7200
"""How long a browser may cache a preflight; Chromium caches none longer."""

_VARY: Headers = ((b"vary", b"Origin"),)


class Cors:
    """The origins whose pages may read responses. `origins` are as in `TOKENTAPE_ALLOWED_ORIGINS`."""

    def __init__(self, origins: Iterable[str]) -> None:
        self._allowed = frozenset(origin.rstrip("/").lower() for origin in origins)

    def headers_for(self, origin: str | None) -> Headers:
        """The CORS headers of a response to a request with this `Origin`; none where no origin is allowed.

        `Vary` is sent even if the request had no `Origin`: a cache could otherwise serve that response to a page.
        It is a header line of its own beside any other `Vary`.
        """
        if not self._allowed:
            return ()
        if origin is None or not self.allows(origin):
            return _VARY
        return (
            *_VARY,
            (b"access-control-allow-origin", origin.encode("latin-1", "replace")),
            (b"access-control-expose-headers", EXPOSED_HEADERS.encode()),
        )

    def allows(self, origin: str) -> bool:
        """Whether pages of this origin may call."""
        return origin.lower() in self._allowed


def install_cors(app: QuartTrio, cors: Cors) -> None:
    """Makes Quart answer `OPTIONS`, and adds the CORS headers to each of its responses."""

    @app.before_request
    async def options() -> Response | None:
        if request.method != "OPTIONS" or not isinstance(request.routing_exception, MethodNotAllowed):
            return None
        methods = allow_header(request.routing_exception)
        response = empty_response(204, {"Allow": methods, "Cache-Control": "no-store"})
        # `Access-Control-Request-Method` is what makes it a CORS preflight and not a plain OPTIONS.
        if "Access-Control-Request-Method" in request.headers and cors.allows(request.headers.get("Origin", "")):
            response.headers["Access-Control-Allow-Methods"] = methods
            response.headers["Access-Control-Allow-Headers"] = REQUEST_HEADERS
            response.headers["Access-Control-Max-Age"] = str(PREFLIGHT_SECONDS)
        return response

    @app.after_request
    async def add_cors_headers(response: Response) -> Response:
        for name, value in cors.headers_for(request.headers.get("Origin")):
            response.headers.add(name.decode().title(), value.decode("latin-1"))
        return response


def allow_header(error: MethodNotAllowed) -> str:
    """The value of the `Allow` header (RFC 9110 section 10.2.1), for a 405 or for `OPTIONS`."""
    return ", ".join(sorted({*(error.valid_methods or ()), "OPTIONS"}))
