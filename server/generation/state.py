"""What a conversation and its generations look like at a position: the values that the fold makes.

Frozen; JSON in and out by msgspec, for stored snapshots and for clients. Whoever changes a field here changes
the stored form: then `FORM` gets the next number, and old snapshots are not read any more.
"""

from datetime import datetime
from typing import Any, Final

import msgspec

from server.generation.states import ENDED, Status

FORM: Final = "conversation.1"
"""The name under which folds are stored."""


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """Somebody spoke."""

    id: str
    role: str
    content: str
    position: int
    at: datetime
    by: str
    author: str | None = None


class Generation(msgspec.Struct, frozen=True):
    """One run of a model. `position` is that of its own last event; `text` all its tokens so far."""

    id: str
    conversation: str
    status: Status
    model: str
    parameters: dict[str, Any]
    requested_position: int
    position: int
    created_at: datetime
    text: str = ""
    tokens: int = 0
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
    def running(self) -> Generation | None:
        """The generation that has not ended, if there is one."""
        return next((found for found in reversed(self.generations) if not found.ended), None)
