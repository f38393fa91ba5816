"""What a request may carry besides its body, and what an answer's headers say: by name, with every bound."""

import re
from typing import Any

from server.ids import shape
from server.web import diagnostics
from server.web.transports import get_routes as reads
from server.web.transports import read_params as cursor
from server.web.transports.websocket_endpoint import AUTHOR_MOST

Part = dict[str, Any]
_POSITION = {"type": "string", "pattern": "^([0-9]+|now)$"}


def _path(name: str, prefix: str) -> Part:
    what = {"type": "string", "pattern": shape(prefix)}
    return {"name": name, "in": "path", "required": True, "description": f"`{prefix}_…`", "schema": what}


def _query(name: str, said: str, **schema: Any) -> Part:
    return {"name": name, "in": "query", "description": said, "schema": schema}


def _header(name: str, said: str, **schema: Any) -> Part:
    return {"name": name, "in": "header", "description": said, "schema": {"type": "string", **schema}}


def _count(name: str, said: str, most: int, default: int | None = None) -> Part:
    known = {} if default is None else {"default": default}
    return _query(name, said, type="integer", minimum=1, maximum=most, **known)


_TYPE = "(" + "|".join(re.escape(name) for name in sorted(cursor.EVENT_TYPES)) + ")"
_PAUSE = "([5-9]|[1-5][0-9]|60)"
PARAMETERS: dict[str, Part] = {
    "conversation": _path("conversation", "conv"),
    "generation": _path("generation", "gen"),
    "call": _path("call", "call"),
    "author": _query(
        "author",
        "The name under which the others see you; you choose it.",
        type="string",
        minLength=1,
        maxLength=AUTHOR_MOST,
    ),
    "at": _query("at", "The snapshot as it was at this position: the fold of the events up to it.", **_POSITION),
    "after": _query(
        "after",
        "The cursor: only events after this position. `0`, empty or absent: all; `now`: only what comes.",
        type="string",
        pattern="^([0-9]+|now)?$",
    ),
    "before": _query("before", "The `next` of the last page, unchanged.", type="string", pattern="^[0-9]{1,18}$"),
    "before_position": _query(
        "before",
        "The `next` of a snapshot: its messages and generations in front of that position.",
        type="integer",
        minimum=1,
        maximum=10**9 - 1,
    ),
    "lastEventId": _query(
        "lastEventId",
        "The cursor, as polyfills of `EventSource` send it: wins over `after`; an empty one counts as absent.",
        pattern="^([0-9]+|now)?$",
        type="string",
    ),
    "types": _query(
        "types",
        "Only events of these types, with commas between; or all but those that have a minus in front. `next` "
        "and positions go on as if all had come. The types: " + ", ".join(sorted(cursor.EVENT_TYPES)),
        type="string",
        pattern=f"^({_TYPE}(,{_TYPE})*|-{_TYPE}(,-{_TYPE})*)$",
    ),
    "heartbeat": _query(
        "heartbeat",
        f"Seconds between signs of life on a quiet stream ({cursor.HEARTBEAT_LEAST} to {cursor.HEARTBEAT_MOST}). "
        "SSE: `event` makes them frames that a page can see (`event: heartbeat`, no id); both: `event,5`.",
        type="string",
        pattern=f"^(event|{_PAUSE})(,(event|{_PAUSE}))?$",
    ),
    "pending": _query(
        "pending",
        "`202`: the status is 202 until the generation has ended, for clients that poll so.",
        enum=["202"],
    ),
    "format": _query("format", "The form, whatever `Accept` says.", enum=[str(form) for form in cursor.Form]),
    "limit": _count("limit", "JSON: events on a page, at most.", cursor.LIMIT_MOST, default=cursor.LIMIT_DEFAULT),
    "conversations": _count("limit", "Conversations on a page, at most.", reads.PAGE_MOST, reads.PAGE_DEFAULT),
    "wait": _query(
        "wait",
        f"Seconds to hold a page or snapshot until there is something new; at most {cursor.WAIT_MOST:g} count.",
        type="number",
        minimum=0,
    ),
    "named": _query("named", "SSE: `1` names each event by its type.", enum=["0", "1"], default="0"),
    "pad": _count(
        "pad", "SSE: bytes of comment to begin with, for proxies that hold back the first.", cursor.PAD_MOST
    ),
    "chunks": _count("chunks", "How many.", diagnostics.CHUNKS_MOST, default=diagnostics.CHUNKS_DEFAULT),
    "interval": _query(
        "interval",
        "Seconds between two.",
        type="number",
        minimum=0,
        maximum=diagnostics.INTERVAL_MOST,
        default=diagnostics.INTERVAL_DEFAULT,
    ),
    "Last-Event-ID": _header(
        "Last-Event-ID",
        "The cursor, as an `EventSource` sends it by itself: wins over `after`; an empty one counts as absent.",
        pattern="^([0-9]+|now)?$",
    ),
    "If-None-Match": _header("If-None-Match", "The `ETag` you have: 304 while it is still the same."),
    "Prefer": _header(
        "Prefer",
        "`wait=20`: hold the request (RFC 7240); what was made of it is in `Preference-Applied`. Snapshots are "
        "held only with `If-None-Match`. `respond-async`: 202 until the end.",
    ),
    "Idempotency-Key": _header(
        "Idempotency-Key",
        "A random string: the same request sent again acts once and gets the first answer.",
        pattern=r"^[\x21-\x7e]{1,255}$",
        minLength=1,
        maxLength=255,
    ),
}


def _told(said: str, **schema: Any) -> Part:
    return {"description": said, "schema": {"type": "string", **schema}}


HEADERS: dict[str, Part] = {
    "ETag": _told("In quotes: a snapshot's position, or the digest of a page.", pattern='^"[0-9a-f]+"$'),
    "Location": _told("Where what was made, or asked for, is found."),
    "Preference-Applied": _told("How long the request may be held, of the wish in `Prefer`."),
    "Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}},
    "Vary": _told("The form depends on `Accept`."),
    "X-Accel-Buffering": _told("Tells nginx not to hold the stream back.", const="no"),
    "Incremental": _told("Asks intermediaries to pass bytes on as they come (RFC 10036).", const="?1"),
    "X-Request-ID": _told("The request's name in the server's log: the client's, or a new one."),
}
