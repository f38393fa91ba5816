"""Every operation of the API: the table `operations.toml`, made into the paths of the OpenAPI document.

Owns the parameters and response headers that the table names, with their bounds, which are those of the code that
reads them. The prose of the operations is in the table alone.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

from server.files.file_store import DIGEST_PATTERN
from server.ids import id_pattern
from server.web import operator_endpoints
from server.web.edge.authorization import LOOPBACK_COOKIE, SECURE_COOKIE, TICKET_PROTOCOL
from server.web.edge.route_scopes import RouteScope, route_scope
from server.web.openapi import problem_codes
from server.web.openapi.component_schemas import ref
from server.web.transports.read_endpoints import DEFAULT_PAGE, MAX_PAGE
from server.web.transports.read_params import (
    DEFAULT_LIMIT,
    EVENT_TYPES,
    MAX_HEARTBEAT,
    MAX_LIMIT,
    MAX_PAD,
    MAX_WAIT,
    MIN_HEARTBEAT,
    Form,
)
from server.web.transports.websocket_endpoint import MAX_AUTHOR
from server.web.upload_body import FIELD

Part = dict[str, Any]
_POSITION = {"type": "string", "pattern": "^([0-9]+|now)$"}


def _path(name: str, prefix: str) -> Part:
    what = {"type": "string", "pattern": id_pattern(prefix)}
    return {"name": name, "in": "path", "required": True, "description": f"`{prefix}_…`", "schema": what}


def _query(name: str, said: str, **schema: Any) -> Part:
    return {"name": name, "in": "query", "description": said, "schema": schema}


def _header(name: str, said: str, **schema: Any) -> Part:
    return {"name": name, "in": "header", "description": said, "schema": {"type": "string", **schema}}


def _count(name: str, said: str, most: int, default: int | None = None) -> Part:
    known = {} if default is None else {"default": default}
    return _query(name, said, type="integer", minimum=1, maximum=most, **known)


_TYPE = "(" + "|".join(re.escape(name) for name in sorted(EVENT_TYPES)) + ")"
_PAUSE = "([5-9]|[1-5][0-9]|60)"
PARAMETERS: dict[str, Part] = {
    "conversation": _path("conversation", "conv"),
    "generation": _path("generation", "gen"),
    "call": _path("call", "call"),
    "digest": {
        "name": "digest",
        "in": "path",
        "required": True,
        "description": "The SHA-256 of the file's bytes.",
        "schema": {"type": "string", "pattern": DIGEST_PATTERN},
    },
    "Range": _header(
        "Range", "`bytes=0-99`: only these bytes. Several ranges are answered with the whole file (RFC 9110)."
    ),
    "If-Range": _header(
        "If-Range", "The `ETag` of what you have: the range is of that, else the whole file comes."
    ),
    "author": _query(
        "author",
        "The name under which the others see you; you choose it.",
        type="string",
        minLength=1,
        maxLength=MAX_AUTHOR,
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
        "and positions go on as if all had come. The types: " + ", ".join(sorted(EVENT_TYPES)),
        type="string",
        pattern=f"^({_TYPE}(,{_TYPE})*|-{_TYPE}(,-{_TYPE})*)$",
    ),
    "heartbeat": _query(
        "heartbeat",
        f"Seconds between signs of life on a quiet stream ({MIN_HEARTBEAT} to {MAX_HEARTBEAT}). "
        "SSE: `event` makes them frames that a page can see (`event: heartbeat`, no id); both: `event,5`.",
        type="string",
        pattern=f"^(event|{_PAUSE})(,(event|{_PAUSE}))?$",
    ),
    "pending": _query(
        "pending",
        "`202`: the status is 202 until the generation has ended, for clients that poll so.",
        enum=["202"],
    ),
    "format": _query("format", "The form, whatever `Accept` says.", enum=[str(form) for form in Form]),
    "limit": _count("limit", "JSON: events on a page, at most.", MAX_LIMIT, default=DEFAULT_LIMIT),
    "conversations": _count("limit", "Conversations on a page, at most.", MAX_PAGE, DEFAULT_PAGE),
    "wait": _query(
        "wait",
        f"Seconds to hold a page or snapshot until there is something new; at most {MAX_WAIT:g} count.",
        type="number",
        minimum=0,
    ),
    "named": _query("named", "SSE: `1` names each event by its type.", enum=["0", "1"], default="0"),
    "pad": _count("pad", "SSE: bytes of comment to begin with, for proxies that hold back the first.", MAX_PAD),
    "chunks": _count(
        "chunks", "How many.", operator_endpoints.MAX_CHUNKS, default=operator_endpoints.DEFAULT_CHUNKS
    ),
    "interval": _query(
        "interval",
        "Seconds between two.",
        type="number",
        minimum=0,
        maximum=operator_endpoints.MAX_INTERVAL,
        default=operator_endpoints.DEFAULT_INTERVAL,
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


def _response_header(said: str, **schema: Any) -> Part:
    return {"description": said, "schema": {"type": "string", **schema}}


HEADERS: dict[str, Part] = {
    "ETag": _response_header(
        "In quotes: a snapshot's position, or the digest of a page.", pattern='^"[0-9a-f]+"$'
    ),
    "Location": _response_header("Where what was made, or asked for, is found."),
    "Preference-Applied": _response_header("How long the request may be held, of the wish in `Prefer`."),
    "Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}},
    "Vary": _response_header("What the answer depends on: the form on `Accept`."),
    "Content-Range": _response_header("Which bytes of how many these are.", pattern="^bytes [0-9*]"),
    "Content-Disposition": _response_header("Whether a browser shows the file, and its name when it is saved."),
    "Accept-Ranges": _response_header("A part of it can be asked for.", const="bytes"),
    "X-Accel-Buffering": _response_header("Tells nginx not to hold the stream back.", const="no"),
    "Incremental": _response_header("Asks intermediaries to pass bytes on as they come (RFC 10036).", const="?1"),
    "Set-Cookie": _response_header("The session's cookie."),
    "WWW-Authenticate": _response_header("The scheme of `Authorization` that is asked for.", const="Bearer"),
    "X-Request-ID": _response_header("The request's name in the server's log: the client's, or a new one."),
}


# -- the table of operations

TABLE: Mapping[str, Any] = tomllib.loads(
    files("server.web.openapi").joinpath("operations.toml").read_text(encoding="utf-8")
)
"""`operations.toml`; the comment on top of it says how it is read."""
EXAMPLE_BODIES: Mapping[str, dict[str, Any]] = TABLE["bodies"]["generate"]
"""The request bodies in the examples of `POST …/generations`, by their labels."""
_MEDIA_TYPES = {"json": "application/json", "sse": "text/event-stream", "ndjson": "application/x-ndjson"}
_LINES = "A JSON object a line; an empty line at once and now and then is a sign of life."
_FRAMES = (
    "A stream of such frames. It begins with `retry:` and a frame of an id alone; a comment now and then is a "
    "sign of life; what ends by itself ends with `data: [DONE]`, which has no id."
)


def paths(tags: list[str]) -> dict[str, dict[str, Any]]:
    """The `paths` of the document: operations in the order of their tags, then of their addresses, POST first."""
    found: dict[str, dict[str, Any]] = {}
    operations = [(*one["address"].lower().split(" ", 1), one) for one in TABLE["operations"]]
    for method, path, one in sorted(operations, key=lambda o: (tags.index(o[2]["tag"]), o[1], o[0] != "post")):
        found.setdefault(path, {})[method] = _operation(one)
    return found


def _operation(row: Mapping[str, Any]) -> dict[str, Any]:
    """One row of the table as an operation object."""
    description = row["description"]
    for name, text in TABLE["descriptions"].items():
        description = description.replace("{" + name + "}", text)
    made: dict[str, Any] = {
        "operationId": row["id"],
        "tags": [row["tag"]],
        "summary": row["summary"],
        "description": description,
    }
    if "parameters" in row:
        names = _words(row["parameters"], TABLE["parameters"])
        made["parameters"] = [{"$ref": f"#/components/parameters/{name}"} for name in names]
    if "body" in row:
        made["requestBody"] = _request_body(row)
    elif "file" in row:
        made["requestBody"] = _FILE_BODY
    scope = _scope_of(row)
    made["security"] = _security(scope)
    responses = {status: _response(response) for status, response in row["responses"].items()}
    problems = _words(f"{row.get('problems', '')} {_refusals(row, scope)}", TABLE["problems"])
    made["responses"] = responses | problem_codes.responses(problems)
    shell = row.get("shell", {})
    made["x-codeSamples"] = [{"lang": "Shell", "label": name, "source": source} for name, source in shell.items()]
    return {**made, **row.get("more", {})}


def _scope_of(row: Mapping[str, Any]) -> RouteScope:
    """What the operation needs of its caller, from the table that the server asks."""
    method, path = row["address"].split(" ", 1)
    rule = re.sub("{(conversation|generation)}", "<name>", path)
    rule = re.sub("{(call|digest)}", r"<\1>", rule)
    return route_scope("WEBSOCKET" if rule.endswith("/ws") else method, rule)


def _security(scope: RouteScope) -> list[dict[str, list[str]]]:
    """The operation's security requirements. Any one is enough; the empty one holds until a key was made."""
    if scope.need == "nothing":
        return []
    schemes = ["bearer", "cookie", *(["ticket"] if scope.stream else [])]
    roles = [[one] for one in scope.scopes] or [[]]
    return [{}, *({scheme: role} for role in roles for scheme in schemes)]


def _refusals(row: Mapping[str, Any], scope: RouteScope) -> str:
    """The problems of an operation's security."""
    if scope.need == "nothing":
        return ""
    found = ["@signed_in"]
    if scope.scopes:
        found.append("scope_required")
    if scope.creates:
        found.append("conversations_limited")
    if scope.stream:
        found.append("ticket_used")
    if scope.stream == "websocket" or not row["address"].startswith("GET "):
        found.append("origin_required")
    return " ".join(found)


SECURITY_SCHEMES: dict[str, Part] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key (`tt_key_…`), or a token (JWT) of the app that this server is part of.",
    },
    "cookie": {
        "type": "apiKey",
        "in": "cookie",
        "name": SECURE_COOKIE,
        "description": "The session of a browser, from `POST /v1/session`. Over plain http on the server's own "
        f"machine it is called `{LOOPBACK_COOKIE}`.",
    },
    "ticket": {
        "type": "apiKey",
        "in": "query",
        "name": "ticket",
        "description": "For one stream of one reader, from `POST …/tickets`. A WebSocket may offer it as the "
        f"subprotocol `{TICKET_PROTOCOL}<ticket>` beside `tokentape.v1`.",
    },
}


def _words(text: str, named: Mapping[str, str]) -> Iterator[str]:
    """The words of a text, with each `@name` replaced by the words that have this name."""
    for word in text.split():
        if word.startswith("@"):
            yield from _words(named[word[1:]], named)
        else:
            yield word


_FILE_BODY: Part = {
    "description": "The file: the body itself, of any type but JSON, or the one field of a form.",
    "required": True,
    "content": {
        "application/octet-stream": {"schema": {"type": "string", "minLength": 1, "format": "binary"}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {FIELD: {"type": "string", "minLength": 1, "format": "binary"}},
                "required": [FIELD],
                "additionalProperties": False,
            }
        },
    },
}


def _request_body(row: Mapping[str, Any]) -> dict[str, Any]:
    media: dict[str, Any] = {"schema": ref(row["body"])}
    examples = row.get("body_examples", {})
    if isinstance(examples, str):
        examples = TABLE["bodies"][examples]
    if examples:
        media["examples"] = {name: {"summary": name, "value": value} for name, value in examples.items()}
    return {"required": row.get("body_required", False), "content": {"application/json": media}}


def _response(given: str | Mapping[str, Any]) -> dict[str, Any]:
    """A response of the table as a response object."""
    response = TABLE["responses"][given] if isinstance(given, str) else given
    headers = [*response.get("headers", "").split(), "X-Request-ID"]
    made: dict[str, Any] = {
        "description": response["description"],
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in headers},
    }
    if "content" in response:
        made["content"] = dict(_media(name, schema) for name, schema in response["content"].items())
    if "links" in response:
        made["links"] = {
            target: {"operationId": target, "parameters": link["parameters"]}
            | ({"requestBody": link["body"]} if "body" in link else {})
            for target, link in TABLE["links"][response["links"]].items()
        }
    return made


def _media(name: str, schema: str) -> tuple[str, dict[str, Any]]:
    """A media type and its object. `schema` is a component's name, or a description where there is none."""
    media_type = _MEDIA_TYPES.get(name, name)
    if name == "sse":
        return media_type, {"schema": _sse_frame(schema), "x-item-schema": ref(schema)}
    if name == "ndjson":
        return media_type, {"schema": {"type": "string", "description": _LINES}, "x-item-schema": ref(schema)}
    if name == "json":
        return media_type, {"schema": ref(schema) if schema else {"type": "object"}}
    return media_type, {"schema": {"type": "string", **({"description": schema} if schema else {})}}


def _sse_frame(name: str) -> dict[str, Any]:
    """One frame of a stream of events, as OpenAPI describes server-sent events: its fields are texts."""
    content = {"type": "string", "contentMediaType": "application/json", "contentSchema": ref(name)}
    return {
        "type": "object",
        "description": _FRAMES,
        "properties": {
            "id": {"type": "string", "pattern": "^[0-9]*$"},
            "event": {"type": "string"},
            "data": {"anyOf": [{"const": "[DONE]"}, content]},
        },
        "required": ["data"],
    }
