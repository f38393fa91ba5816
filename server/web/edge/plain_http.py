"""An HTTP request and a whole response as plain values, for endpoints that no web framework calls.

Owns which headers an endpoint may see and how a query string is read. The dispatcher makes a request from an ASGI
scope, and so do Quart's routes: an endpoint cannot tell which of the two called it, and answers the same bytes.
Must not know routes, Quart or streams. Names of headers are in lower case on both sides.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

Headers = Sequence[tuple[bytes, bytes]]
"""Headers as ASGI has them: names in lower case."""
JSON = "application/json"
MOST_PARAMETERS = 100
"""Parameters of a query string that are read; a client that sends more has the rest ignored."""

_LISTS = frozenset((b"accept", b"prefer", b"if-none-match"))
"""Headers whose lines are joined if there are several (RFC 9110 section 5.3). Of any other the first counts."""
_PICKED = _LISTS | {
    *(b"host", b"origin", b"last-event-id"),
    *(b"idempotency-key", b"content-type", b"content-encoding"),
}


@dataclass(slots=True)
class PlainRequest:
    """One request: the headers that an endpoint may depend on, the query's parameters, and the body of a POST."""

    method: str
    headers: Mapping[str, str]
    args: Mapping[str, str]
    body: bytes = b""

    @classmethod
    def from_scope(cls, scope: Mapping[str, Any], body: bytes = b"") -> "PlainRequest":
        """From an ASGI scope, of HTTP or of a WebSocket."""
        return cls(
            scope.get("method", "GET"), pick_headers(scope["headers"]), query_args(scope["query_string"]), body
        )


@dataclass(frozen=True, slots=True)
class PlainResponse:
    """A whole response. Whoever sends it adds `Content-Length`."""

    status: int
    headers: Headers = ()
    body: bytes = b""


def pick_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The headers that endpoints may see, as text, by name."""
    found: dict[str, str] = {}
    for name, value in headers:
        if name in _PICKED:
            text, key = value.decode("latin-1"), name.decode()
            if key not in found:
                found[key] = text
            elif name in _LISTS:
                found[key] = f"{found[key]}, {text}"
    return found


def query_args(query: bytes) -> dict[str, str]:
    """The parameters of a query string. Of one that is given twice the first counts; bad UTF-8 becomes U+FFFD."""
    if not query:
        return {}
    found: dict[str, str] = {}
    pairs = query.decode("latin-1").split("&", MOST_PARAMETERS)[:MOST_PARAMETERS]
    for name, value in parse_qsl("&".join(pairs), keep_blank_values=True, errors="replace"):
        found.setdefault(name, value)
    return found


def end_line(body: bytes) -> bytes:
    """A JSON text with a newline at its end: without it a shell prints its prompt right after curl's output."""
    return body + b"\n"
