"""The WebSocket's texts as schemas: what the server sends (`server.wire.websocket`), what a client may send.

A command has the fields of the POST of the same meaning; what stands in that one's address stands beside them.
"""

from typing import Any

from server.web.openapi import problems
from server.web.openapi.asked import PREFIX
from server.web.transports.presence import MOST_LISTED

Schema = dict[str, Any]


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
        _frame("event", "One event of the log.", event={"$ref": PREFIX + "Event"}),
        _frame(
            "presence",
            "Who is connected to the conversation, by this server: after `hello`, and whenever somebody comes or "
            "goes; who reads slowly gets the newest only. Never in the log.",
            you={"type": "string", "description": "The `connection` that this goes to."},
            count={"type": "integer", "minimum": 1, "description": "How many there are."},
            people={
                "type": "array",
                "maxItems": MOST_LISTED,
                "items": {"$ref": PREFIX + "Person"},
                "description": f"Who came first is first; at most {MOST_LISTED} are listed.",
            },
        ),
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


def client_command(asked: dict[str, Schema]) -> Schema:
    """Every command, with the bodies of the POSTs by name."""
    generation: Schema = {"type": "string", "description": "The id of the generation."}
    call: Schema = {"type": "string", "description": "The id of the call."}
    after: Schema = {"type": ["integer", "string"], "minimum": 0, "pattern": "^([0-9]+|now)$"}
    rewind: Schema = {"description": "Reads again from another cursor, in place.", "properties": {}}
    commands = [
        *_commands("post", asked["MessageAsk"]),
        *_commands("generate", asked["GenerationAsk"]),
        *_commands("cancel", asked["CancelAsk"], key=False, generation=generation),
        *_commands("steer", asked["SteerAsk"], generation=generation),
        *_commands("decide", asked["DecisionAsk"], generation=generation),
        *_commands("tool_result", asked["ToolResultAsk"], generation=generation, call=call),
        *_commands("resync", rewind, key=False, after=after),
    ]
    return {
        "title": "ClientCommand",
        "description": "What a client may send on the WebSocket: the fields of the POST of the same meaning.",
        "oneOf": commands,
    }


def _commands(verb: str, ask: Schema, *, key: bool = True, **more: Schema) -> list[Schema]:
    """One a way in which the POST's body may look."""
    return [_command(verb, way, key=key, **more) for way in ask.get("oneOf", [ask])]


def _command(verb: str, ask: Schema, *, key: bool = True, **more: Schema) -> Schema:
    return {
        "type": "object",
        "description": ask["description"],
        "properties": {
            "do": {"const": verb},
            "id": _COMMAND_ID,
            "key": {"type": "string", "minLength": 16, "maxLength": 255, "description": "The idempotency key."},
            **more,
            **ask["properties"],
        },
        "required": ["do", *(["key"] if key else []), *more, *ask.get("required", [])],
    }
