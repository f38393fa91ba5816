"""Responses that Quart does not make as we need them: JSON that ends its line, one without a body, a plain one.

It knows no route. A plain answer is a status, headers and a body as bytes, for what answers without Quart.
"""

from collections.abc import Mapping

from quart import Response

Headers = tuple[tuple[bytes, bytes], ...]
Plain = tuple[int, Headers, bytes]
"""Status, headers (names in small letters) and body."""

JSON = "application/json"


def end_line(body: bytes) -> bytes:
    """A JSON text with a line end behind it: after `curl` the shell's prompt would stick to the last brace."""
    return body + b"\n"


def json_response(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON as it was encoded, with its line ended."""
    return Response(end_line(body), status, headers=dict(headers or {}), content_type=JSON)


def bare(status: int, headers: Mapping[str, str]) -> Response:
    """A response without a body: 204 and 304 (RFC 9110 sections 15.3.5 and 15.4.5).

    So without Content-Length and Content-Type too. Made from bytes: Quart would hand a body of nothing to an
    executor of asyncio, which is not there.
    """
    response = Response(b"", status, headers=dict(headers))
    for name in ("Content-Length", "Content-Type"):
        response.headers.pop(name, None)
    return response


def from_plain(plain: Plain) -> Response:
    """The same answer by Quart."""
    status, headers, body = plain
    response = Response(body, status)
    response.headers.pop("Content-Type", None)
    for name, value in headers:
        response.headers[name.decode("ascii").title()] = value.decode("latin-1")
    return response
