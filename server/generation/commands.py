"""What a client can ask of a conversation: the commands, as values that were checked already.

Every transport makes these; `decide` turns them into events. `by` is who acts, as the server knows it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class StartConversation:
    """A new conversation."""

    title: str | None
    metadata: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Said:
    """One message of a list of input."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class PostMessage:
    """Somebody speaks. `message` is the new message's id."""

    message: str
    role: str
    content: str
    author: str | None
    by: str


@dataclass(frozen=True, slots=True)
class RequestGeneration:
    """An answer is wanted. `input` are messages to post with it; `generation` is the new generation's id."""

    generation: str
    model: str
    parameters: Mapping[str, Any]
    input: tuple[Said, ...]
    by: str


@dataclass(frozen=True, slots=True)
class CancelGeneration:
    """Nobody wants the answer any more."""

    generation: str
    reason: str | None
    by: str
