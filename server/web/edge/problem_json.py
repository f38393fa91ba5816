"""Errors as `application/problem+json` (RFC 9457): every exception that a request may end with.

Owns how a `Problem` is written, and which `Problem` an exception of the store, of Quart or of our own becomes. No
client ever sees a traceback: an exception that is none of these is logged with its trace, and answered with 500.
"""

import math

import msgspec
from quart import Response, has_request_context, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, MethodNotAllowed, RequestEntityTooLarge, RequestTimeout
from werkzeug.routing import WebsocketMismatch

from eventstore import Erased, Rewound, StoreUnavailable, Trimmed
from server.config.web_addresses import PublicUrl
from server.observability import logs
from server.problem import Problem, unavailable
from server.web.edge.host_origin_cors import allow_header
from server.web.edge.http_messages import Headers, PlainResponse, end_line
from server.web.edge.quart_adapter import quart_response

log = logs.get("web")

MEDIA_TYPE = "application/problem+json"


def problem_response(problem: Problem, public: PublicUrl) -> PlainResponse:
    """The problem as a whole response, with `Retry-After` where the same request may succeed later.

    A 401 names the scheme of `Authorization` that is asked for.
    """
    headers: Headers = ((b"content-type", MEDIA_TYPE.encode()), (b"cache-control", b"no-store"))
    if problem.status == 401:
        headers = (*headers, (b"www-authenticate", b"Bearer"))  # RFC 9110 section 11.6.1
    if problem.retry_after is not None:
        headers = (*headers, (b"retry-after", b"%d" % math.ceil(problem.retry_after)))
    return PlainResponse(problem.status, headers, encode(problem, public))


def encode(problem: Problem, public: PublicUrl) -> bytes:
    """The problem as JSON."""
    body = {
        "type": public.path(f"/docs#problem-{problem.code}"),
        "title": problem.code.replace("_", " ").capitalize(),
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        **problem.extra,
    }
    return end_line(msgspec.json.encode(body))


def from_store(error: Erased | StoreUnavailable | Trimmed, public: PublicUrl) -> Problem:
    """The problem for an error of the store: the cursor is too old, all is gone, or the database is away."""
    if isinstance(error, Trimmed):
        if isinstance(error, Rewound):
            reason = f"The log ends at position {error.head} now: the database has lost what came behind it."
        else:
            reason = f"Events before position {error.earliest} are not kept any more."
        snapshot = public.path(f"/v1/conversations/{error.stream}")
        return Problem(
            410,
            "cursor_expired",
            f"{reason} Read the snapshot, then go on from its position.",
            extra={"earliest": error.earliest, "head": error.head, "snapshot": snapshot},
        )
    if isinstance(error, Erased):
        return Problem(410, "gone", "It was ephemeral and its time is over: nothing of it is kept any more.")
    return unavailable("The database does not answer. Nothing was lost; try again.", 2.0)


def as_problem(error: Exception, public: PublicUrl) -> Problem:
    """The problem for any exception. One that is neither ours nor the store's is a bug: logged, and a 500."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, Erased | StoreUnavailable | Trimmed):
        return from_store(error, public)
    log.error("request failed", exc_info=error)
    return Problem(500, "internal_error", "The server failed; its log says why. The request may be sent again.")


def body_too_slow() -> Problem:
    """The problem for a request whose body does not arrive in time (RFC 9110 section 15.5.9)."""
    return Problem(408, "body_too_slow", "The body did not arrive in time. Send it again.")


def install(app: QuartTrio, max_body: int, public: PublicUrl) -> None:
    """Registers error handlers with Quart: every error of the app is answered as a problem."""

    async def on_error(error: Exception) -> Response:
        return quart_response(problem_response(as_problem(error, public), public))

    async def on_http_error(error: HTTPException) -> Response:
        response = quart_response(problem_response(_from_http(error, max_body), public))
        if isinstance(error, MethodNotAllowed):
            response.headers["Allow"] = allow_header(error)
        if (
            isinstance(error, WebsocketMismatch)
            and has_request_context()
            and request.http_version.startswith("1.")
        ):
            response.headers["Upgrade"] = "websocket"  # RFC 9110 section 15.5.22; HTTP/2 has no such header
            response.headers["Connection"] = "Upgrade"
        return response

    app.register_error_handler(HTTPException, on_http_error)
    app.register_error_handler(Exception, on_error)


def _from_http(error: HTTPException, max_body: int) -> Problem:
    if isinstance(error, RequestEntityTooLarge):
        detail = f"The body is larger than {max_body} bytes. Send less, or raise TOKENTAPE_MAX_BODY."
        return Problem(413, "body_too_large", detail, extra={"limit": max_body})
    if isinstance(error, RequestTimeout):
        return body_too_slow()
    if isinstance(error, WebsocketMismatch) and has_request_context():
        return Problem(426, "upgrade_required", "This address speaks WebSocket only: ask for an upgrade.")
    status = error.code or 500
    code = {404: "not_found", 405: "method_not_allowed"}.get(status, "bad_request")
    detail = {
        404: "There is nothing at this address; /docs lists what there is.",
        405: "This address does not take that method; see the Allow header.",
    }.get(status, "The request could not be understood. /docs says what this address takes.")
    return Problem(status, code, detail)
