"""What pages of the allowed origins may do from afar: cross-origin resource sharing, and `OPTIONS` for everybody.

https://fetch.spec.whatwg.org/#http-cors-protocol. Without these headers a browser lets an allowed page post but
keeps every answer from it, `EventSource` included. For every other origin nothing is said, which means no. There
are no cookies, so credentials are never spoken of.
"""

from collections.abc import Iterable

from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import MethodNotAllowed

from server.web.edge.responses import Headers, bare

MAY_SEND = (
    "Accept, Cache-Control, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, Prefer, X-Request-ID"
)
MAY_READ = "Allow, ETag, Location, Preference-Applied, Retry-After, X-Request-ID"
PREFLIGHT_SECONDS = 7200
"""How long a browser may remember an answer to `OPTIONS`; Chromium's own bound."""

_VARY: Headers = ((b"vary", b"Origin"),)


class Cors:
    """The origins whose pages may read answers. It knows header values only: answers without Quart use it too."""

    def __init__(self, origins: Iterable[str]) -> None:
        self._allowed = frozenset(origin.rstrip("/").lower() for origin in origins)

    def headers_for(self, origin: str | None) -> Headers:
        """What every answer says, whatever it is: who may read it.

        `Vary` is one of possibly several and stands beside others; without an `Origin` it is there too, for a
        cache would give a page what that one may not read. Nothing where no origin is allowed.
        """
        if not self._allowed:
            return ()
        if origin is None or not self.allows(origin):
            return _VARY
        return (
            *_VARY,
            (b"access-control-allow-origin", origin.encode("latin-1", "replace")),
            (b"access-control-expose-headers", MAY_READ.encode()),
        )

    def allows(self, origin: str) -> bool:
        """Whether pages of this origin may call."""
        return origin.lower() in self._allowed


def install(app: QuartTrio, cors: Cors) -> None:
    """Answers `OPTIONS`, and says on every answer which origin may read it."""

    @app.before_request
    async def options() -> Response | None:
        if request.method != "OPTIONS" or not isinstance(request.routing_exception, MethodNotAllowed):
            return None
        methods = allow(request.routing_exception)
        response = bare(204, {"Allow": methods, "Cache-Control": "no-store"})
        # With that header it is a preflight.
        if "Access-Control-Request-Method" in request.headers and cors.allows(request.headers.get("Origin", "")):
            response.headers["Access-Control-Allow-Methods"] = methods
            response.headers["Access-Control-Allow-Headers"] = MAY_SEND
            response.headers["Access-Control-Max-Age"] = str(PREFLIGHT_SECONDS)
        return response

    @app.after_request
    async def say_who_may_read(response: Response) -> Response:
        for name, value in cors.headers_for(request.headers.get("Origin")):
            response.headers.add(name.decode().title(), value.decode("latin-1"))
        return response


def allow(error: MethodNotAllowed) -> str:
    """The value of the `Allow` header (RFC 9110 section 10.2.1), for a 405 or for `OPTIONS`."""
    return ", ".join(sorted({*(error.valid_methods or ()), "OPTIONS"}))
