"""Responses that have no body at all: 204 and 304 (RFC 9110 sections 15.3.5 and 15.4.5)."""

from collections.abc import Mapping

from quart import Response


def bare(status: int, headers: Mapping[str, str]) -> Response:
    """A response without a body, and so without Content-Length or Content-Type.

    Made from bytes: Quart would hand a body of nothing to an executor of asyncio, which is not there.
    """
    response = Response(b"", status, headers=dict(headers))
    for name in ("Content-Length", "Content-Type"):
        response.headers.pop(name, None)
    return response
