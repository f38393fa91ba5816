"""What a conversation and its generations look like at a position: the values that the fold makes.

Frozen; JSON in and out by msgspec, for stored snapshots and for clients. Whoever changes a field here changes
the stored form: then `FORM` gets the next number, and old snapshots are not read any more.
"""

from datetime import datetime
from typing import Any, Final

import msgspec

from server.generation.states import ENDED, CallStatus, Status

FORM: Final = "conversation.2"
"""The name under which folds are stored."""
QUESTION: Final = "approve "
"""How the step of a workflow's own question begins."""
MOST_ATTEMPTS: Final = 5
"""A run that takes its process down with it is not to take down every one."""


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """Somebody spoke."""

    id: str
    role: str
    content: str
    position: int
    at: datetime
    by: str
    author: str | None = None


class ToolCall(msgspec.Struct, frozen=True):
    """A call that a run wants made. `arguments` are those that run: as proposed, until a decision changed them.

    `proposed_digest` is that of the proposal: what a decision has to name. `position` is that of its last event.
    """

    call: str
    name: str
    status: CallStatus
    needs_approval: bool
    client: bool
    arguments: dict[str, Any]
    arguments_digest: str
    proposed_digest: str
    position: int
    step: str
    expires_at: datetime | None = None
    decision: str | None = None
    reason: str | None = None
    by: str | None = None
    result: Any = None
    error: dict[str, Any] | None = None

    @property
    def is_question(self) -> bool:
        """Whether a workflow asks people by it (`run.approve`): nothing is run then."""
        return self.step.startswith(QUESTION)

    @property
    def waits(self) -> bool:
        """Whether nothing happens to it before somebody decides."""
        return self.needs_approval and self.status is CallStatus.PROPOSED


class Progress(msgspec.Struct, frozen=True):
    """So much is done, as it was told at `at`; `pace` is how many seconds the news before it were away."""

    done: float
    total: float
    unit: str
    stage: str | None
    at: datetime
    pace: float | None = None


class Generation(msgspec.Struct, frozen=True):
    """One run of a model or a workflow. `position` is that of its own last event; `text` all its tokens so far."""

    id: str
    conversation: str
    status: Status
    model: str | None
    parameters: dict[str, Any]
    requested_position: int
    position: int
    created_at: datetime
    workflow: str | None = None
    input: Any = None
    tools: tuple[str | dict[str, Any], ...] = ()
    on_crash: str = "fail"
    if_running: str = "reject"
    ephemeral: bool = False
    text: str = ""
    tokens: int = 0
    progress: Progress | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    steering: dict[str, Any] = {}
    result: Any = None
    attempt: int = 0
    worker: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None
    ttft_ms: int | None = None
    error: dict[str, Any] | None = None
    retryable: bool | None = None
    reason: str | None = None

    @property
    def ended(self) -> bool:
        """Whether its terminal event has happened."""
        return self.status in ENDED

    def may_follow(self, attempt: int) -> bool:
        """Whether another attempt may follow this one; 0: none has begun, and its place in the queue is kept."""
        queued = attempt == 0 and self.if_running == "queue"
        return queued or (self.on_crash == "restart" and attempt < MOST_ATTEMPTS)

    def call(self, name: str) -> ToolCall | None:
        """One of its calls by id."""
        return next((found for found in self.tool_calls if found.call == name), None)


class Conversation(msgspec.Struct, frozen=True):
    """The fold of all events of one stream up to `position`."""

    id: str
    position: int = 0
    title: str | None = None
    metadata: dict[str, Any] | None = None
    created_at: datetime | None = None
    messages: tuple[Message, ...] = ()
    generations: tuple[Generation, ...] = ()

    def generation(self, name: str) -> Generation | None:
        """One of its generations by id."""
        return next((found for found in reversed(self.generations) if found.id == name), None)

    @property
    def open(self) -> tuple[Generation, ...]:
        """The generations that have not ended, in the order in which they were asked for."""
        return tuple(found for found in self.generations if not found.ended)
