"""The stored form of a conversation's state: JSON in a snapshot, from which a fold goes on.

Whoever changes a field of `conversation_state` changes this form. Then `FORM` gets the next number, and its old
name goes into `OLDER_FORMS` if states of that form can still be read (a field they lack has its default). Else an
old snapshot would be read as a new one, and be wrong without an error. Pure.
"""

from datetime import datetime
from typing import Any, Final

import msgspec

from server.conversations.conversation_state import NO_TEXT, Conversation, Generation, GrowingText, Message
from server.event_types import DEFAULT_TENANT

FORM: Final = "conversation.5"
"""The name under which this version stores states."""
OLDER_FORMS: Final = ("conversation.4", "conversation.3", "conversation.2")
"""Names of older forms that this version can read, the newest first.

The log's events are better than an older state. While both versions run, the older one folds over event types that
it does not know, so its stored state may lack what those events said. A state of an older form is read only where
the events before it are no longer kept.
"""


class _StoredState(msgspec.Struct):
    id: str
    position: int
    title: str | None
    metadata: dict[str, Any] | None
    created_at: datetime | None
    messages: tuple[Message, ...]
    generations: tuple[Generation, ...]
    tenant: str = DEFAULT_TENANT


def to_stored(state: Conversation) -> str:
    """The state as JSON, for a snapshot of the form `FORM`."""
    stored = _StoredState(
        state.id,
        state.position,
        state.title,
        state.metadata,
        state.created_at,
        state.messages,
        state.generations,
        state.tenant,
    )
    return _encode(stored).decode()


def from_stored(data: str | bytes) -> Conversation:
    """The state that was stored. Raises `msgspec.ValidationError` for anything else."""
    stored = _decode(data)
    return Conversation.from_parts(
        stored.id,
        stored.position,
        stored.title,
        stored.metadata,
        stored.created_at,
        stored.messages,
        stored.generations,
        stored.tenant,
    )


def _text_to_json(value: Any) -> str:
    if isinstance(value, GrowingText):
        return str(value)
    raise NotImplementedError(type(value).__name__)


def _text_from_json(kind: type, value: Any) -> Any:
    if kind is GrowingText:
        return GrowingText(value) if value else NO_TEXT
    raise NotImplementedError(kind.__name__)


_encode = msgspec.json.Encoder(enc_hook=_text_to_json).encode
_decode = msgspec.json.Decoder(_StoredState, dec_hook=_text_from_json).decode
