"""All schemas of bodies, by name: taken from what encodes answers and what checks requests.

Answers come from msgspec's shapes (`views`, `diagnostics`, `events`), requests from pydantic's (`asks`). Only what
is written as text or bytes elsewhere (a page, a WebSocket's frames) is described here in its own right.
"""

from typing import Any

import msgspec
from pydantic.json_schema import models_json_schema

from server.web import asks, diagnostics, views
from server.web.openapi import events, problems

Schema = dict[str, Any]

ANSWERS = (
    views.GenerationSnapshot,
    views.CancelledGeneration,
    views.ConversationSnapshot,
    views.ConversationList,
    views.Health,
    diagnostics.DiagnosticChunk,
)
REQUESTS = (asks.ConversationAsk, asks.MessageAsk, asks.GenerationAsk, asks.CancelAsk)
TIMES = ("at", "created_at", "started_at", "finished_at")
PREFIX = "#/components/schemas/"


def ref(name: str) -> Schema:
    """A reference to a schema by name."""
    return {"$ref": PREFIX + name}


def schemas() -> dict[str, Schema]:
    """Every schema of the document."""
    (*_, union), found = msgspec.json.schema_components([*ANSWERS, events.Event], ref_template=PREFIX + "{name}")
    _, asked = models_json_schema([(model, "validation") for model in REQUESTS], ref_template=PREFIX + "{model}")
    asked = {name: _plain(schema) for name, schema in asked["$defs"].items()}
    found = {name: _timed(schema) for name, schema in found.items()}
    named = {
        "Event": {
            "title": "Event",
            "description": "One fact of a conversation, the same object on every transport. Ignore types and "
            "fields that you do not know: there will be more.",
            "oneOf": union["anyOf"],
            "discriminator": union["discriminator"],
        },
        "EventPage": PAGE,
        "Problem": problems.SCHEMA,
        "ServerFrame": SERVER_FRAME,
        "ClientCommand": {
            "title": "ClientCommand",
            "description": "What a client may send on the WebSocket: the fields of the POST of the same meaning.",
            "oneOf": _commands(asked),
        },
    }
    return dict(sorted({**found, **asked, **named}.items()))


def _timed(schema: Schema) -> Schema:
    """Says of times that they are; msgspec knows, and keeps it to itself."""
    for name, field in schema.get("properties", {}).items():
        if name in TIMES:
            for branch in field.get("anyOf", [field]):
                if branch.get("type") == "string":
                    branch["format"] = "date-time"
    return schema


def _plain(schema: Schema) -> Schema:
    """Without pydantic's titles, which repeat the names."""
    for field in schema.get("properties", {}).values():
        field.pop("title", None)
    return schema


PAGE: Schema = {
    "title": "EventPage",
    "description": "Some of the log, after the cursor.",
    "type": "object",
    "properties": {
        "events": {"type": "array", "items": ref("Event")},
        "next": {
            "type": "integer",
            "minimum": 0,
            "description": "How far the log was scanned, also when nothing matched: the next `after`.",
        },
        "up_to_date": {"type": "boolean", "description": "Whether that was the end of the log just now."},
        "closed": {"type": "boolean", "description": "Whether nothing will ever follow."},
    },
    "required": ["events", "next", "up_to_date", "closed"],
}


def _frame(kind: str, said: str, optional: tuple[str, ...] = (), **fields: Schema) -> Schema:
    return {
        "type": "object",
        "description": said,
        "properties": {"kind": {"const": kind}, **fields},
        "required": ["kind", *(name for name in fields if name not in optional)],
    }


_COMMAND_ID: Schema = {
    "type": ["string", "integer", "null"],
    "maxLength": 200,
    "description": "Pairs a command with its reply; nothing else.",
}
_COUNT: Schema = {"type": "integer", "minimum": 0}

SERVER_FRAME: Schema = {
    "title": "ServerFrame",
    "description": "What the server sends on the WebSocket. Ignore kinds that you do not know.",
    "oneOf": [
        _frame("hello", "First of all.", conversation={"type": "string"}, after=_COUNT, head=_COUNT),
        _frame("event", "One event of the log.", event=ref("Event")),
        _frame("caught_up", "The reader stands at the head.", position=_COUNT),
        _frame(
            "reply",
            "A command that was carried out: the status, `Location` and body of the POST of the same meaning.",
            optional=("location",),
            id=_COMMAND_ID,
            status={"type": "integer"},
            location={"type": ["string", "null"]},
            body={"type": "object"},
        ),
        _frame(
            "error",
            "A command, or the connection, that was refused. The other fields are those of the problem.",
            optional=("id", "status"),
            id=_COMMAND_ID,
            status={"type": "integer"},
            code={"enum": sorted(problems.CODES)},
            detail={"type": "string"},
        ),
    ],
    "discriminator": {"propertyName": "kind"},
}


def _commands(asked: dict[str, Schema]) -> list[Schema]:
    generation: Schema = {"type": "string", "description": "The id of the generation."}
    after: Schema = {"type": ["integer", "string"], "minimum": 0, "pattern": "^([0-9]+|now)$"}
    nothing: Schema = {"properties": {}, "required": []}
    return [
        _command("post", asked["MessageAsk"]),
        _command("generate", asked["GenerationAsk"]),
        _command("cancel", asked["CancelAsk"], key=False, generation=generation),
        _command("resync", nothing, key=False, after=after),
    ]


def _command(verb: str, ask: Schema, *, key: bool = True, **more: Schema) -> Schema:
    return {
        "type": "object",
        "properties": {
            "do": {"const": verb},
            "id": _COMMAND_ID,
            "key": {"type": "string", "minLength": 16, "maxLength": 255, "description": "The idempotency key."},
            **more,
            **ask["properties"],
        },
        "required": ["do", *(["key"] if key else []), *more, *ask.get("required", [])],
    }
