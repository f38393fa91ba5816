"""A trio-native event store on Postgres: streams of immutable events with gapless positions.

It knows nothing of HTTP, language models or tokens, and could be used by another program. Start reading at
`EventStore` (what a program calls), then `backend` (what a backend must do), then `memory_backend` and `postgres`.
"""

from eventstore.backend import Backend, committed_events
from eventstore.errors import (
    Erased,
    Fenced,
    KeyReused,
    Rewound,
    StoreError,
    StoreUnavailable,
    StreamUnknown,
    Trimmed,
    WrongExpectedPosition,
)
from eventstore.model import (
    ANY,
    NO_STREAM,
    Append,
    Appended,
    Event,
    Head,
    Key,
    NewEvent,
    OpenWriter,
    Place,
    Slice,
    Snapshot,
    StreamRow,
    Writer,
    WriterState,
)
from eventstore.observer import Observer, StoreStats
from eventstore.store import EventStore, StoreOptions
from eventstore.subscription import RemoteListener, Subscription

__all__ = [
    "ANY",
    "NO_STREAM",
    "Append",
    "Appended",
    "Backend",
    "Erased",
    "Event",
    "EventStore",
    "Fenced",
    "Head",
    "Key",
    "KeyReused",
    "NewEvent",
    "Observer",
    "OpenWriter",
    "Place",
    "RemoteListener",
    "Rewound",
    "Slice",
    "Snapshot",
    "StoreError",
    "StoreOptions",
    "StoreStats",
    "StoreUnavailable",
    "StreamRow",
    "StreamUnknown",
    "Subscription",
    "Trimmed",
    "Writer",
    "WriterState",
    "WrongExpectedPosition",
    "committed_events",
]
