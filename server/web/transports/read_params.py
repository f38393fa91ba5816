"""What a reader asks for: the cursor, the form, how long to wait, how much. Pure: headers in, values out."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from werkzeug.datastructures import Headers
from werkzeug.http import parse_accept_header

from server.errors import Problem
from server.wire import ndjson, sse

NOW = -1
"""The cursor `now`: only what comes."""
LIMIT_DEFAULT, LIMIT_MOST = 500, 5_000
WAIT_MOST = 50.0
PAD_MOST = 65_536

_DIGITS = re.compile(r"[0-9]+")
_SECONDS = re.compile(r"-?[0-9]*\.?[0-9]+(e[+-]?[0-9]+)?", re.IGNORECASE)  # float() would take 1_0 and spaces too


class Args(Protocol):
    """Query parameters."""

    def get(self, name: str, /) -> str | None: ...


class Form(StrEnum):
    """How the log is served."""

    SSE = "sse"
    NDJSON = "ndjson"
    JSON = "json"


def read_cursor(headers: Headers, args: Args) -> int:
    """Where to start: a position, or `NOW`. The header wins always; an empty one counts as absent.

    Raises `Problem` 400 `invalid_cursor`.
    """
    text = headers.get("Last-Event-ID") or args.get("after")
    return parse_cursor(text) if text is not None else 0


def parse_cursor(text: str) -> int:
    """A position or `now`. Raises `Problem` 400 `invalid_cursor`."""
    if text == "now":
        return NOW
    if not _DIGITS.fullmatch(text):
        raise Problem(
            400, "invalid_cursor", f"A cursor is a whole number ≥ 0, or now; this one is {text[:100]!a}."
        )
    # Longer than any position can be: it is ahead of every head, whatever it is.
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


def read_form(headers: Headers, args: Args) -> Form:
    """`?format=`, else `Accept`: a stream only if named literally and not ranked below JSON.

    Raises `Problem` 400 `invalid_format`.
    """
    named = args.get("format")
    if named is None:
        return accepted_form(headers.get("Accept", ""))
    try:
        return Form(named)
    except ValueError:
        raise Problem(
            400, "invalid_format", f"format is one of sse, ndjson, json; this one is {named[:100]!a}."
        ) from None


def accepted_form(accept: str) -> Form:
    """The form an `Accept` header (RFC 9110 section 12.5.1) asks for; wildcards mean JSON."""
    ranks: dict[str, float] = {}
    for kind, quality in parse_accept_header(accept):
        ranks.setdefault(str(kind).lower().split(";")[0].strip(), float(quality))
    # The most specific range counts (section 12.5.1): a JSON that is ranked low is not lifted by a wildcard.
    json = next((ranks[kind] for kind in ("application/json", "application/*", "*/*") if kind in ranks), 0.0)
    streams = [(ranks.get(sse.MEDIA_TYPE, 0.0), Form.SSE), (ranks.get(ndjson.MEDIA_TYPE, 0.0), Form.NDJSON)]
    rank, form = max(streams, key=lambda pair: pair[0])
    return form if rank > 0 and rank >= json else Form.JSON


def read_limit(args: Args) -> int:
    """How many events a page may hold. Raises `Problem` 400 `invalid_limit`."""
    return read_count(args, "limit", LIMIT_DEFAULT, LIMIT_MOST)


def read_count(args: Args, name: str, default: int, most: int) -> int:
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


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """What an SSE client may wish: a comment of `pad` bytes first, and each event's type as its name."""

    pad: int = 0
    named: bool = False


PLAIN = StreamOptions()


def read_stream_options(args: Args) -> StreamOptions:
    """`?pad=` and `?named=1`. Raises `Problem` 400 `invalid_pad`, `invalid_named`."""
    pad = 0 if args.get("pad") is None else read_count(args, "pad", 0, PAD_MOST)
    named = args.get("named") or "0"
    if named not in ("0", "1"):
        raise Problem(400, "invalid_named", f"named is 1 or 0; this one is {named[:100]!a}.")
    return StreamOptions(pad, named == "1")


def read_seconds(args: Args, name: str, default: float, bound: str) -> float:
    """A number of seconds, 0 or more. Raises `Problem` 400 `invalid_<name>`, whose text tells the `bound`."""
    text = args.get(name)
    if text is None:
        return default
    seconds = float(text) if _SECONDS.fullmatch(text) else math.nan
    if not 0 <= seconds < math.inf:
        raise Problem(
            400, f"invalid_{name}", f"{name} is a number of seconds, {bound}; this one is {text[:100]!a}."
        )
    return seconds


def read_wait(headers: Headers, args: Args) -> tuple[float, Mapping[str, str]]:
    """How many seconds to hold the request, and the headers that say so (RFC 7240, at most 50 s).

    A malformed preference is ignored, as the RFC has it; a malformed `?wait=` is 400 `invalid_wait`.
    """
    if args.get("wait") is not None:
        return min(read_seconds(args, "wait", 0.0, "at most 50"), WAIT_MOST), {}
    for preference in ",".join(headers.getlist("Prefer")).split(","):
        name, _, value = preference.split(";")[0].partition("=")
        value = value.strip().strip('"')
        if name.strip().lower() == "wait" and _DIGITS.fullmatch(value) and len(value) < 10:
            seconds = min(float(value), WAIT_MOST)
            return seconds, {"Preference-Applied": f"wait={seconds:g}"}
    return 0.0, {}
