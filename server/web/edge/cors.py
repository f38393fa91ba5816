"""Cross-origin resource sharing: what pages of the allowed origins may do; and the answer to `OPTIONS`.

https://fetch.spec.whatwg.org/#http-cors-protocol. Without these headers a browser lets an allowed page post, but
withholds every answer from it, those of `EventSource` included. Other origins get no such header, which means no.
There are no cookies, so `Access-Control-Allow-Credentials` is never sent. `Cors` works on header values alone: the
dispatcher uses it without Quart.
"""

from collections.abc import Iterable

from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import MethodNotAllowed

from server.web.edge.plain_http import Headers
from server.web.edge.quart_adapter import empty_response

REQUEST_HEADERS = (
    "Accept, Cache-Control, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, Prefer, X-Request-ID"
)
EXPOSED_HEADERS = "Allow, ETag, Location, Preference-Applied, Retry-After, X-Request-ID"
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


def install(app: QuartTrio, cors: Cors) -> None:
    """Makes Quart answer `OPTIONS`, and adds the CORS headers to each of its responses."""

    @app.before_request
    async def options() -> Response | None:
        if request.method != "OPTIONS" or not isinstance(request.routing_exception, MethodNotAllowed):
            return None
        methods = allow(request.routing_exception)
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


def allow(error: MethodNotAllowed) -> str:
    """The value of the `Allow` header (RFC 9110 section 10.2.1), for a 405 or for `OPTIONS`."""
    return ", ".join(sorted({*(error.valid_methods or ()), "OPTIONS"}))
