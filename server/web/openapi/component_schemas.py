"""The schemas of the OpenAPI document, by name: bodies of requests and responses, events, WebSocket messages.

Owns the document's names of request models, what their fields mean, and the schemas of what is written as bytes
(the JSON page, WebSocket messages). Schemas of responses and events come from the msgspec structs that encode
them, those of requests from the pydantic models that check them. Alternatives that those models cannot express (a
model or a workflow, a result or an error) are spelled out here. A WebSocket command has the fields of the POST of
the same meaning, and the ids of that POST's address beside them.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from server.web import file_endpoints, operator_endpoints, session_endpoints, ticket_endpoints
from server.web.commands import request_models as models
from server.web.openapi import event_schemas, problem_codes, webhook_schemas
from server.web.snapshots import snapshot_json
from server.web.transports.presence import MAX_LISTED
from server.web.webhook_endpoints import WebhookPublicKeys
from server.webhooks.webhook_events import WebhookSnapshot
from server.wire_formats import Person

Schema = dict[str, Any]

PREFIX = "#/components/schemas/"
COMPONENT_NAMES: Mapping[type[BaseModel], str] = {
    models.CreateConversation: "ConversationAsk",
    models.CreateMessage: "MessageAsk",
    models.AskedText: "TextPartAsk",
    models.AskedImage: "ImagePartAsk",
    models.AskedFile: "FilePartAsk",
    models.GenerateRequest: "GenerationAsk",
    models.ModelInput: "InputAsk",
    models.CancelRequest: "CancelAsk",
    models.CreateTicket: "TicketAsk",
    models.SteerRequest: "SteerAsk",
    models.BudgetBounds: "BudgetAsk",
    models.ToolDecision: "DecisionAsk",
    models.ToolResult: "ToolResultAsk",
    models.ClientTool: "ClientToolAsk",
    models.WebhookTarget: "WebhookAsk",
}
"""The names of request models in the document. They are public: code is generated from them."""
_FIELD_DESCRIPTIONS: Mapping[str, Mapping[str, str]] = {
    "GenerationAsk": {
        "model": "`demo`, `openai/…`, `anthropic/…`.",
        "workflow": "The name of one that the server has loaded.",
        "parameters": "The model's own. A workflow may read them.",
        "tools": "What the model may call: names of tools that the server has loaded, or declarations of those "
        "that the client runs.",
        "if_running": "While another generation of the conversation has not ended: `reject` (409), `queue` (it "
        "starts when all before it have ended), `interrupt` (they are cancelled first, their text stays).",
        "on_crash": "When the server is lost: `fail`, or `restart` by any other one, with a second attempt. "
        "Absent: `restart` for workflows and with tools, else `fail`.",
        "ephemeral": "Only where the generation has a conversation of its own: that is erased some time after the "
        "end.",
        "budget": "How much it may use. At a bound it waits (`waiting_for: budget`) until somebody raises that.",
        "webhook": "Who is told of the end, and of its waits where `events` says so: a URL. Signed as by Standard "
        "Webhooks.",
    },
    "MessageAsk": {
        "content": "A text, or 1 to 100 parts. Images and files belong to messages of the role `user`.",
        "deliver": "`now`: it is put into the answer that is running, if one is. Only for the role `user`.",
    },
    "WebhookAsk": {
        "events": "Of what: `ended`, and `waiting`, whenever it waits for an approval, for a client's tool "
        "(`input`) or for a larger budget.",
    },
    "ImagePartAsk": {"file": "The `digest` of an image that was uploaded (`POST /v1/files`)."},
    "FilePartAsk": {
        "file": "The `digest` of a file that was uploaded (`POST /v1/files`).",
        "name": "A name to show, and for the model.",
    },
    "BudgetAsk": {
        "tokens": "Of input and output, of all its requests to models.",
        "cost": "In the currency of the server's prices; only for models that have one.",
    },
    "ClientToolAsk": {
        "name": "By which the model calls it.",
        "description": "What it is for, as the model is told.",
        "parameters": "A JSON Schema of its arguments, an object.",
        "approval": "Whether a person is asked before each call.",
        "expires": "Seconds for the decision; then it counts as rejected.",
        "approvers": "How many different people have to approve each call; one who rejects it is enough.",
        "another_person": "Whether who asks for the generation may not approve its calls.",
    },
    "TicketAsk": {
        "transport": "Which stream of it: its events, or the WebSocket of a conversation.",
        "scopes": "What the reader may do, of what you may. Absent: `read` for `sse`, all of them for "
        "`websocket`.",
    },
    "SteerAsk": {"value": "What the parameter's declared type takes."},
    "DecisionAsk": {
        "proposed_digest": "The `arguments_digest` of what was seen.",
        "arguments": "With `modified`, and only then: what runs instead.",
        "reason": "For the model and for people.",
    },
    "ToolResultAsk": {"result": "Any JSON; the model is given it.", "error": "Why it came to nothing."},
}
_URL: Schema = {"type": "string", "minLength": 1, "maxLength": 2_000}
_SHARED_FIELDS = ("parameters", "if_running", "on_crash", "ephemeral", "budget", "webhook")


def request_schemas() -> dict[str, Schema]:
    """The schemas of request bodies, by their names in the document."""
    _, made = models_json_schema(
        [(model, "validation") for model in COMPONENT_NAMES], ref_template=PREFIX + "{model}"
    )
    public = {model.__name__: name for model, name in COMPONENT_NAMES.items()}
    schemas: dict[str, Schema] = {
        public.get(name, name): {**_with_public_refs(_untitled(schema), public), "title": public.get(name, name)}
        for name, schema in made["$defs"].items()
    }
    for name, fields in _FIELD_DESCRIPTIONS.items():
        for field, said in fields.items():
            schemas[name]["properties"][field]["description"] = said
    schemas["GenerationAsk"] = _generation(schemas["GenerationAsk"], schemas.pop("InputAsk"))
    schemas["ToolResultAsk"] = _tool_result(schemas["ToolResultAsk"])
    return schemas


def _with_public_refs(schema: Any, public: Mapping[str, str]) -> Any:
    """The schema with its references to models by their public names."""
    if isinstance(schema, list):
        return [_with_public_refs(one, public) for one in schema]
    if not isinstance(schema, dict):
        return schema
    name = str(schema.get("$ref", "")).removeprefix(PREFIX)
    found = {key: _with_public_refs(value, public) for key, value in schema.items()}
    return {**found, "$ref": PREFIX + public[name]} if name in public else found


def _untitled(schema: Schema) -> Schema:
    """Without pydantic's titles, which repeat the names."""
    for field in schema.get("properties", {}).values():
        field.pop("title", None)
    return schema


def _generation(ask: Schema, given: Schema) -> Schema:
    fields: dict[str, Schema] = ask["properties"]
    fields["webhook"]["anyOf"].insert(0, _URL)
    words = {"description": "A text, posted as a user's message, or a list of messages to post."}
    alike = {name: fields[name] for name in _SHARED_FIELDS}
    of_model = {"model": _required(fields["model"]), "input": {**given["properties"]["input"], **words}}
    of_workflow = {
        "workflow": _required(fields["workflow"]),
        "input": {"description": "What the workflow declares."},
    }
    return {
        "title": "GenerationAsk",
        "description": ask["description"],
        "oneOf": [
            _object("Of a model.", {**of_model, "tools": fields["tools"], **alike}, "model"),
            _object("Of a workflow.", {**of_workflow, **alike}, "workflow"),
        ],
    }


def _tool_result(ask: Schema) -> Schema:
    result, error = ask["properties"]["result"], ask["properties"]["error"]
    return {
        "title": "ToolResultAsk",
        "description": ask["description"],
        "oneOf": [
            _object("It worked.", {"result": result}, "result"),
            _object("It did not.", {"error": {**_required(error), "description": error["description"]}}, "error"),
        ],
    }


def _required(field: Schema) -> Schema:
    """The schema of an optional field where it is required."""
    (there,) = (branch for branch in field["anyOf"] if branch.get("type") != "null")
    return {**there, "description": field["description"]}


def _object(said: str, fields: Mapping[str, Schema], required: str) -> Schema:
    return {
        "type": "object",
        "description": said,
        "additionalProperties": False,
        "properties": dict(fields),
        "required": [required],
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
        _frame("event", "One event of the log.", event={"$ref": PREFIX + "Event"}),
        _frame(
            "presence",
            "Who is connected to the conversation, by this server: after `hello`, and whenever somebody comes or "
            "goes; who reads slowly gets the newest only. Never in the log.",
            you={"type": "string", "description": "The `connection` that this goes to."},
            count={"type": "integer", "minimum": 1, "description": "How many there are."},
            people={
                "type": "array",
                "maxItems": MAX_LISTED,
                "items": {"$ref": PREFIX + "Person"},
                "description": f"Who came first is first; at most {MAX_LISTED} are listed.",
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
            code={"enum": sorted(problem_codes.CODES)},
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
        *_commands("budget", asked["BudgetAsk"], generation=generation),
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
    """The schemas of a command: one for each alternative of the POST's body."""
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


RESPONSES = (
    snapshot_json.GenerationSnapshot,
    snapshot_json.CancelledGeneration,
    snapshot_json.ConversationSnapshot,
    snapshot_json.ConversationList,
    snapshot_json.Health,
    event_schemas.PostedMessage,
    operator_endpoints.DiagnosticChunk,
    session_endpoints.SessionShown,
    ticket_endpoints.TicketShown,
    file_endpoints.FileShown,
    WebhookSnapshot,
    WebhookPublicKeys,
    Person,
)
TIME_FIELDS = ("at", "created_at", "started_at", "finished_at", "expires_at", "since")


def ref(name: str) -> Schema:
    """A reference to a schema by name."""
    return {"$ref": PREFIX + name}


def schemas() -> dict[str, Schema]:
    """Every schema of the document, by name."""
    (*_, union), found = msgspec.json.schema_components(
        [*RESPONSES, event_schemas.AnyEvent], ref_template=PREFIX + "{name}"
    )
    asked = request_schemas()
    found = {name: _with_time_formats(schema) for name, schema in found.items()}
    named = {
        "Event": {
            "title": "Event",
            "description": "One fact of a conversation, the same object on every transport. Ignore types and "
            "fields that you do not know: there will be more.",
            "oneOf": union["anyOf"],
            "discriminator": union["discriminator"],
        },
        "EventPage": PAGE,
        "Problem": problem_codes.SCHEMA,
        "ServerFrame": SERVER_FRAME,
        "ClientCommand": client_command(asked),
        **webhook_schemas.WEBHOOK_SCHEMAS,
    }
    return dict(sorted({**found, **asked, **named}.items()))


def _with_time_formats(schema: Schema) -> Schema:
    """The schema with `format: date-time` for its times, which msgspec leaves out."""
    for name, field in schema.get("properties", {}).items():
        if name in TIME_FIELDS:
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
