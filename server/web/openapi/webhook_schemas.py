"""The messages of webhooks in the OpenAPI document: what receivers are sent, and by which answer it is taken.

Owns their schemas, by hand, because they are made by hand; a test has what is sent checked by them. Must not know
how a message is signed or delivered.
"""

from typing import Any, Final

from server.event_types import TERMINAL

Schema = dict[str, Any]
REF: Final = "#/components/schemas/"

_PLACE: Schema = {
    "generation": {"type": "string"},
    "conversation": {"type": "string"},
    "position": {"type": "integer", "minimum": 1, "description": "Of the event in the conversation's log."},
    "snapshot": {"type": "string", "description": "Where the generation's state is."},
}
_CALL: Schema = {
    "type": "object",
    "properties": {
        "call": {"type": "string"},
        "name": {"type": "string", "description": "The tool's, or of what a workflow asks."},
        "expires_at": {"type": ["string", "null"], "format": "date-time", "description": "When it is rejected."},
    },
    "required": ["call", "name", "expires_at"],
}
_BUDGET: Schema = {
    "type": "object",
    "properties": {
        "bound": {"enum": ["tokens", "cost"]},
        "limit": {"type": "number"},
        "used": {"type": "number"},
    },
    "required": ["bound", "limit", "used"],
}


def _message(title: str, said: str, types: list[str], data: Schema, optional: tuple[str, ...] = ()) -> Schema:
    fields = {**_PLACE, **data}
    return {
        "title": title,
        "type": "object",
        "description": said,
        "properties": {
            "type": {"enum": types},
            "timestamp": {"type": "string", "format": "date-time", "description": "When it happened."},
            "data": {
                "type": "object",
                "properties": fields,
                "required": [name for name in fields if name not in optional],
            },
        },
        "required": ["type", "timestamp", "data"],
    }


WEBHOOK_SCHEMAS: Final[dict[str, Schema]] = {
    "EndedMessage": _message(
        "EndedMessage",
        "A generation has ended.",
        sorted(TERMINAL),
        {
            "event": {
                "description": "The last event; null if it takes more than 128 KiB.",
                "anyOf": [{"$ref": REF + "Event"}, {"type": "null"}],
            }
        },
    ),
    "WaitingMessage": _message(
        "WaitingMessage",
        "A generation waits for somebody. No arguments of a call are in it: whoever decides sees them at `url`.",
        ["generation.waiting"],
        {
            "waiting_for": {"enum": ["approval", "input", "budget"]},
            "calls": {"type": "array", "items": _CALL, "description": "None where it waits for its budget."},
            "budget": _BUDGET,
            "url": {"type": "string", "description": "The generation, as `snapshot`."},
        },
        optional=("budget",),
    ),
}

_HEADERS: Final[dict[str, str]] = {
    "webhook-id": "The same for every try of a message: a message may come twice.",
    "webhook-timestamp": "When this try was made, in seconds since 1970.",
    "webhook-signature": "One or more with spaces between them: `v1,…` with the secret, `v1a,…` with a key pair.",
}


def _header(name: str, said: str) -> Schema:
    return {"name": name, "in": "header", "required": True, "description": said, "schema": {"type": "string"}}


def _webhook(name: str, schema: str, summary: str) -> Schema:
    return {
        "post": {
            "operationId": name,
            "summary": summary,
            "description": "Signed as by Standard Webhooks 1.0. Sent again until it is taken.",
            "parameters": [_header(header, said) for header, said in _HEADERS.items()],
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": REF + schema}}},
            },
            "responses": {
                "2XX": {"description": "Taken, within 15 seconds."},
                "410": {"description": "Nothing more of this generation, please."},
                "default": {"description": "Not taken: it is sent again. A redirect is not followed."},
            },
        }
    }


WEBHOOKS: Final[dict[str, Schema]] = {
    "ended": _webhook("tellEnd", "EndedMessage", "A generation has ended"),
    "waiting": _webhook("tellWait", "WaitingMessage", "A generation waits"),
}
