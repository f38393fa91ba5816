"""What a client can ask of a conversation: the commands, as values that were checked already.

Every transport makes these; `decide` turns them into events. `by` is who acts, as the server knows it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


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
    """An answer is wanted, from a model or a workflow. `generation` is the new generation's id.

    `input` are messages to post with it; `value` is what a workflow is given, `steering` what its parameters
    begin with. `tools` are names and declarations. What is None is settled where workflows and tools are known.
    """

    generation: str
    parameters: Mapping[str, Any]
    by: str
    model: str | None = None
    input: tuple[Said, ...] = ()
    workflow: str | None = None
    value: Any = None
    steering: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[str | Mapping[str, Any], ...] = ()
    if_running: Literal["reject", "queue", "interrupt"] = "reject"
    on_crash: Literal["fail", "restart"] | None = None
    ephemeral: bool = False
    webhook: str | None = field(default=None, repr=False)  # it may hold a secret


@dataclass(frozen=True, slots=True)
class CancelGeneration:
    """Nobody wants the answer any more."""

    generation: str
    reason: str | None
    by: str


@dataclass(frozen=True, slots=True)
class SteerGeneration:
    """A parameter shall have another value."""

    generation: str
    name: str
    value: Any
    by: str


@dataclass(frozen=True, slots=True)
class DecideCall:
    """What somebody who saw the arguments of `proposed_digest` wants done. `arguments`: where modified."""

    generation: str
    call: str
    decision: Literal["approved", "rejected", "modified"]
    proposed_digest: str
    arguments: Mapping[str, Any] | None
    reason: str | None
    by: str


@dataclass(frozen=True, slots=True)
class FinishCall:
    """A client ran a tool. `outcome` is `{"result": …}` or `{"error": {"code", "message"}}`."""

    generation: str
    call: str
    outcome: Mapping[str, Any]
    by: str
