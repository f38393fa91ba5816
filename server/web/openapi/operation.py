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
class Link:
    """What may be asked next, and where in this answer its parameters, and fields of its body, stand."""

    target: str
    parameters: Mapping[str, str]
    body: Mapping[str, str] | None = None

    def document(self) -> dict[str, Any]:
        """As a link object."""
        told: dict[str, Any] = {"operationId": self.target, "parameters": dict(self.parameters)}
        return told if self.body is None else {**told, "requestBody": dict(self.body)}


@dataclass(frozen=True, slots=True)
class Answer:
    """A good answer: what it means, its body by media type (the name of its schema), its headers, its links."""

    said: str
    content: Mapping[str, str] = field(default_factory=dict)
    headers: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()

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
            told["links"] = {link.target: link.document() for link in self.links}
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
    body_examples: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
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
            if self.body_examples:
                media["examples"] = {
                    name: {"summary": name, "value": value} for name, value in self.body_examples.items()
                }
            told["requestBody"] = {"required": self.body_required, "content": {JSON: media}}
        told["responses"] = {
            **{str(status): answer.document() for status, answer in self.answers.items()},
            **problems.responses(self.codes),
        }
        told["x-codeSamples"] = [
            {"lang": "Shell", "label": label, "source": source} for label, source in self.examples
        ]
        return {**told, **self.more}
