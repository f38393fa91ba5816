"""A request to read and its answer as plain values, whoever carries them: the direct way for reads, or Quart.

Pure. Names of headers are in small letters on both sides.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

Headers = list[tuple[bytes, bytes]]

_LISTS = frozenset((b"accept", b"prefer", b"if-none-match"))
"""Headers that may come in several lines (RFC 9110 section 5.3). Of any other the first counts."""
_WANTED = _LISTS | {b"host", b"origin", b"last-event-id", b"x-request-id"}
MOST_PARAMETERS = 100


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """GET or HEAD of one address: the headers that a read depends on, and the query's parameters."""

    method: str
    headers: Mapping[str, str]
    args: Mapping[str, str]

    @classmethod
    def from_scope(cls, scope: Mapping[str, Any]) -> "ReadRequest":
        """From an ASGI connection scope. Of a parameter that is given twice the first counts."""
        headers = pick_headers(scope["headers"], _WANTED)
        return cls(scope["method"], headers, query_args(scope["query_string"]))


def pick_headers(headers: Iterable[tuple[bytes, bytes]], wanted: frozenset[bytes]) -> dict[str, str]:
    """The wanted headers as text. Those that are lists are joined; of any other the first line counts."""
    found: dict[str, str] = {}
    for name, value in headers:
        if name in wanted:
            text, key = value.decode("latin-1"), name.decode()
            if key not in found:
                found[key] = text
            elif name in _LISTS:
                found[key] = f"{found[key]}, {text}"
    return found


def query_args(query: bytes) -> dict[str, str]:
    """The parameters of a query string; what is no UTF-8 in it becomes U+FFFD."""
    if not query:
        return {}
    found: dict[str, str] = {}
    pairs = query.decode("latin-1").split("&", MOST_PARAMETERS)[:MOST_PARAMETERS]
    for name, value in parse_qsl("&".join(pairs), keep_blank_values=True, errors="replace"):
        found.setdefault(name, value)
    return found


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer. `Content-Length` is left to who sends it."""

    status: int
    headers: Headers = field(default_factory=list)
    body: bytes = b""


def header_lines(headers: Mapping[str, str] | Iterable[tuple[str, str]]) -> Headers:
    """Headers as they go on the wire."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in pairs]
