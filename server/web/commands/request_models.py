"""The bodies of requests: the pydantic model of each, and the way from its bytes to a checked model.

The models have every field of every POST, with its bounds. Unknown fields are refused. They say what one body may
hold by itself. What depends on the state of a conversation, or on what the server has loaded, is decided further
in. The docstrings of models and the bounds are part of `/openapi.json`, where the models have the names of
`component_schemas.COMPONENT_NAMES`.

Parsing is the same for POST and for WebSocket commands. Bad JSON is refused with 400. JSON of the wrong shape, or
with text that Postgres cannot store (U+0000, unpaired surrogates), is refused with 422, which names the field.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from server.message_parts import MAX_PARTS, Content, FilePart, ImagePart, Part, TextPart
from server.problem import Problem
from server.providers import TOOL_NAME
from server.workflows.tools import MAX_APPROVERS

Title = Annotated[str, Field(max_length=500)]
MAX_TEXT = 1_000_000
"""Characters of a message, of all its texts together."""
Text = Annotated[str, Field(max_length=MAX_TEXT)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Reason = Annotated[str, Field(max_length=2_000)]
Role = Literal["user", "assistant", "system", "tool"]
Told = Literal["ended", "waiting"]
ScopeName = Literal["read", "write", "decide", "audit", "admin", "roles"]


class RequestModel(BaseModel):
    """The base of all: strict types, no unknown fields, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class CreateConversation(RequestModel):
    """`POST /v1/conversations`."""

    title: Title | None = None
    metadata: dict[str, Any] | None = None


TEXT, MESSAGES, PARTS = "<text>", "<messages>", "<parts>"
NAME, DECLARATION = "<name>", "<declaration>"
TEXT_PART, IMAGE_PART, FILE_PART = "<text part>", "<image part>", "<file part>"
BRANCHES = frozenset({TEXT, MESSAGES, PARTS, NAME, DECLARATION, TEXT_PART, IMAGE_PART, FILE_PART})
"""Tags that pydantic puts into the location of an error; they are no part of the field's name."""


class AskedText(RequestModel):
    """A text, as part of a message."""

    type: Literal["text"]
    text: Text


class AskedImage(RequestModel):
    """An image that was uploaded, as part of a message: `file` is its `digest`."""

    type: Literal["image"]
    file: Digest


class AskedFile(RequestModel):
    """A file that was uploaded, as part of a message: `file` is its `digest`, `name` one to show."""

    type: Literal["file"]
    file: Digest
    name: Annotated[str, Field(min_length=1, max_length=255)] | None = None


def _part_branch(given: Any) -> str | None:
    kind = given.get("type") if isinstance(given, dict) else getattr(given, "type", None)
    tags = {"text": TEXT_PART, "image": IMAGE_PART, "file": FILE_PART}
    return tags.get(kind) if isinstance(kind, str) else None


AskedPart = Annotated[
    Annotated[AskedText, Tag(TEXT_PART)]
    | Annotated[AskedImage, Tag(IMAGE_PART)]
    | Annotated[AskedFile, Tag(FILE_PART)],
    Discriminator(
        _part_branch,
        custom_error_type="part",
        custom_error_message="it is an object whose type is text, image or file",
    ),
]


def _content_branch(given: Any) -> str | None:
    if isinstance(given, str):
        return TEXT
    return PARTS if isinstance(given, list) else None


AskedParts = Annotated[list[AskedPart], Field(min_length=1, max_length=MAX_PARTS)]
AskedContent = Annotated[
    Annotated[Text, Tag(TEXT)] | Annotated[AskedParts, Tag(PARTS)],
    Discriminator(
        _content_branch, custom_error_type="content", custom_error_message="it is a string or a list of parts"
    ),
]


class CreateMessage(RequestModel):
    """`POST /v1/conversations/{id}/messages`."""

    role: Role
    content: AskedContent
    author: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    deliver: Literal["now"] | None = None

    @field_validator("deliver")
    @classmethod
    def _delivers_what_people_say(cls, given: str | None, checked: ValidationInfo) -> str | None:
        # Providers do not take a system's message in the middle of an answer, and would go on with an assistant's.
        if given is not None and checked.data.get("role", "user") != "user":
            raise ValueError("only a message of the role user can be put into a running answer")
        return given


class InputMessage(RequestModel):
    """One message of a list of input."""

    role: Role
    content: AskedContent


def message_content(asked: CreateMessage | InputMessage, field: str) -> Content:
    """The content of a message. Its files lack their types and sizes, which are looked up later.

    `field`: the name of the content's field in the request. Raises `Problem` 422.
    """
    if isinstance(asked.content, str):
        return asked.content
    parts = tuple(map(_part, asked.content))
    for number, part in enumerate(parts):
        if isinstance(part, FilePart) and asked.role != "user":
            raise _refused(f"{field}.{number}", "images and files belong to messages of the role user")
    if sum(len(part.text) for part in parts if isinstance(part, TextPart)) > MAX_TEXT:
        raise _refused(field, f"its texts together have more than {MAX_TEXT:,} characters")
    return parts


def _part(asked: AskedText | AskedImage | AskedFile) -> Part:
    if isinstance(asked, AskedText):
        return TextPart(asked.text)
    if isinstance(asked, AskedImage):
        return ImagePart(asked.file)
    return FilePart(asked.file, name=asked.name)


def _refused(field: str, why: str) -> Problem:
    return Problem(422, "invalid_request", f"{field}: {why}.", extra={"field": field})


def _branch(given: Any) -> str | None:
    if isinstance(given, str):
        return TEXT
    return MESSAGES if isinstance(given, list) else None


Messages = Annotated[list[InputMessage], Field(min_length=1, max_length=1_000)]
Input = Annotated[
    Annotated[Text, Tag(TEXT)] | Annotated[Messages, Tag(MESSAGES)],
    Discriminator(_branch, custom_error_type="input", custom_error_message="it is a string or a list of messages"),
]


class ClientTool(RequestModel):
    """A tool that a client runs, declared with the request."""

    name: Annotated[str, Field(pattern=TOOL_NAME)]
    description: Annotated[str, Field(min_length=1, max_length=10_000)]
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object"})
    approval: Literal["always", "never"] = "always"
    expires: Annotated[float, Field(gt=0, le=30 * 86_400)] = 3600.0
    approvers: Annotated[int, Field(ge=1, le=MAX_APPROVERS)] = 1
    another_person: bool = False

    def declaration(self) -> dict[str, Any]:
        """The tool as the log holds it: a rule of who has to approve is left out where it is the usual one."""
        usual = {name for name in ("approvers", "another_person") if not self.has_rule(name)}
        return self.model_dump(exclude=usual)

    def has_rule(self, name: str) -> bool:
        """Whether the field of this name says something else than its default."""
        return bool(getattr(self, name) != type(self).model_fields[name].default)

    @field_validator("parameters")
    @classmethod
    def _is_of_an_object(cls, given: dict[str, Any]) -> dict[str, Any]:
        # Refuse it before the 202: a provider would refuse it only after.
        if given.setdefault("type", "object") != "object":
            raise ValueError("it is a JSON Schema of an object: type has to be object")
        return given


def _tool_branch(given: Any) -> str | None:
    if isinstance(given, str):
        return NAME
    return DECLARATION if isinstance(given, dict | ClientTool) else None


Tool = Annotated[
    Annotated[str, Field(min_length=1, max_length=100), Tag(NAME)] | Annotated[ClientTool, Tag(DECLARATION)],
    Discriminator(
        _tool_branch,
        custom_error_type="tool",
        custom_error_message="it is a tool's name, or the declaration of one that the client runs",
    ),
]


def _as_object(given: Any) -> Any:
    return {"url": given} if isinstance(given, str) else given


def _end_alone() -> list[Told]:
    return ["ended"]


def _each_once(names: list[Any]) -> list[Any]:
    if len(set(names)) < len(names):
        raise ValueError("each of them once")
    return names


class WebhookTarget(RequestModel):
    """Who is told, of the end or of what `events` names. A text alone is its `url`."""

    url: Annotated[str, Field(min_length=1, max_length=2_000)]
    events: Annotated[
        list[Told],
        Field(min_length=1, max_length=2, json_schema_extra={"uniqueItems": True}),
        AfterValidator(_each_once),
    ] = Field(default_factory=_end_alone)


class BudgetBounds(RequestModel):
    """How much a generation may use, all together. One of both, or both."""

    tokens: Annotated[int, Field(ge=1, le=10**12)] | None = None
    cost: Annotated[float, Field(gt=0, le=10**9)] | None = None

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        if self.tokens is None and self.cost is None:
            raise ValueError("tokens or cost: one of both, or both")
        return self


class GenerateRequest(RequestModel):
    """`POST …/generations`, for a model or for a workflow."""

    model: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    workflow: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    input: Any = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    tools: Annotated[list[Tool], Field(max_length=128)] = Field(default_factory=list)
    if_running: Literal["reject", "queue", "interrupt"] = "reject"
    on_crash: Literal["fail", "restart"] | None = None
    ephemeral: bool = False
    budget: BudgetBounds | None = None
    webhook: Annotated[WebhookTarget | None, BeforeValidator(_as_object)] = None


class ModelInput(RequestModel):
    """What a model is given: the `input` of a `GenerateRequest` that names one."""

    input: Input | None = None


class CancelRequest(RequestModel):
    """`POST /v1/generations/{id}/cancel`."""

    reason: Reason | None = None


class CreateTicket(RequestModel):
    """`POST …/tickets`."""

    transport: Literal["sse", "websocket"] = "sse"
    scopes: Annotated[list[ScopeName], Field(min_length=1, max_length=6)] | None = None


class SteerRequest(RequestModel):
    """`POST /v1/generations/{id}/steer`."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    value: Any


class ToolDecision(RequestModel):
    """`POST /v1/generations/{id}/decisions`. `proposed_digest`: the `arguments_digest` that was seen."""

    call: Annotated[str, Field(min_length=1, max_length=100)]
    decision: Literal["approved", "rejected", "modified"]
    proposed_digest: Digest
    arguments: dict[str, Any] | None = None
    reason: Reason | None = None


class ToolFailure(RequestModel):
    """Why a tool came to nothing."""

    code: Annotated[str, Field(pattern="^[a-z][a-z0-9_]{0,99}$")]
    message: Annotated[str, Field(max_length=10_000)]


class ToolResult(RequestModel):
    """`POST /v1/generations/{id}/tools/{call}/result`: one of both."""

    result: Any = None
    error: ToolFailure | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.model_fields_set != ({"result"} if self.error is None else {"error"}):
            raise ValueError("result or error: one of both")
        return self


M = TypeVar("M", bound=BaseModel)

MEDIA_TYPE = "application/json"
MAX_DEPTH = 64
"""How many levels of objects and lists a body may have."""

_UNCLEAN = re.compile("[\x00\ud800-\udfff]")


def read_body(headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """A request's JSON object; an absent body is an empty object. Names of `headers` are in lower case.

    Raises `Problem` 400, 415, 422.
    """
    if not body:
        return {}
    check_media_type(headers)
    return parse(body)


def check_media_type(headers: Mapping[str, str]) -> None:
    """Raises `Problem` 415 for a body that is not JSON, or is compressed. Names of `headers` are in lower case."""
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise Problem(
            415, "unsupported_media_type", f"A body has to come as it is, not in the coding {coding[:100]!a}."
        )
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != MEDIA_TYPE:
        raise Problem(
            415,
            "unsupported_media_type",
            f"A body has to be application/json, not {kind[:100] or 'of no type'!a}.",
        )


def parse(text: bytes | str) -> dict[str, Any]:
    """One JSON object. Raises `Problem` 400 `invalid_json`, 422 `invalid_request` or `invalid_text`."""
    value = decode(text)
    check_clean(value)
    return value


def decode(text: bytes | str) -> dict[str, Any]:
    """One JSON object, without the check of its texts and numbers. Raises `Problem` 400, 422."""
    try:
        # RFC 8259 section 8.1: UTF-8 and nothing else; `json.loads` would guess the encoding of bytes. Surrogates
        # (CESU-8) pass here, so that `check_clean` can refuse them with a message that names them.
        decoded = text.decode("utf-8", "surrogatepass") if isinstance(text, bytes) else text
        # A byte order mark may be ignored, says the same section; some clients on Windows send one.
        value = json.loads(decoded.removeprefix("\ufeff"), parse_constant=_refuse_constant, parse_int=_parse_int)
    except UnicodeDecodeError:
        raise Problem(400, "invalid_json", "The JSON is not valid UTF-8.") from None
    except ValueError as error:
        raise Problem(400, "invalid_json", f"This is not JSON: {error}.") from None
    except RecursionError:
        raise _too_deep() from None
    if not isinstance(value, dict):
        raise Problem(422, "invalid_request", "The JSON has to be an object, {…}.")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def check_clean(value: dict[str, Any]) -> None:
    """Raises `Problem` 422 for a text or number that cannot be stored, and for a value that is nested too deep."""
    todo: list[tuple[str, Any, int]] = [("", value, 1)]
    while todo:
        path, item, depth = todo.pop()
        if depth > MAX_DEPTH:
            raise _too_deep()
        if isinstance(item, dict):
            for name, inner in item.items():
                _check_text(path, name)
                todo.append((f"{path}.{name}" if path else name, inner, depth + 1))
        elif isinstance(item, list):
            todo += ((f"{path}.{n}", inner, depth + 1) for n, inner in enumerate(item))
        elif isinstance(item, str):
            _check_text(path, item)
        elif not _can_be_stored(item):
            raise Problem(
                422, "invalid_request", f"{path}: numbers have to fit in 64 bits.", extra={"field": path}
            )


def _can_be_stored(item: object) -> bool:
    if isinstance(item, float):
        return math.isfinite(item)
    return not isinstance(item, int) or -(2**63) <= item < 2**63


def _parse_int(digits: str) -> float:
    # `int` refuses thousands of digits with a message about Python's settings. Infinity is refused as too large.
    return int(digits) if len(digits) <= 20 else math.inf


def _check_text(path: str, text: str) -> None:
    found = _UNCLEAN.search(text)
    if found is not None:
        what = "U+0000" if found[0] == "\0" else f"the unpaired surrogate U+{ord(found[0]):04X}"
        field = path or "(a name)"
        raise Problem(
            422,
            "invalid_text",
            f"{field}: the text holds {what}, which cannot be stored. Leave it out.",
            extra={"field": field},
        )


def _too_deep() -> Problem:
    return Problem(
        422, "invalid_request", f"The JSON is nested deeper than {MAX_DEPTH} levels.", extra={"limit": MAX_DEPTH}
    )


def check(model: type[M], value: dict[str, Any]) -> M:
    """The value as `model`. Raises `Problem` 422 `invalid_request`, which names each field that is wrong."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        errors = [
            {"field": _field_name(one["loc"]), "message": one["msg"].removeprefix("Value error, ")}
            for one in error.errors(include_url=False, include_input=False)
        ]
        detail = "; ".join(f"{one['field'] or 'body'}: {one['message']}" for one in errors[:5])
        raise Problem(422, "invalid_request", detail + ".", extra={"errors": errors[:20]}) from None


def _field_name(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location if part not in BRANCHES)
