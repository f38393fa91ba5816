"""A trio-native event store on Postgres: streams of immutable events with gapless positions.

It knows nothing of HTTP, of language models or of tokens; somebody could take it alone. Start at `EventStore`
(what a program calls), then `Log` (what a backend must do), then `eventstore.memory` and `eventstore.postgres`.
"""

from eventstore.appending import made
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
from eventstore.figures import Figures
from eventstore.log import Log
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
from eventstore.observing import Observer
from eventstore.options import StoreOptions
from eventstore.store import EventStore
from eventstore.subscription import Subscription

__all__ = [
    "ANY",
    "NO_STREAM",
    "Append",
    "Appended",
    "Erased",
    "Event",
    "EventStore",
    "Fenced",
    "Figures",
    "Head",
    "Key",
    "KeyReused",
    "Log",
    "NewEvent",
    "Observer",
    "OpenWriter",
    "Place",
    "Rewound",
    "Slice",
    "Snapshot",
    "StoreError",
    "StoreOptions",
    "StoreUnavailable",
    "StreamRow",
    "StreamUnknown",
    "Subscription",
    "Trimmed",
    "Writer",
    "WriterState",
    "WrongExpectedPosition",
    "made",
]
