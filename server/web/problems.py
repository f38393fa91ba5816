"""Refusals as `application/problem+json` (RFC 9457), and every exception that may reach a handler's end.

A client never sees a traceback: what is not a `Problem` becomes one here, and only a fault of ours is logged
with its trace.
"""

import math
from typing import Any

import msgspec
from quart import Response
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, RequestTimeout

from eventstore import StoreUnavailable, Trimmed
from server import logs
from server.errors import Problem, unavailable

log = logs.get("web")

MEDIA_TYPE = "application/problem+json"


def respond(problem: Problem) -> Response:
    """The problem as a response."""
    body = {
        "type": f"urn:tokentape:problem:{problem.code}",
        "title": problem.code.replace("_", " ").capitalize(),
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        **problem.extra,
    }
    response = Response(msgspec.json.encode(body), problem.status, content_type=MEDIA_TYPE)
    response.headers["Cache-Control"] = "no-store"
    if problem.retry_after is not None:
        response.headers["Retry-After"] = str(math.ceil(problem.retry_after))
    return response


def from_store(error: StoreUnavailable | Trimmed) -> Problem:
    """The store's errors that a client may cause or has to wait for."""
    if isinstance(error, Trimmed):
        return Problem(
            410,
            "cursor_expired",
            f"Events before position {error.earliest} are not kept any more. Read the snapshot, then go on from "
            "its position.",
            extra={
                "earliest": error.earliest,
                "head": error.head,
                "snapshot": f"/v1/conversations/{error.stream}",
            },
        )
    log.warning("store unavailable", why=str(error))
    return unavailable("The database does not answer. Nothing was lost; try again.", 2.0)


def install(app: QuartTrio, max_body: int) -> None:
    """Makes every error of the app a problem."""

    async def on_problem(error: Problem) -> Response:
        return respond(error)

    async def on_store(error: Any) -> Response:
        return respond(from_store(error))

    async def on_http(error: HTTPException) -> Response:
        response = respond(_from_http(error, max_body))
        for name, value in error.get_headers():
            if name.lower() == "allow":
                response.headers["Allow"] = value
        return response

    async def on_fault(error: Exception) -> Response:
        log.error("request failed", exc_info=error)
        detail = "The server failed; its log says why. The request may be sent again."
        return respond(Problem(500, "internal_error", detail))

    app.register_error_handler(Problem, on_problem)
    app.register_error_handler(StoreUnavailable, on_store)
    app.register_error_handler(Trimmed, on_store)
    app.register_error_handler(HTTPException, on_http)
    app.register_error_handler(Exception, on_fault)


def _from_http(error: HTTPException, max_body: int) -> Problem:
    if isinstance(error, RequestEntityTooLarge):
        detail = f"The body is larger than {max_body} bytes. Send less, or raise TOKENTAPE_MAX_BODY."
        return Problem(413, "body_too_large", detail, extra={"limit": max_body})
    if isinstance(error, RequestTimeout):
        return Problem(408, "body_too_slow", "The body did not arrive in time. Send it again.")
    status = error.code or 500
    code = {404: "not_found", 405: "method_not_allowed"}.get(status, "bad_request")
    detail = {
        404: "There is nothing at this address; the README lists what there is.",
        405: "This address does not take that method; see the Allow header.",
    }.get(status, error.description or "The request could not be understood.")
    return Problem(status, code, detail)
