"""Every code of a problem, with its status and its meaning; and refusals as responses of the document.

A test searches the source for codes that are missing here. Must not know which operation may be refused with
which.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from server.web.edge.problem_json import MEDIA_TYPE

CODES: Mapping[str, tuple[int, str]] = {
    "bad_request": (400, "the request could not be understood"),
    "cursor_ahead": (400, "the cursor is past the log's `head`"),
    "invalid_author": (400, "`author` is not a name of 1 to 200 characters"),
    "invalid_chunks": (400, "`chunks` is not a whole number within its bounds"),
    "invalid_cursor": (400, "the cursor is not a whole number ≥ 0 (or `now`)"),
    "invalid_format": (400, "`format` is not one of sse, ndjson, json"),
    "invalid_idempotency_key": (400, "the key is not 1 to 255 printable ASCII characters"),
    "invalid_interval": (400, "`interval` is not a number of seconds within its bounds"),
    "invalid_json": (400, "the body is not JSON in UTF-8"),
    "invalid_limit": (400, "`limit` is not a whole number within its bounds"),
    "invalid_named": (400, "`named` is neither 1 nor 0"),
    "invalid_types": (
        400,
        "`types` lists no types of events, or mixes those to pick with those to leave out",
    ),
    "invalid_heartbeat": (400, "`heartbeat` is not `event`, nor a whole number of seconds within its bounds"),
    "invalid_before": (400, "`before` is not a whole number within its bounds"),
    "invalid_pending": (400, "`pending` is not 202"),
    "invalid_pad": (400, "`pad` is not a whole number within its bounds"),
    "invalid_wait": (400, "`wait` is not a number of seconds ≥ 0"),
    "unauthenticated": (401, "the server asks who calls, and nothing was sent that says so"),
    "invalid_credential": (401, "the credential is unknown, malformed, or not for this"),
    "expired_credential": (401, "the credential was good and its time is over"),
    "revoked_credential": (401, "the credential, or what it was made from, was revoked or has ended"),
    "ticket_used": (401, "the ticket has another reader, or a newer connection of the same one"),
    "conversations_limited": (403, "the credential is for certain conversations, and starts no other ones"),
    "https_required": (403, "a browser is signed in over https only, or on the server's own machine"),
    "origin_required": (
        403,
        "a request that a cookie signs in has to say that a page of this server makes it",
    ),
    "origin_not_allowed": (403, "pages of this `Origin` may not post here"),
    "another_person_required": (403, "somebody else has to approve the call"),
    "scope_required": (403, "the caller has not the `scope` that this needs"),
    "not_found": (404, "there is none, or it belongs to somebody else"),
    "method_not_allowed": (405, "the address does not take this method; see `Allow`"),
    "body_too_slow": (408, "the body did not arrive in time"),
    "already_approved": (409, "this person has approved the call; another one has to"),
    "already_decided": (409, "the call was decided before; `decision` says how"),
    "already_finished": (409, "the call has its result"),
    "decision_expired": (409, "the time to decide on the call is over"),
    "digest_mismatch": (409, "the decision is about other arguments than those of `arguments_digest`"),
    "generation_ended": (409, "the `generation` has ended"),
    "generation_running": (409, "another `generation` of this conversation is still running"),
    "no_budget": (409, "the generation has no budget"),
    "no_decision_needed": (409, "the call runs without a decision"),
    "not_started": (409, "nobody may run the call yet, or a client may not"),
    "queue_full": (409, "`limit` generations of this conversation have not ended"),
    "cursor_expired": (410, "events after the cursor are not kept any more; read the `snapshot`"),
    "gone": (410, "it was ephemeral, and its time is over"),
    "file_too_large": (413, "the file is larger than `limit` bytes"),
    "body_too_large": (413, "the body is larger than `limit` bytes"),
    "unsupported_media_type": (
        415,
        "a body has to be application/json, and not compressed; a file may be of any type but that, or in a form",
    ),
    "range_not_satisfiable": (416, "the file has none of the bytes that `Range` asks for; `limit` is its size"),
    "host_not_allowed": (421, "the server does not answer to this `Host`"),
    "file_unknown": (422, "there is no such file, or no more: see `field` and `digest`"),
    "files_too_large": (422, "the files of the prompt have more than `limit` bytes together"),
    "empty_file": (422, "the file has no bytes"),
    "invalid_form": (422, "the form has to hold the one field `file`"),
    "invalid_arguments": (422, "the call's tool does not take these arguments"),
    "invalid_budget": (422, "the bound would not be raised by this; see `field`"),
    "invalid_input": (422, "the workflow does not take this `input`; see `errors`"),
    "invalid_parameters": (422, "the model refuses its parameters; see `field`"),
    "invalid_request": (422, "the JSON has not the right shape; see `errors` or `field`"),
    "invalid_text": (422, "a text holds U+0000 or an unpaired surrogate"),
    "invalid_value": (422, "the parameter cannot have this `value`"),
    "invalid_webhook": (422, "the webhook's URL leads nowhere that it may"),
    "key_required": (422, "a command on the WebSocket needs a `key`"),
    "key_reused": (422, "the idempotency key was used before with another body"),
    "not_available": (422, "a field that this version does not serve; see `field`"),
    "not_steerable": (422, "nothing of this generation can be steered"),
    "unknown_command": (422, "`do` names no command"),
    "unknown_model": (422, "no upstream serves this model"),
    "unknown_parameter": (422, "the workflow declares no parameter of this `name`"),
    "unknown_price": (422, "the cost of a model without a price cannot be bounded"),
    "unknown_tool": (422, "the server has no tool of this name; see `field`"),
    "unknown_workflow": (422, "the server has no workflow of this name"),
    "webhooks_not_configured": (422, "the server has no secret and no key to sign webhooks with"),
    "upgrade_required": (426, "the address speaks WebSocket only"),
    "rate_limited": (
        429,
        "the caller has reached a limit: see `limit` and `value`; come back after `retry_after` seconds",
    ),
    "too_many_attempts": (429, "too many wrong credentials came from this address"),
    "internal_error": (500, "the server failed; the request may be sent again"),
    "draining": (503, "the server is stopping; come back in a moment"),
    "overloaded": (503, "all places are taken; see `limit`"),
    "unavailable": (503, "the database does not answer; nothing was lost"),
}

SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "description": "Why a request was refused (RFC 9457). More fields may stand beside these.",
    "type": "object",
    "properties": {
        "type": {"type": "string", "format": "uri-reference", "description": "Where `/docs` tells of this code."},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string", "description": "For people: what was wrong, which limit, how to mend it."},
        "code": {
            "enum": sorted(CODES),
            "description": "For programs; never changes. "
            + "; ".join(f"`{code}`" for code in sorted(CODES))
            + ".",
        },
        "head": {"type": "integer", "description": "With `cursor_ahead`, `cursor_expired`."},
        "earliest": {"type": "integer", "description": "With `cursor_expired`: the first position that is kept."},
        "snapshot": {"type": "string", "description": "With `cursor_expired`: where to start again."},
        "limit": {"type": "number", "description": "The limit that was passed."},
        "field": {"type": "string", "description": "The field that was refused."},
        "digest": {"type": "string", "description": "With `file_unknown`: of which file."},
        "scope": {"type": "string", "description": "With `scope_required`: the scope that is missing."},
        "generation": {
            "type": "string",
            "description": "With `generation_running`, `generation_ended`: which one.",
        },
        "decision": {
            "enum": ["approved", "rejected", "modified"],
            "description": "With `already_decided`: what was decided.",
        },
        "arguments_digest": {
            "type": "string",
            "description": "With `digest_mismatch`: that of the arguments to decide on.",
        },
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
                "required": ["field", "message"],
            },
        },
    },
    "required": ["type", "title", "status", "detail", "code"],
}


_MORE_HEADERS = {401: ("WWW-Authenticate",), 416: ("Content-Range",), 429: ("Retry-After",), 503: ("Retry-After",)}


def responses(codes: Iterable[str]) -> dict[str, Any]:
    """The refusals with these codes, as responses by status."""
    by_status: dict[int, list[str]] = {}
    for code in sorted(set(codes), key=lambda code: (CODES[code][0], code)):
        by_status.setdefault(CODES[code][0], []).append(code)
    return {str(status): _response(status, found) for status, found in by_status.items()}


def _response(status: int, codes: list[str]) -> dict[str, Any]:
    narrowed = {"properties": {"code": {"enum": codes}, "status": {"const": status}}}
    headers = ["X-Request-ID", *_MORE_HEADERS.get(status, ())]
    return {
        "description": "; ".join(f"`{code}`: {CODES[code][1]}" for code in codes),
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in headers},
        "content": {MEDIA_TYPE: {"schema": {"allOf": [{"$ref": "#/components/schemas/Problem"}, narrowed]}}},
    }
