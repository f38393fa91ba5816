"""What pages of the allowed origins may do from afar: cross-origin resource sharing, and `OPTIONS` for everybody.

https://fetch.spec.whatwg.org/#http-cors-protocol. Without these headers a browser lets an allowed page post but
keeps every answer from it, `EventSource` included. For every other origin nothing is said, which means no. There
are no cookies, so credentials are never spoken of.
"""

from collections.abc import Iterable

from quart import Request, Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import MethodNotAllowed

from server.web.edge.empty_response import bare

MAY_SEND = (
    "Accept, Cache-Control, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, Prefer, X-Request-ID"
)
MAY_READ = "Allow, ETag, Location, Preference-Applied, Retry-After, X-Request-ID"
PREFLIGHT_SECONDS = 7200
"""How long a browser may remember an answer to `OPTIONS`; Chromium's own bound."""


def install(app: QuartTrio, origins: Iterable[str]) -> None:
    """Answers `OPTIONS`, and says on every answer which origin may read it."""
    allowed = frozenset(origin.rstrip("/").lower() for origin in origins)

    @app.before_request
    async def options() -> Response | None:
        if request.method != "OPTIONS" or not isinstance(request.routing_exception, MethodNotAllowed):
            return None
        methods = allow(request.routing_exception)
        response = bare(204, {"Allow": methods, "Cache-Control": "no-store"})
        if _is_preflight(request) and _origin(request) in allowed:
            response.headers["Access-Control-Allow-Methods"] = methods
            response.headers["Access-Control-Allow-Headers"] = MAY_SEND
            response.headers["Access-Control-Max-Age"] = str(PREFLIGHT_SECONDS)
        return response

    if not allowed:
        return

    @app.after_request
    async def say_who_may_read(response: Response) -> Response:
        response.headers.add("Vary", "Origin")  # also without one: a cache would give a page what it may not read
        if _origin(request) in allowed:
            response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
            response.headers["Access-Control-Expose-Headers"] = MAY_READ
        return response


def allow(error: MethodNotAllowed) -> str:
    """The value of the `Allow` header (RFC 9110 section 10.2.1), for a 405 or for `OPTIONS`."""
    return ", ".join(sorted({*(error.valid_methods or ()), "OPTIONS"}))


def _origin(asked: Request) -> str:
    return asked.headers.get("Origin", "").lower()


def _is_preflight(asked: Request) -> bool:
    return "Access-Control-Request-Method" in asked.headers
