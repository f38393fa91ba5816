"""The schemas of request bodies: pydantic's of `asks`, with what it cannot know.

What a field means is said here; which fields go together (a model or a workflow, a result or an error) is checked
by the server in words, and is told here as alternatives.
"""

from collections.abc import Mapping
from typing import Any

from pydantic.json_schema import models_json_schema

from server.web.commands import request_models as asks

Schema = dict[str, Any]

PREFIX = "#/components/schemas/"
REQUESTS = (
    asks.ConversationAsk,
    asks.MessageAsk,
    asks.GenerationAsk,
    asks.InputAsk,
    asks.CancelAsk,
    asks.SteerAsk,
    asks.DecisionAsk,
    asks.ToolResultAsk,
)
_SAID: Mapping[str, Mapping[str, str]] = {
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
        "webhook": "Who is told of the end: a URL, signed as by Standard Webhooks.",
    },
    "ClientToolAsk": {
        "name": "By which the model calls it.",
        "description": "What it is for, as the model is told.",
        "parameters": "A JSON Schema of its arguments, an object.",
        "approval": "Whether a person is asked before each call.",
        "expires": "Seconds for the decision; then it counts as rejected.",
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
_ALIKE = ("parameters", "if_running", "on_crash", "ephemeral", "webhook")


def requests() -> dict[str, Schema]:
    """All of them by name."""
    _, made = models_json_schema([(model, "validation") for model in REQUESTS], ref_template=PREFIX + "{model}")
    asked: dict[str, Schema] = {name: _plain(schema) for name, schema in made["$defs"].items()}
    for name, fields in _SAID.items():
        for field, said in fields.items():
            asked[name]["properties"][field]["description"] = said
    asked["GenerationAsk"] = _generation(asked["GenerationAsk"], asked.pop("InputAsk"))
    asked["ToolResultAsk"] = _tool_result(asked["ToolResultAsk"])
    return asked


def _plain(schema: Schema) -> Schema:
    """Without pydantic's titles, which repeat the names."""
    for field in schema.get("properties", {}).values():
        field.pop("title", None)
    return schema


def _generation(ask: Schema, given: Schema) -> Schema:
    fields: dict[str, Schema] = ask["properties"]
    fields["webhook"]["anyOf"].insert(0, _URL)
    words = {"description": "A text, posted as a user's message, or a list of messages to post."}
    alike = {name: fields[name] for name in _ALIKE}
    of_model = {"model": _named(fields["model"]), "input": {**given["properties"]["input"], **words}}
    of_workflow = {"workflow": _named(fields["workflow"]), "input": {"description": "What the workflow declares."}}
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
            _object("It did not.", {"error": {**_named(error), "description": error["description"]}}, "error"),
        ],
    }


def _named(field: Schema) -> Schema:
    """An optional field as one that has to be there."""
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
