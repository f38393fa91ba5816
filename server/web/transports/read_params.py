"""The parameters of a read: cursor, format, event types, page size, stream options and waiting time.

Owns the syntax and bounds of each, in headers and in the query string. Pure: text in, values out. Headers and
query parameters come as mappings with a `get`; names of headers are in lower case. Must not know what is read with
them.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple, Protocol

from werkzeug.http import parse_accept_header

from server import wire_formats
from server.event_types import EventType
from server.problem import Problem

NOW = -1
"""The cursor `now`: only events that are appended from now on."""
DEFAULT_LIMIT, MAX_LIMIT = 500, 5_000
MAX_WAIT = 50.0
MAX_PAD = 65_536
MIN_HEARTBEAT, MAX_HEARTBEAT = 5, 60
EVENT_TYPES = frozenset({*(kind.value for kind in EventType), "reasoning", "tool.arguments"})
"""The types of the public contract. A client may exclude one that this version does not write yet."""

_DIGITS = re.compile(r"[0-9]+")
# float() would accept `1_0` and spaces too. The pattern can match each character in one way only: one that
# backtracks would take seconds for thousands of digits, and the whole server would wait.
_SECONDS = re.compile(r"-?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:e[+-]?[0-9]+)?", re.IGNORECASE)


class Params(Protocol):
    """Query parameters, or headers."""

    def get(self, name: str, /) -> str | None: ...


class Form(StrEnum):
    """The format in which a log is served."""

    SSE = "sse"
    NDJSON = "ndjson"
    JSON = "json"


# -- the cursor


def cursor_text(headers: Params, args: Params) -> str | None:
    """The cursor as the client sent it: `Last-Event-ID`, else `?lastEventId=`, else `?after=`.

    An empty one counts as absent. The header wins: a browser that reconnects sends the header with its position,
    and the same address as at first. `lastEventId` is what polyfills of `EventSource` append to that address.
    """
    return headers.get("last-event-id") or args.get("lastEventId") or args.get("after") or None


def read_cursor(headers: Params, args: Params) -> int:
    """The cursor: a position, or `NOW`; 0 where the client names none. Raises `Problem` 400 `invalid_cursor`."""
    text = cursor_text(headers, args)
    return parse_cursor(text) if text is not None else 0


def parse_cursor(text: str) -> int:
    """A position or `now`. Raises `Problem` 400 `invalid_cursor`."""
    if text == "now":
        return NOW
    if not _DIGITS.fullmatch(text):
        raise Problem(
            400, "invalid_cursor", f"A cursor is a whole number ≥ 0, or now; this one is {text[:100]!a}."
        )
    # A number longer than any position can be is past every head, whatever its digits.
    return int(text) if len(text) < 19 else 10**18


def resolve_cursor(cursor: int, head: int) -> int:
    """The cursor as a position. Raises `Problem` 400 `cursor_ahead` past the head."""
    if cursor == NOW:
        return head
    if cursor > head:
        raise Problem(
            400,
            "cursor_ahead",
            f"The cursor is past the end: the log's head is {head}.",
            extra={"head": head},
        )
    return cursor


# -- the form


def read_form(headers: Params, args: Params) -> Form:
    """The format: `?format=`, else by `Accept`, where a stream has to be named and not ranked below JSON.

    Raises `Problem` 400 `invalid_format`.
    """
    named = args.get("format")
    if named is None:
        return accepted_form(headers.get("accept") or "")
    try:
        return Form(named)
    except ValueError:
        raise Problem(
            400, "invalid_format", f"format is one of sse, ndjson, json; this one is {named[:100]!a}."
        ) from None


@lru_cache(maxsize=256)  # each client sends the same header with every request
def accepted_form(accept: str) -> Form:
    """The format that an `Accept` header (RFC 9110 section 12.5.1) asks for; wildcards mean JSON."""
    ranks: dict[str, float] = {}
    for kind, quality in parse_accept_header(accept):
        ranks.setdefault(str(kind).lower().split(";")[0].strip(), float(quality))
    # The most specific range counts (section 12.5.1): a wildcard does not raise the rank of JSON that is ranked
    # low.
    json = next((ranks[kind] for kind in ("application/json", "application/*", "*/*") if kind in ranks), 0.0)
    streams = [
        (ranks.get(wire_formats.SSE_MEDIA_TYPE, 0.0), Form.SSE),
        (ranks.get(wire_formats.NDJSON_MEDIA_TYPE, 0.0), Form.NDJSON),
    ]
    rank, form = max(streams, key=lambda pair: pair[0])
    return form if rank > 0 and rank >= json else Form.JSON


# -- which events, and how many


@dataclass(frozen=True, slots=True)
class TypeFilter:
    """Which types of events a client wants: those in `types`, or with `excludes` all but those."""

    types: frozenset[str]
    excludes: bool

    def __contains__(self, type_: str) -> bool:
        return (type_ in self.types) is not self.excludes


def read_types(args: Params) -> TypeFilter | None:
    """`?types=token,result`, or `?types=-reasoning,-token`; None is all. Raises `Problem` 400 `invalid_types`."""
    text = args.get("types")
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    left_out = [name for name in names if name.startswith("-")]
    if left_out and len(left_out) < len(names):
        raise _bad_types("names types to pick or, each with a minus, types to leave out: not both at once", text)
    types = frozenset(name.removeprefix("-") for name in names)
    if unknown := sorted(types - EVENT_TYPES):
        raise _bad_types(f"holds {unknown[0][:100]!a}, which is no type of event", text)
    return TypeFilter(types, bool(left_out))


def _bad_types(why: str, text: str) -> Problem:
    return Problem(
        400,
        "invalid_types",
        f"types {why}; this one is {text[:100]!a}. The types are {', '.join(sorted(EVENT_TYPES))}.",
    )


def read_limit(args: Params) -> int:
    """How many events a page may hold. Raises `Problem` 400 `invalid_limit`."""
    return read_count(args, "limit", DEFAULT_LIMIT, MAX_LIMIT)


def read_count(args: Params, name: str, default: int, most: int) -> int:
    """A whole number from 1 to `most`. Raises `Problem` 400 `invalid_<name>`."""
    text = args.get(name)
    if text is None:
        return default
    if not _DIGITS.fullmatch(text) or len(text) > 9 or not 1 <= int(text) <= most:
        raise Problem(
            400,
            f"invalid_{name}",
            f"{name} is a whole number from 1 to {most}; this one is {text[:100]!a}.",
            extra={"limit": most},
        )
    return int(text)


# -- how a stream is written


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How a stream is to be written.

    `pad`: bytes of comment at the beginning. `named`: SSE events are named by their type. `heartbeat`: seconds
    between heartbeats, None for the server's setting. `heartbeat_event`: heartbeats are SSE events, which a page
    can see.
    """

    pad: int = 0
    named: bool = False
    heartbeat: float | None = None
    heartbeat_event: bool = False


PLAIN = StreamOptions()


def read_stream_options(args: Params) -> StreamOptions:
    """`?pad=`, `?named=1`, `?heartbeat=event`, `?heartbeat=5` (or both: `?heartbeat=event,5`).

    Raises `Problem` 400 `invalid_pad`, `invalid_named`, `invalid_heartbeat`.
    """
    padded, named, heartbeat = args.get("pad"), args.get("named"), args.get("heartbeat")
    if padded is None and named is None and heartbeat is None:
        return PLAIN
    pad = 0 if padded is None else read_count(args, "pad", 0, MAX_PAD)
    if named not in (None, "", "0", "1"):
        raise Problem(400, "invalid_named", f"named is 1 or 0; this one is {named[:100]!a}.")
    seconds, visible = _parse_heartbeat(heartbeat.split(",")) if heartbeat is not None else (None, False)
    return StreamOptions(pad, named == "1", seconds, visible)


def _parse_heartbeat(parts: Iterable[str]) -> tuple[float | None, bool]:
    seconds, visible = None, False
    for part in parts:
        if part == "event":
            visible = True
        elif _DIGITS.fullmatch(part) and len(part) < 4 and MIN_HEARTBEAT <= int(part) <= MAX_HEARTBEAT:
            seconds = float(part)
        else:
            raise Problem(
                400,
                "invalid_heartbeat",
                f"heartbeat is a whole number of seconds from {MIN_HEARTBEAT} to {MAX_HEARTBEAT}, or event "
                f"(a frame that a page can see), or both with a comma between; this one is {part[:100]!a}.",
            )
    return seconds, visible


# -- waiting


class Wait(NamedTuple):
    """How many seconds a request may be held. `preferred`: by a `Prefer` header, which has to be acknowledged."""

    seconds: float = 0.0
    preferred: bool = False


NO_WAIT = Wait()


def read_seconds(args: Params, name: str, default: float, bound: str) -> float:
    """A number of seconds, 0 or more. Raises `Problem` 400 `invalid_<name>`; `bound` is put into its text."""
    text = args.get(name)
    if text is None:
        return default
    seconds = float(text) if _SECONDS.fullmatch(text) else math.nan
    if not 0 <= seconds < math.inf:
        raise Problem(
            400, f"invalid_{name}", f"{name} is a number of seconds, {bound}; this one is {text[:100]!a}."
        )
    return seconds


def read_wait(headers: Params, args: Params) -> Wait:
    """How long to hold the request, by `?wait=`, else by `Prefer: wait=` (RFC 7240); at most `MAX_WAIT` seconds.

    A malformed preference is ignored, as the RFC has it; a malformed `?wait=` is 400 `invalid_wait`.
    """
    if args.get("wait") is not None:
        return Wait(min(read_seconds(args, "wait", 0.0, f"at most {MAX_WAIT:g}"), MAX_WAIT))
    value = preferences(headers.get("prefer") or "").get("wait")
    if value is None or not _DIGITS.fullmatch(value) or len(value) > 9:
        return NO_WAIT
    seconds = min(float(value), MAX_WAIT)
    return Wait(seconds, preferred=True)


def wants_pending(headers: Params, args: Params) -> bool:
    """Whether a running generation is to be answered with 202: `?pending=202`, or `Prefer: respond-async`.

    Raises `Problem` 400 `invalid_pending`.
    """
    text = args.get("pending")
    if text not in (None, "202"):
        raise Problem(400, "invalid_pending", f"pending is 202, or is left out; this one is {text[:100]!a}.")
    return text is not None or "respond-async" in preferences(headers.get("prefer") or "")


def preferences(prefer: str) -> dict[str, str]:
    """The preferences of a `Prefer` header (RFC 7240 section 2) by name; of one given twice the first counts."""
    found: dict[str, str] = {}
    for preference in prefer.split(",") if prefer else ():
        name, _, value = preference.split(";")[0].partition("=")
        found.setdefault(name.strip().lower(), value.strip().strip('"'))
    return found
