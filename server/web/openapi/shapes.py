"""All schemas of bodies, by name: taken from what encodes answers and what checks requests.

Answers come from msgspec's shapes (`views`, `diagnostics`, `events`), requests from `asked`, the WebSocket's texts
from `frames`. Only what is written as bytes elsewhere, a page, is described here in its own right.
"""

from typing import Any

import msgspec

from server.web import diagnostics
from server.web.openapi import events, frames, problems
from server.web.openapi.asked import PREFIX, requests
from server.web.snapshots import snapshot_json as views
from server.webhooks.webhook_events import WebhookSnapshot
from server.wire.websocket import Person

Schema = dict[str, Any]

ANSWERS = (
    views.GenerationSnapshot,
    views.CancelledGeneration,
    views.ConversationSnapshot,
    views.ConversationList,
    views.Health,
    diagnostics.DiagnosticChunk,
    WebhookSnapshot,
    Person,
)
TIMES = ("at", "created_at", "started_at", "finished_at", "expires_at", "since")


def ref(name: str) -> Schema:
    """A reference to a schema by name."""
    return {"$ref": PREFIX + name}


def schemas() -> dict[str, Schema]:
    """Every schema of the document."""
    (*_, union), found = msgspec.json.schema_components([*ANSWERS, events.Event], ref_template=PREFIX + "{name}")
    asked = requests()
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
        "ServerFrame": frames.SERVER_FRAME,
        "ClientCommand": frames.client_command(asked),
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
