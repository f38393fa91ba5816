"""The shapes of request bodies: what may be asked, with every bound. Unknown fields are refused by name."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

Title = Annotated[str, Field(max_length=500)]
Text = Annotated[str, Field(max_length=1_000_000)]
Role = Literal["user", "assistant", "system", "tool"]


class Ask(BaseModel):
    """What all of them share."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ConversationAsk(Ask):
    """`POST /v1/conversations`."""

    title: Title | None = None
    metadata: dict[str, Any] | None = None


class MessageAsk(Ask):
    """`POST /v1/conversations/{id}/messages`."""

    role: Role
    content: Text
    author: Annotated[str, Field(min_length=1, max_length=200)] | None = None


class InputMessage(Ask):
    """One message of a list of input."""

    role: Role
    content: Text


def _branch(given: Any) -> str | None:
    if isinstance(given, str):
        return TEXT
    return MESSAGES if isinstance(given, list) else None


TEXT, MESSAGES = "<text>", "<messages>"
BRANCHES = frozenset({TEXT, MESSAGES})
"""How pydantic names the two kinds of input inside an error's place: no part of any field's name."""

Messages = Annotated[list[InputMessage], Field(min_length=1, max_length=1_000)]
Input = Annotated[
    Annotated[Text, Tag(TEXT)] | Annotated[Messages, Tag(MESSAGES)],
    Discriminator(_branch, custom_error_type="input", custom_error_message="it is a string or a list of messages"),
]


class GenerationAsk(Ask):
    """`POST …/generations`."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    input: Input | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)


class CancelAsk(Ask):
    """`POST /v1/generations/{id}/cancel`."""

    reason: Annotated[str, Field(max_length=2_000)] | None = None
