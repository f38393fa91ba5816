"""The pydantic models of request bodies: every field of every POST, with its bounds. Unknown fields are refused.

Owns what one body may hold by itself. What depends on the state of a conversation, or on what the server has
loaded, is decided further in. The docstrings of models and the bounds are part of `/openapi.json`, where the
models have the names of `component_schemas.COMPONENT_NAMES`.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from server.providers import TOOL_NAME

Title = Annotated[str, Field(max_length=500)]
Text = Annotated[str, Field(max_length=1_000_000)]
Reason = Annotated[str, Field(max_length=2_000)]
Role = Literal["user", "assistant", "system", "tool"]


class RequestModel(BaseModel):
    """The base of all: strict types, no unknown fields, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class CreateConversation(RequestModel):
    """`POST /v1/conversations`."""

    title: Title | None = None
    metadata: dict[str, Any] | None = None


class CreateMessage(RequestModel):
    """`POST /v1/conversations/{id}/messages`."""

    role: Role
    content: Text
    author: Annotated[str, Field(min_length=1, max_length=200)] | None = None


class InputMessage(RequestModel):
    """One message of a list of input."""

    role: Role
    content: Text


def _branch(given: Any) -> str | None:
    if isinstance(given, str):
        return TEXT
    return MESSAGES if isinstance(given, list) else None


TEXT, MESSAGES = "<text>", "<messages>"
NAME, DECLARATION = "<name>", "<declaration>"
BRANCHES = frozenset({TEXT, MESSAGES, NAME, DECLARATION})
"""Tags that pydantic puts into the location of an error; they are no part of the field's name."""

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


class WebhookTarget(RequestModel):
    """Who is told of the end. A text alone is its `url`."""

    url: Annotated[str, Field(min_length=1, max_length=2_000)]


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
    webhook: Annotated[WebhookTarget | None, BeforeValidator(_as_object)] = None


class ModelInput(RequestModel):
    """What a model is given: the `input` of a `GenerateRequest` that names one."""

    input: Input | None = None


class CancelRequest(RequestModel):
    """`POST /v1/generations/{id}/cancel`."""

    reason: Reason | None = None


class SteerRequest(RequestModel):
    """`POST /v1/generations/{id}/steer`."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    value: Any


class ToolDecision(RequestModel):
    """`POST /v1/generations/{id}/decisions`. `proposed_digest`: the `arguments_digest` that was seen."""

    call: Annotated[str, Field(min_length=1, max_length=100)]
    decision: Literal["approved", "rejected", "modified"]
    proposed_digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
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
