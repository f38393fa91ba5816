"""How one operation is told, and how that becomes a part of the OpenAPI document. It knows none in particular."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from server.web.openapi import problems
from server.web.openapi.shapes import ref

JSON, SSE, NDJSON = "application/json", "text/event-stream", "application/x-ndjson"
_LINES = "A JSON object a line; an empty line at once and now and then is a sign of life."
_FRAMES = (
    "A stream of such frames. It begins with `retry:` and a frame of an id alone; a comment now and then is a "
    "sign of life; what ends by itself ends with `data: [DONE]`, which has no id."
)


@dataclass(frozen=True, slots=True)
class Answer:
    """A good answer: what it means, its body by media type (the name of its schema), its headers, its links."""

    said: str
    content: Mapping[str, str] = field(default_factory=dict)
    headers: tuple[str, ...] = ()
    links: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """As a response object."""
        told: dict[str, Any] = {
            "description": self.said,
            "headers": {
                name: {"$ref": f"#/components/headers/{name}"} for name in (*self.headers, "X-Request-ID")
            },
        }
        if self.content:
            told["content"] = {media: _media(media, name) for media, name in self.content.items()}
        if self.links:
            told["links"] = {
                f"{target}_{parameter}": {"operationId": target, "parameters": {parameter: where}}
                for target, given in self.links.items()
                for parameter, where in given.items()
            }
        return told


def _media(media: str, name: str) -> dict[str, Any]:
    if media == SSE:
        return {"schema": _frame(name), "x-item-schema": ref(name)}
    if media == NDJSON:
        return {"schema": {"type": "string", "description": _LINES}, "x-item-schema": ref(name)}
    if media == JSON:
        return {"schema": ref(name) if name else {"type": "object"}}
    return {"schema": {"type": "string", "description": name}}


def _frame(name: str) -> dict[str, Any]:
    """One frame of a stream of events, as OpenAPI describes server-sent events: its fields are texts."""
    content = {"type": "string", "contentMediaType": JSON, "contentSchema": ref(name)}
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


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one address. `examples` are shell commands under a label, `$U` being the server's address."""

    method: str
    path: str
    id: str
    tag: str
    summary: str
    said: str
    answers: Mapping[int, Answer]
    codes: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    body: str | None = None
    body_required: bool = False
    body_example: Mapping[str, Any] | None = None
    examples: tuple[tuple[str, str], ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """As an operation object."""
        told: dict[str, Any] = {
            "operationId": self.id,
            "tags": [self.tag],
            "summary": self.summary,
            "description": self.said,
        }
        if self.parameters:
            told["parameters"] = [{"$ref": f"#/components/parameters/{name}"} for name in self.parameters]
        if self.body is not None:
            media: dict[str, Any] = {"schema": ref(self.body)}
            if self.body_example is not None:
                media["example"] = self.body_example
            told["requestBody"] = {"required": self.body_required, "content": {JSON: media}}
        told["responses"] = {
            **{str(status): answer.document() for status, answer in self.answers.items()},
            **problems.responses(self.codes),
        }
        told["x-codeSamples"] = [
            {"lang": "Shell", "label": label, "source": source} for label, source in self.examples
        ]
        return {**told, **self.more}
